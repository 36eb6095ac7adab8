"""The rows that an evaluation judges by: pictures, captions and the maps that were asked for."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from controlnet.evaluator.metrics.base import Seen
from schemas.dataset import Dataset, check_shards, open_dataset
from schemas.errors import ConfigError
from schemas.pixels import RgbU8, decode_stored_map, decode_stored_rgb, of_row

_COLUMNS = ("key", "text", "width", "height", "image")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JudgedRow:
    """A row of the data set that has the map; pixels stay encoded until they are asked for."""

    key: str
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
                for place, other in zip(places, np.roll(places, -1).tolist(), strict=True):
                    partners[place] = other
        return partners


def load_rows(data: str, *, split: str, condition: str, limit: int | None) -> JudgedRows:
    """Decode the rows to judge by.

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
    stats = [f"{condition}_{name}" for name in dataset.manifest.annotators[condition]["stats"]]
    keys, null_maps = _keys_with(dataset, condition)
    found = len(keys) + null_maps
    chosen = set(sorted(keys)[:limit])
    rows = [
        _row(stored, condition)
        for batch in dataset.batches([*_COLUMNS, condition, *stats])
        for stored in batch.to_pylist()
        if stored["key"] in chosen and stored[condition] is not None
    ]
    if not rows:
        raise ConfigError(
            f"{data}: need rows with {condition}, got null in all {found} rows of the split "
            f"{split!r}; `controlset inspect` says why"
        )
    rows.sort(key=lambda row: (row.size, row.key))
    return JudgedRows(rows=tuple(rows), null_maps=null_maps, found=found)


def _keys_with(dataset: Dataset, condition: str) -> tuple[list[str], int]:
    """Keys of the rows that have the map, and how many have not; no pixel is decoded."""
    keys, nulls = [], 0
    for batch in dataset.batches(["key", f"{condition}.bytes"]):
        there = pc.is_valid(batch.column(condition).field("bytes"))
        keys += batch.column("key").filter(there).to_pylist()
        nulls += batch.num_rows - pc.sum(there).as_py()
    return keys, nulls


def _row(stored: Mapping[str, Any], condition: str) -> JudgedRow:
    prefix = f"{condition}_"
    return JudgedRow(
        key=stored["key"],
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
