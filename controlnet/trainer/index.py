"""Which rows of a data set can be trained on, and where they lie: numbers only, no pixels."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from schemas.dataset import Dataset, filesystem_of, open_dataset
from schemas.errors import ConfigError
from schemas.latents import LATENTS, LatentInfo
from schemas.manifest import ShardRecord
from schemas.shards import ShardReader, torn
from schemas.triple import image_columns

_KEY_BYTES = 32
_MOST_PX = 1 << 20
# an object store answers in 50 ms; one after another 1,000 shards took a minute
_FOOTERS_AT_ONCE = 8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Index:
    """The usable rows of one split, ordered as they lie in the shards; N of them."""

    path: str  # as the user wrote it
    split: str
    condition: str
    files: tuple[str, ...]  # inside `filesystem`
    filesystem: pafs.FileSystem
    annotator: Mapping[str, Any]  # the condition's record in the manifest: hint range, weights, …
    latents: LatentInfo | None  # what the moments were made with; None: they are not wanted
    keys: np.ndarray  # (N,) S32
    widths: np.ndarray  # (N,) int32, px
    heights: np.ndarray  # (N,) int32, px
    file_numbers: np.ndarray  # (N,) int32, into `files`
    row_groups: np.ndarray  # (N,) int32, inside the file
    rows_in_group: np.ndarray  # (N,) int32
    null_maps: int  # rows left out because the condition found nothing in them
    null_latents: int  # rows left out because their latents could not be encoded

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def sizes(self) -> dict[tuple[int, int], int]:
        """(width, height) in px -> rows, most frequent first."""
        _, first, counts = np.unique(self.size_codes, return_index=True, return_counts=True)
        ranked = np.argsort(-counts, kind="stable")
        places = first[ranked].tolist()
        return {
            (int(self.widths[place]), int(self.heights[place])): int(count)
            for place, count in zip(places, counts[ranked], strict=True)
        }

    @property
    def size_codes(self) -> np.ndarray:
        """(N,) int64: equal where width and height are."""
        return self.widths.astype(np.int64) << 32 | self.heights

    @property
    def group_numbers(self) -> np.ndarray:
        """(N,) int64: row groups counted through all files; those without a usable row are not."""
        new = np.diff(self.file_numbers) != 0
        new |= np.diff(self.row_groups) != 0
        return np.concatenate([[0], np.cumsum(new)])[: len(self)]


def scan(path: str, *, split: str, condition: str, wants_latents: bool) -> Index:
    """Find the rows of a data set that have the map, and the latents where they are wanted.

    Args:
        path: folder or URI of a complete data set that `controlset generate` wrote.
        split: `train` or `validation`.
        condition: name of the map's column.
        wants_latents: leave out rows without cached VAE moments, too.

    Returns:
        The index of at least one row. It takes 52 bytes a row.

    Raises:
        ConfigError: not a complete data set, no such split or column, a torn shard, no usable row.

    Cost: footers and four narrow columns, about 80 bytes a row; no map or image is read.
    """
    data = open_dataset(path, split=split)
    if not len(data):
        raise ConfigError(f"{path}: need rows in the split {split!r}, got none; generate more")
    _check_columns(data, condition, wants_latents)
    filesystem, root = filesystem_of(path)
    files = tuple(f"{root}/{shard.data.path}" for shard in data.shards)
    look = functools.partial(_scan_file, data, condition, wants_latents)
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        parts = list(pool.map(look, data.shards))
    columns = _joined(parts)
    usable = columns["has_map"] & columns["has_latents"]
    null_maps = int(np.count_nonzero(~columns["has_map"]))
    null_latents = int(np.count_nonzero(columns["has_map"] & ~columns["has_latents"]))
    if not usable.any():
        empty = condition if null_maps == len(usable) else LATENTS
        raise ConfigError(
            f"{path}: need rows with {empty}, got null in all {len(usable)} rows of the split "
            f"{split!r}; `controlset inspect` says why"
        )
    numbers = ("keys", "widths", "heights", "file_numbers", "row_groups", "rows_in_group")
    return Index(
        path=path,
        split=split,
        condition=condition,
        files=files,
        filesystem=filesystem,
        annotator=data.manifest.annotators.get(condition, {}),
        latents=_latents_of(data) if wants_latents else None,
        null_maps=null_maps,
        null_latents=null_latents,
        **{name: columns[name][usable] for name in numbers},
    )


def open_shard(filesystem: pafs.FileSystem, path: str) -> ShardReader:
    """A shard's footer, read; close it after use.

    Raises:
        ConfigError: gone, torn or another one.
    """
    return ShardReader(path, where=path, filesystem=filesystem)


def _check_columns(data: Dataset, condition: str, wants_latents: bool) -> None:
    schema = data.schema
    conditions = [name for name in image_columns(schema) if name != "image"]
    if condition not in conditions:
        there = ", ".join(conditions) or "none"
        raise ConfigError(
            f"{data.path}: need the condition {condition!r}, got shards with {there}; "
            f"name one of these or run `controlset add {data.path} --conditions {condition}`"
        )
    if wants_latents and LATENTS not in schema.names:
        raise ConfigError(
            f"{data.path}: need the column {LATENTS}, got shards without it; "
            f"run `controlset add {data.path} --latents BASE` or train without cached latents"
        )


def _latents_of(data: Dataset) -> LatentInfo:
    if data.manifest.latents is None:
        raise ConfigError(
            f"{data.path}: need a record of the latents in the manifest, got none; "
            f"run `controlset add {data.path} --latents BASE`"
        )
    return LatentInfo.from_json(data.manifest.latents)


def _scan_file(
    data: Dataset, condition: str, wants_latents: bool, shard: ShardRecord
) -> dict[str, np.ndarray]:
    with data.reader(shard) as reader:
        # Of the map only `path`, some 40 bytes: where the map is null, so is the whole struct.
        # (Row-group statistics would say it too, but generate writes none for image columns.)
        table = reader.read(["key", "width", "height", f"{condition}.path"])
        has_latents = (
            _has_value(reader, LATENTS) if wants_latents else np.ones(shard.data.rows, bool)
        )
        groups = reader.rows_of_groups
    return {
        "keys": np.array(table["key"].to_pylist(), dtype=f"S{_KEY_BYTES}"),
        "widths": _numbers(table["width"], reader.where),
        "heights": _numbers(table["height"], reader.where),
        "row_groups": np.repeat(np.arange(len(groups), dtype=np.int32), groups),
        "rows_in_group": np.concatenate(
            [np.zeros(0, np.int32), *(np.arange(n, dtype=np.int32) for n in groups)]
        ),
        "has_map": _are_valid(table[condition]),
        "has_latents": has_latents,
    }


def _numbers(column: pa.ChunkedArray, where: str) -> np.ndarray:
    sizes = column.to_pylist()
    if not all(size is not None and 0 < size <= _MOST_PX for size in sizes):
        raise torn(where, ValueError(f"pictures of a side that is not in 1..{_MOST_PX} px"))
    return np.array(sizes, np.int32)


def _has_value(reader: ShardReader, column: str) -> np.ndarray:
    """(rows,) bool; values are read only in row groups whose statistics do not rule out nulls."""
    parts = [np.zeros(0, bool)]
    for group, rows in enumerate(reader.rows_of_groups):
        if reader.null_count(group, column) == 0:
            parts.append(np.ones(rows, bool))
        else:
            parts.append(_are_valid(reader.read([column], row_group=group)[column]))
    return np.concatenate(parts)


def _are_valid(column: pa.ChunkedArray) -> np.ndarray:
    # Through a list: `to_numpy` of chunked arrays imports pandas, a second at every start.
    return np.array(column.is_valid().to_pylist(), bool)


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    lengths = [len(part["keys"]) for part in parts]
    columns["file_numbers"] = np.repeat(np.arange(len(parts), dtype=np.int32), lengths)
    return columns


def read_keys(path: str) -> frozenset[str]:
    """Keys of a text file, one a line; empty lines do not count.

    Raises:
        ConfigError: it cannot be read, or names no key.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--exclude-keys {path}: need a text file, got {error}") from error
    keys = frozenset(line.strip() for line in lines if line.strip())
    if not keys:
        raise ConfigError(f"--exclude-keys {path}: need one key a line, got none")
    return keys


def without(index: Index, keys: frozenset[str], *, where: str) -> Index:
    """The index without some rows.

    Args:
        index: of the rows to train on.
        keys: of the rows that go.
        where: who names them, for the error.

    Raises:
        ConfigError: no such row, or none is left.
    """
    named = np.array(sorted(key.encode() for key in keys))
    # A misspelt key would leave the bad row in, and the run would break again.
    unknown = np.setdiff1d(named, index.keys)
    if len(unknown):
        raise ConfigError(
            f"{where}: need keys of rows that would be trained on, got {unknown[0].decode()} and "
            f"{len(unknown) - 1} others that are not among the {len(index)} of {index.path}"
        )
    kept = ~np.isin(index.keys, named)
    if not kept.any():
        raise ConfigError(f"{where}: need rows that stay, got the keys of all {len(index)} rows")
    names = ("keys", "widths", "heights", "file_numbers", "row_groups", "rows_in_group")
    return dataclasses.replace(index, **{name: getattr(index, name)[kept] for name in names})


def digest_of_keys(keys: frozenset[str]) -> str:
    """Sixteen hexadecimal digits that stand for a set of keys."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]
