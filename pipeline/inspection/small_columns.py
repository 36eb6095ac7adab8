"""First pass: every row's small columns; no picture is read."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.inspection.captions import CaptionTally
from schemas.columns import is_number as is_kept_number
from schemas.dataset import Dataset
from schemas.triple import BORDER_COLUMNS, is_number

_SIZES = ("width", "height", "original_width", "original_height")
_BATCH_ROWS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class People:
    """Everybody that a condition's annotator found; one entry a person."""

    rows: np.ndarray  # row of the data set
    joints: np.ndarray  # joints of the body that were seen


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scalars:
    """Columns of the whole data set, one entry a row."""

    splits: Sequence[str]
    split_of: np.ndarray  # index into `splits`
    numbers: Mapping[str, np.ndarray]  # column -> float64, NaN for null
    digests: Sequence[bytes]  # 16 bytes of `sha256`
    missing: Mapping[str, np.ndarray]  # condition -> bool
    people: Mapping[str, People]  # condition whose annotator looks for people -> them
    captions: CaptionTally
    nulls: Mapping[str, int]  # column that was kept from the source -> rows without a value

    @property
    def rows(self) -> int:
        return len(self.split_of)

    def crosses_splits(self, rows: np.ndarray) -> bool:
        """Whether these rows are in more than one split."""
        return len(np.unique(self.split_of[rows])) > 1

    def split(self, row: int) -> str:
        """Name of the row's split."""
        return self.splits[int(self.split_of[row])]


def number_stats(record: Mapping[str, Any]) -> dict[str, str]:
    """Statistic -> type name, of those that are numbers, from a manifest's record."""
    return {name: kind for name, kind in record.get("stats", {}).items() if is_number(kind)}


def read_scalars(dataset: Dataset) -> Scalars:
    """Read everything but the pictures.

    Whether a map is there is read off its `path` leaf, a few bytes a row; people are counted by the
    score of each of their joints.
    """
    records = dataset.manifest.annotators
    captioner = dataset.manifest.captioner
    sizes = [*_SIZES, *(name for name in BORDER_COLUMNS if name in dataset.schema.names)]
    stats = [f"{name}_{stat}" for name, record in records.items() for stat in number_stats(record)]
    kept = dataset.manifest.columns
    kept_numbers = [name for name, kind in kept.items() if is_kept_number(kind)]
    numbers: dict[str, list[np.ndarray]] = {name: [] for name in (*sizes, *stats, *kept_numbers)}
    nulls = dict.fromkeys(kept, 0)
    missing: dict[str, list[np.ndarray]] = {name: [] for name in records}
    people: dict[str, list[People]] = {name: [] for name in _people_columns(records)}
    digests: list[bytes] = []
    captions = CaptionTally(model=None if captioner is None else captioner["name"])
    row = 0
    columns = list(dict.fromkeys([*_columns(records, numbers), *kept]))
    for batch in dataset.batches(columns, batch_rows=_BATCH_ROWS):
        for name in nulls:
            nulls[name] += batch.column(name).null_count
        for name, parts in numbers.items():
            parts.append(_numbers(batch.column(name)))
        for name, parts in missing.items():
            parts.append(batch.column(name).is_null().to_numpy(zero_copy_only=False))
        for name, column in _people_columns(records).items():
            people[name].append(_people(batch.column(column), row))
        digests.extend(bytes.fromhex(text)[:16] for text in batch.column("sha256").to_pylist())
        texts = batch.column("text").to_pylist(), batch.column("caption_source").to_pylist()
        for text, source in zip(*texts, strict=True):
            captions.add(row, text, source)
            row += 1
    splits = list(dataset.manifest.splits)
    return Scalars(
        splits=splits,
        split_of=_split_of(dataset, splits),
        numbers={name: _joined(parts, float) for name, parts in numbers.items()},
        digests=digests,
        missing={name: _joined(parts, bool) for name, parts in missing.items()},
        people={name: _everybody(parts) for name, parts in people.items()},
        captions=captions,
        nulls=nulls,
    )


def _columns(records: Mapping[str, Any], numbers: Mapping[str, object]) -> list[str]:
    paths = [f"{name}.path" for name in records]
    # One leaf of the nested column is enough to count by, and a seventh of its bytes.
    joints = [
        f"{column}.list.element.body.list.element.score"
        for column in _people_columns(records).values()
    ]
    return ["sha256", "text", "caption_source", *numbers, *paths, *joints]


def _people_columns(records: Mapping[str, Any]) -> dict[str, str]:
    """Condition -> its column of people, for annotators that look for people."""
    return {
        name: f"{name}_{stat}"
        for name, record in records.items()
        for stat, kind in record.get("stats", {}).items()
        if kind == "people"
    }


def _people(column: pa.ListArray, first_row: int) -> People:
    of_each_row = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    everybody = column.flatten()
    bodies = everybody.flatten()[everybody.type.get_field_index("body")]
    joints = bodies.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    rows = np.arange(first_row, first_row + len(column))
    return People(rows=np.repeat(rows, of_each_row), joints=joints.astype(np.int16))


def _everybody(parts: Sequence[People]) -> People:
    return People(
        rows=_joined([part.rows for part in parts], np.int64),
        joints=_joined([part.joints for part in parts], np.int16),
    )


def _numbers(column: pa.Array) -> np.ndarray:
    # An id of 64 bits may lose its last digits here: for a histogram that is enough.
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _joined(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, kind)


def _split_of(dataset: Dataset, splits: Sequence[str]) -> np.ndarray:
    counts = [shard.data.rows for shard in dataset.shards]
    return np.repeat([splits.index(shard.split) for shard in dataset.shards], counts).astype(int)
