"""From row numbers to what a person can look at: names, captions, thumbnails."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipeline.inspection.records import Group, Member
from pipeline.inspection.small_columns import Scalars
from pipeline.output.pages import form_of, map_thumbnail, photo_jpeg
from schemas.dataset import Dataset
from schemas.errors import Rejected
from schemas.pixels import decode_stored_map, decode_stored_rgb

THUMBNAIL_PX = 144
EXAMPLES = 6
"""Members of a group, or examples of a flag, that get a thumbnail."""

_GROUPS = 12  # of each kind that get thumbnails


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """A row to show, and the condition whose map belongs to it."""

    row: int
    condition: str | None = None


def name_members(dataset: Dataset, scalars: Scalars, rows: Iterable[int]) -> dict[int, Member]:
    """Key, source and split of the rows; one more pass over these two columns, if any is wanted."""
    wanted = sorted(set(rows))
    members: dict[int, Member] = {}
    before = 0
    for batch in dataset.batches(["key", "source"], batch_rows=4096) if wanted else ():
        while len(members) < len(wanted) and wanted[len(members)] < before + batch.num_rows:
            row = wanted[len(members)]
            members[row] = Member(
                row=row,
                split=scalars.split(row),
                key=batch.column("key")[row - before].as_py(),
                source=batch.column("source")[row - before].as_py(),
            )
        before += batch.num_rows
    return members


def show_members(dataset: Dataset, scalars: Scalars, wishes: Iterable[Wish]) -> dict[Wish, Member]:
    """Members with caption and thumbnails; reads their row groups again."""
    shown: dict[Wish, Member] = {}
    for wish in sorted(set(wishes), key=lambda one: (one.row, one.condition or "")):
        columns = ["key", "source", "text", "image"]
        row = dataset.row(wish.row, columns + ([wish.condition] if wish.condition else []))
        shown[wish] = Member(
            row=wish.row,
            split=scalars.split(wish.row),
            key=row["key"],
            source=row["source"],
            text=row["text"],
            thumbnail=_photo(row["image"]),
            map_thumbnail=_map(dataset, row, wish.condition),
        )
    return shown


def group_wishes(kinds: Iterable[Sequence[np.ndarray]]) -> list[Wish]:
    """Rows of the largest groups of each kind that get a thumbnail."""
    return [
        Wish(row=int(row))
        for groups in kinds
        for group in groups[:_GROUPS]
        for row in group[:EXAMPLES]
    ]


def as_groups(
    groups: Sequence[np.ndarray], named: Mapping[int, Member], shown: Mapping[Wish, Member]
) -> list[Group]:
    """Groups of rows as groups of members."""
    return [
        Group(members=[shown.get(Wish(row=int(row)), named[int(row)]) for row in group])
        for group in groups
    ]


def _photo(cell: Mapping[str, bytes] | None) -> bytes | None:
    if cell is None:
        return None
    try:
        return photo_jpeg(decode_stored_rgb(cell["bytes"]), THUMBNAIL_PX)
    except Rejected:
        return None


def _map(dataset: Dataset, row: Mapping[str, dict[str, bytes]], name: str | None) -> bytes | None:
    if name is None or row[name] is None:
        return None
    form = form_of(dataset.manifest.annotators[name])
    try:
        return map_thumbnail(decode_stored_map(row[name]["bytes"]), THUMBNAIL_PX, form)
    except Rejected:
        return None
