"""First pass: every row's small columns; no picture is read."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from pipeline.inspection.captions import CaptionTally
from schemas.dataset import Dataset

_SIZES = ("width", "height", "original_width", "original_height")
_BATCH_ROWS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scalars:
    """Columns of the whole data set, one entry a row."""

    splits: Sequence[str]
    split_of: np.ndarray  # index into `splits`
    numbers: Mapping[str, np.ndarray]  # column -> float64, NaN for null
    digests: Sequence[bytes]  # 16 bytes of `sha256`
    missing: Mapping[str, np.ndarray]  # condition -> bool
    captions: CaptionTally

    @property
    def rows(self) -> int:
        return len(self.split_of)

    def crosses_splits(self, rows: np.ndarray) -> bool:
        """Whether these rows are in more than one split."""
        return len(np.unique(self.split_of[rows])) > 1

    def split(self, row: int) -> str:
        """Name of the row's split."""
        return self.splits[int(self.split_of[row])]


def stat_columns(dataset: Dataset) -> dict[str, list[str]]:
    """Condition -> suffixes of its statistics' columns."""
    return {
        name: list(record.get("stats", {})) for name, record in dataset.manifest.annotators.items()
    }


def read_scalars(dataset: Dataset) -> Scalars:
    """Read everything but the pictures.

    Whether a map is there is read off its `path` leaf, a few bytes a row.
    """
    conditions = list(dataset.manifest.annotators)
    stats = [f"{name}_{stat}" for name, names in stat_columns(dataset).items() for stat in names]
    numbers: dict[str, list[np.ndarray]] = {name: [] for name in (*_SIZES, *stats)}
    missing: dict[str, list[np.ndarray]] = {name: [] for name in conditions}
    digests: list[bytes] = []
    captions = CaptionTally()
    row = 0
    columns = ["sha256", "text", *numbers, *(f"{name}.path" for name in conditions)]
    for batch in dataset.batches(columns, batch_rows=_BATCH_ROWS):
        for name, parts in numbers.items():
            parts.append(_numbers(batch.column(name)))
        for name, parts in missing.items():
            parts.append(batch.column(name).is_null().to_numpy(zero_copy_only=False))
        digests.extend(bytes.fromhex(text)[:16] for text in batch.column("sha256").to_pylist())
        for text in batch.column("text").to_pylist():
            captions.add(row, text)
            row += 1
    splits = list(dataset.manifest.splits)
    return Scalars(
        splits=splits,
        split_of=_split_of(dataset, splits),
        numbers={name: _joined(parts, float) for name, parts in numbers.items()},
        digests=digests,
        missing={name: _joined(parts, bool) for name, parts in missing.items()},
        captions=captions,
    )


def _numbers(column: pa.Array) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _joined(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, kind)


def _split_of(dataset: Dataset, splits: Sequence[str]) -> np.ndarray:
    counts = [shard.data.rows for shard in dataset.shards]
    return np.repeat([splits.index(shard.split) for shard in dataset.shards], counts).astype(int)
