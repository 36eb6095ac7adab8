"""The rows that an evaluation judges by: pictures, captions and the maps that were asked for."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from controlnet.evaluator.metrics.base import Seen
from controlnet.trainer.index import Index, scan
from schemas.dataset import Dataset, check_shards, open_dataset
from schemas.errors import ConfigError
from schemas.pixels import RgbU8, decode_stored_map, decode_stored_rgb, of_row

_COLUMNS = ("key", "source", "sha256", "text", "width", "height", "image")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JudgedRow:
    """A row of the data set that has the map; pixels stay encoded until they are asked for."""

    key: str
    source: str  # name of the picture that it was made from
    sha256: str  # of that picture's file
    text: str
    size: tuple[int, int]  # (width, height) in px
    stored_image: bytes
    stored_map: bytes
    stats: Mapping[str, Any]  # of the map

    @property
    def image(self) -> RgbU8:
        """The real picture."""
        with of_row(f"row {self.key}"):
            return decode_stored_rgb(self.stored_image)

    @property
    def wanted(self) -> Seen:
        """The map that a picture is asked to obey."""
        with of_row(f"row {self.key}"):
            return Seen(pixels=decode_stored_map(self.stored_map), stats=self.stats)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JudgedRows:
    """What is judged, ordered by size, then key."""

    rows: tuple[JudgedRow, ...]
    null_maps: int  # rows of the split without the map
    found: int  # rows of the split

    def __len__(self) -> int:
        return len(self.rows)

    def partners(self) -> list[int | None]:
        """For each row another one of its size, whose map it was not asked for; None: none."""
        partners: list[int | None] = [None] * len(self.rows)
        for size in {row.size for row in self.rows}:
            places = [place for place, row in enumerate(self.rows) if row.size == size]
            if len(places) > 1:
                # The next one, the last one's is the first: every map is a partner once.
                for place, other in zip(places, np.roll(places, -1).tolist(), strict=True):
                    partners[place] = other
        return partners


def load_rows(data: str, *, split: str, condition: str, limit: int | None) -> JudgedRows:
    """Read the rows to judge by; pictures and maps of no others.

    Args:
        data: folder or URI of a data set.
        split: its rows.
        condition: rows without this map are left out and counted.
        limit: at most so many, the first by key: which rows these are does not depend on shards.

    Raises:
        ConfigError: no such split or condition, or no row that has the map.
    """
    dataset = open_dataset(data)
    if split not in dataset.manifest.splits:
        there = ", ".join(dataset.manifest.splits)
        raise ConfigError(
            f"{data}: need rows of the split {split!r} that no training saw, found only {there}; "
            "generate with --validation 0.02, or judge by --split train"
        )
    dataset = open_dataset(data, split=split)
    if condition not in dataset.conditions:
        raise ConfigError(
            f"{data}: need the condition {condition!r}, found {', '.join(dataset.conditions)}; "
            f"run `controlset add {data} --conditions {condition}`"
        )
    check_shards(data, dataset.shards)
    index = scan(data, split=split, condition=condition, wants_latents=False)
    chosen = np.argsort(index.keys, kind="stable")[:limit]
    rows = read_rows(dataset, index, chosen)
    found = len(index) + index.null_maps
    if not rows:
        raise ConfigError(
            f"{data}: need rows with {condition}, got null in all {found} rows of the split "
            f"{split!r}; `controlset inspect` says why"
        )
    rows.sort(key=lambda row: (row.size, row.key))
    # The index knows of nulls, not of maps that are a path outside of the shard.
    null_maps = index.null_maps + len(chosen) - len(rows)
    return JudgedRows(rows=tuple(rows), null_maps=null_maps, found=found)


def read_rows(dataset: Dataset, index: Index, chosen: np.ndarray) -> list[JudgedRow]:
    """Some rows of an index, in its order; those whose map lies outside of the shard are left out.

    Args:
        dataset: the split that was scanned.
        index: from `scan`.
        chosen: (M,) integers, places in the index.
    """
    condition = index.condition
    stats = [f"{condition}_{name}" for name in dataset.manifest.annotators[condition]["stats"]]
    return [
        _row(stored, condition)
        for stored in _stored(dataset, index, chosen, [*_COLUMNS, condition, *stats])
        if stored[condition]["bytes"] is not None
    ]


def _stored(
    dataset: Dataset, index: Index, chosen: np.ndarray, columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Some rows of an index as they are stored; no other row group is read."""
    for file in np.unique(index.file_numbers[chosen]):
        here = chosen[index.file_numbers[chosen] == file]
        with dataset.reader(dataset.shards[file]) as reader:
            for group in np.unique(index.row_groups[here]):
                places = np.sort(index.rows_in_group[here[index.row_groups[here] == group]])
                start = 0  # batch by batch: of a row group of large pictures few are in memory
                for batch in reader.batches(columns, batch_rows=100, row_groups=[int(group)]):
                    end = start + batch.num_rows
                    inside = places[(places >= start) & (places < end)] - start
                    yield from batch.take(pa.array(inside)).to_pylist()
                    start = end


def _row(stored: Mapping[str, Any], condition: str) -> JudgedRow:
    prefix = f"{condition}_"
    return JudgedRow(
        key=stored["key"],
        source=stored["source"] or "",
        sha256=stored["sha256"] or "",
        text=stored["text"] or "",
        size=(stored["width"], stored["height"]),
        stored_image=stored["image"]["bytes"],
        stored_map=stored[condition]["bytes"],
        stats={
            name.removeprefix(prefix): value
            for name, value in stored.items()
            if name.startswith(prefix)
        },
    )
