"""Reading a data set back: length, schema, random rows, decoded examples. No Beam, no OpenCV.

Whoever learns from a set or judges by it has its shards checked against the manifest first. Sizes
always; sha256 once: what was hashed is remembered outside the set, with size, time of change and
inode, so that the second start costs nothing.
"""

import bisect
import dataclasses
import itertools
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from schemas.documents import MAX_DOCUMENT_BYTES, misfit, read_json
from schemas.errors import ConfigError
from schemas.files import file_digest, write_json
from schemas.filesystems import (
    StoreRefusal,
    answering,
    file_system,
    is_local,
    open_input,
    said_by_client,
    scheme_of,
    stats,
)
from schemas.machine import cores
from schemas.manifest import ADDING_DIR, MANIFEST_NAME, FileRecord, Manifest, ShardRecord
from schemas.pixels import MapU8, MapU16, RgbU8, decode_stored_map, decode_stored_rgb, of_row
from schemas.records import as_utf8
from schemas.shards import ShardReader, path_inside, torn
from schemas.triple import BORDER_COLUMNS, REJECTS, Border, border_of, image_columns


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One row of a data set, with decoded image and maps."""

    key: str
    text: str | None
    image: RgbU8
    maps: Mapping[str, MapU8 | MapU16 | RgbU8 | None]  # condition -> map, None: there is none
    # Every other column that was asked for; nested ones as lists and dicts, e.g. `pose_keypoints`:
    # a list of persons, each with lists of {name, x, y, score}.
    fields: Mapping[str, Any]


class Dataset:
    """A complete data set on disk or in a bucket; rows are numbered through all its shards."""

    def __init__(self, path: str, *, split: str | None = None) -> None:
        """Open `path`; see `open_dataset`."""
        self.path = path
        self._files, self._root = filesystem_of(path)
        self.manifest = read_manifest(self._files, self._root, path)
        splits = self.manifest.splits
        if split is not None and split not in splits:
            raise ConfigError(f"{path}: need a split out of {sorted(splits)}, got {split!r}")
        self.shards = [
            shard for shard in self.manifest.shards if split is None or shard.split == split
        ]
        self._types = self.manifest.column_types
        self._ends = list(itertools.accumulate(shard.data.rows for shard in self.shards))
        self._local = threading.local()  # an open Parquet file is not for several threads

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema, metadata included."""
        return self._open(0).schema

    @property
    def conditions(self) -> list[str]:
        """Names of the condition columns."""
        return [name for name in image_columns(self.schema) if name != "image"]

    def __getitem__(self, index: int) -> Example:
        return example(self.row(index), self.conditions)

    def __iter__(self) -> Iterator[Example]:
        conditions = self.conditions
        for batch in self.batches():
            yield from (example(row, conditions) for row in batch.to_pylist())

    def row(self, index: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """One row as stored: images and maps as `{"bytes": …, "path": …}`.

        Args:
            index: 0 <= index < len(self); negative counts from the end.
            columns: read only these; None reads all.

        Raises:
            IndexError: outside the data set.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path}: need a row in 0..{len(self) - 1}, got {index}")
        index %= len(self)
        shard = bisect.bisect_right(self._ends, index)
        row = index - (self._ends[shard - 1] if shard else 0)
        reader = self._open(shard)
        for group, rows in enumerate(reader.rows_of_groups):
            if row < rows:
                return reader.read(columns, row_group=group).slice(row, 1).to_pylist()[0]
            row -= rows
        raise AssertionError("the shard has as many rows as the manifest says")

    def batches(
        self, columns: Sequence[str] | None = None, *, batch_rows: int = 100
    ) -> Iterator[pa.RecordBatch]:
        """All rows in order, a few at a time; memory does not grow with the data set.

        Args:
            columns: read only these; None reads all.
            batch_rows: at most so many rows a batch.
        """
        for shard in range(len(self.shards)):
            yield from self._open(shard).batches(columns, batch_rows=batch_rows)

    def borders(self) -> dict[str, Border]:
        """Key -> border, of the rows that have one."""
        if not set(BORDER_COLUMNS) <= set(self.schema.names):
            return {}
        found = (
            (row["key"], border_of(row))
            for batch in self.batches(["key", *BORDER_COLUMNS])
            for row in batch.to_pylist()
        )
        return {key: border for key, border in found if border is not None}

    def rejects(self) -> list[dict[str, Any]]:
        """All reject rows of these shards."""
        tables: list[pa.Table] = []
        for shard in self.shards:
            if shard.rejects is not None:
                with self._reader(shard.rejects, REJECTS, None) as reader:
                    tables.append(reader.read())
        return pa.concat_tables(tables).to_pylist() if tables else []

    def reader(self, shard: ShardRecord) -> ShardReader:
        """A shard, open; close it after use.

        Raises:
            ConfigError: gone, torn, outside of the folder, or not what the manifest says.
        """
        return self._reader(shard.data, self._types, shard.data.rows)

    def _reader(
        self, file: FileRecord, types: Mapping[str, pa.DataType], rows: int | None
    ) -> ShardReader:
        path = path_inside(self._files, self._root, file.path)
        return ShardReader(path, where=path, filesystem=self._files, columns=types, rows=rows)

    def _open(self, shard: int) -> ShardReader:
        if getattr(self._local, "shard", None) != shard:
            self._local.reader, self._local.shard = self.reader(self.shards[shard]), shard
        return self._local.reader


def open_dataset(path: str, *, split: str | None = None) -> Dataset:
    """Open a data set that `controlset generate` wrote.

    Args:
        path: its folder, or a URI (`gs://…`, `s3://…`, `az://…`, `hf://datasets/…`).
        split: `train` or `validation`; None is all of it.

    Raises:
        ConfigError: not there, not complete, or of another schema version.
    """
    return Dataset(path, split=split)


def example(row: Mapping[str, Any], conditions: Sequence[str]) -> Example:
    """Decode a row that has at least `key` and `image`.

    Args:
        row: column -> value as `Dataset.row` gives it.
        conditions: which of its columns are maps; those that the row lacks are left out.

    Raises:
        ConfigError: a picture that does not decode.
    """
    stored_maps = {name: row[name] for name in conditions if name in row}
    with of_row(f"row {row['key']}"):
        image = decode_stored_rgb(row["image"]["bytes"])
        maps = {
            name: None if stored is None else decode_stored_map(stored["bytes"])
            for name, stored in stored_maps.items()
        }
    return Example(
        key=row["key"],
        text=row.get("text"),
        image=image,
        maps=maps,
        fields={
            name: value
            for name, value in row.items()
            if name not in stored_maps and name not in {"image", "key", "text"}
        },
    )


def filesystem_of(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system that a path or URI lies in, and the path inside it.

    Raises:
        ConfigError: nobody knows such a place, or its package is not installed.
    """
    path = path.removeprefix("file://")
    if is_local(path):
        _check_name(path)
        return pafs.LocalFileSystem(), path
    files = file_system(path)
    inside = str(files._strip_protocol(path)).rstrip("/")
    return pafs.PyFileSystem(_ArrowFiles(files, scheme_of(path))), inside


class _ArrowFiles(pafs.FSSpecHandler):
    """What pyarrow asks for when it reads a data set: few questions, and refusals in words."""

    def __init__(self, files: Any, scheme: str) -> None:
        super().__init__(files)
        self._scheme = scheme

    def _uri(self, path: str) -> str:
        return path if "://" in path else f"{self._scheme}://{path}"

    def get_file_info(self, paths: Sequence[str]) -> list[pafs.FileInfo]:
        found = stats(self.fs, [self._uri(path) for path in paths])
        return [
            pafs.FileInfo(path, pafs.FileType.NotFound)
            if entry is None
            else pafs.FileInfo(path, pafs.FileType.File, size=entry.size_bytes)
            for path, entry in zip(paths, found, strict=True)
        ]

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        with answering(selector.base_dir, self.fs):
            try:
                found = self.fs.ls(selector.base_dir, detail=True)
            except FileNotFoundError:
                return []
        return [self._create_file_info(info["name"].rstrip("/"), info) for info in found]

    def open_input_file(self, path: str) -> pa.PythonFile:
        # pyarrow itself joins what it reads of a row group.
        return pa.PythonFile(open_input(self.fs, self._uri(path), cached=False), mode="r")

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(open_input(self.fs, self._uri(path)), mode="r")


def _check_name(path: str) -> None:
    """Refuse a local path that pyarrow cannot take, since it is not in UTF-8.

    Raises:
        ConfigError: the bytes are none, or Python was started in a locale that has no such letters.
    """
    if path.isascii():
        return
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        raise ConfigError(
            f"{as_utf8(path)}: need names of files in UTF-8, got {encoding} from this locale; "
            "start Python with -X utf8"
        )
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{as_utf8(path)}: need a name in UTF-8, got bytes that are none; rename it"
        ) from None


def check_at_rest(path: str) -> None:
    """Refuse a data set whose addition was interrupted; only `add` takes its remaining steps.

    Raises:
        ConfigError: says which command finishes it.
    """
    files, root = filesystem_of(path)
    if not isinstance(files, pafs.LocalFileSystem):
        return  # nothing is added to a set in a bucket
    if os.path.lexists(f"{root}/{ADDING_DIR}/{MANIFEST_NAME}"):
        raise ConfigError(
            f"{path}: need a data set at rest, but an addition of columns waits to be finished; "
            f"run `controlset add {path}`"
        )


def read_manifest(files: pafs.FileSystem, root: str, path: str) -> Manifest:
    """The manifest of a complete data set.

    Args:
        files: from `filesystem_of`.
        root: likewise.
        path: as the user wrote it, for the error.

    Raises:
        ConfigError: not there, not complete, or of another schema version.
    """
    where = f"{root}/{MANIFEST_NAME}"
    try:
        info = files.get_file_info(where)
    except StoreRefusal as error:
        got, advice = error.refusal.got, error.refusal.advice
        raise ConfigError(f"{path}: need a place that answers, got {got}; {advice}") from error
    except OSError as error:
        got = said_by_client(error)
        raise ConfigError(f"{path}: need a place that answers, got {got}") from error
    if info.type != pafs.FileType.File:
        # A misspelt path is no interrupted run. A bucket has no folders that could be missing.
        if isinstance(files, pafs.LocalFileSystem) and not os.path.lexists(root):
            raise ConfigError(
                f"{path}: need a complete data set, found no such folder; check the path, or run "
                "`controlset generate`"
            )
        raise ConfigError(
            f"{path}: need a complete data set, found no {MANIFEST_NAME}; "
            "run `controlset generate` (again, if it was interrupted)"
        )
    return Manifest.from_json(read_small(files, root, MANIFEST_NAME) or b"", where=where)


def read_small(files: pafs.FileSystem, root: str, relative: str) -> bytes | None:
    """A document of a data set; None where there is none.

    Raises:
        ConfigError: a link out of the folder, not a file, too large, or it cannot be read.
    """
    path = path_inside(files, root, relative)
    try:
        info = files.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            return None
        if (size := info.size or 0) > MAX_DOCUMENT_BYTES:
            raise misfit(path, f"{size} bytes, more than {MAX_DOCUMENT_BYTES}", "get the set again")
        with files.open_input_stream(path) as stream:
            return stream.read()
    except OSError as error:
        raise misfit(path, error, "get the set again") from error


_MOST_REMEMBERED = 20_000  # files; the oldest are forgotten

Seen = tuple[int, int, int, str]  # size, time of change in ns, inode, sha256


def check_shards(path: str, shards: Iterable[ShardRecord]) -> None:
    """Refuse shards that are not those of the manifest.

    Args:
        path: folder or URI of the data set. In a bucket only sizes are compared: hashing would
            read all of it.
        shards: those that will be read.

    Raises:
        ConfigError: a file is missing, or has another size or content; or an addition waits.

    Cost: one pass over the bytes, on all cores, once.
    """
    check_at_rest(path)
    files, root = filesystem_of(path)
    records = [shard.data for shard in shards]
    for record, info in zip(
        records,
        files.get_file_info([path_inside(files, root, record.path) for record in records]),
        strict=True,
    ):
        _demand(record, root, "bytes", record.size_bytes, info.size)
    if not isinstance(files, pafs.LocalFileSystem):
        return
    remembered = _remembered()
    with ThreadPoolExecutor(cores()) as pool:
        found = list(pool.map(lambda record: _seen(f"{root}/{record.path}", remembered), records))
    for record, (_, seen) in zip(records, found, strict=True):
        _demand(record, root, "sha256", record.sha256, seen[3])
    _remember(remembered, dict(found))


def _demand(record: FileRecord, root: str, what: str, need: object, got: object) -> None:
    if need != got:
        found = ValueError(f"{what} {got} where the manifest says {need}")
        raise torn(f"{root}/{record.path}", found)


def _seen(path: str, remembered: dict[str, Seen]) -> tuple[str, Seen]:
    real = os.path.realpath(path)
    status = os.stat(real)
    now = (status.st_size, status.st_mtime_ns, status.st_ino)
    before = remembered.get(real)
    if before is not None and before[:3] == now:
        return real, before
    return real, (*now, file_digest(Path(real)))


def _place() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "controlset", "hashed-shards.json")


def _remembered() -> dict[str, Seen]:
    try:
        return read_json(_place(), dict[str, Seen])
    except ConfigError:
        return {}  # none yet, or damaged: hashed again


def _remember(before: dict[str, Seen], found: dict[str, Seen]) -> None:
    """Keep it for the next start; a home that cannot be written costs the time of hashing."""
    if all(before.get(path) == seen for path, seen in found.items()):
        return
    kept = [(path, seen) for path, seen in before.items() if path not in found]
    try:
        _place().parent.mkdir(parents=True, exist_ok=True)
        write_json(_place(), dict([*kept, *found.items()][-_MOST_REMEMBERED:]))
    except (OSError, ConfigError):
        return
