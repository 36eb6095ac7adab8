"""Files of a data set as they are read back: inside its folder, whole, and never a bomb.

A set may come from a stranger, or from a disk that flipped a bit. So every shard of every reader is
opened here: checksums of pages are verified, a shard must lie where its footer says, keys are keys,
and decoding is bounded by what lies on the disk.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from schemas.errors import ConfigError
from schemas.manifest import MANIFEST_NAME, RECORDS_DIR
from schemas.parquet_footers import check_footer
from schemas.triple import SHARD_KEY

_DECODED_BYTES = 1 << 30
"""At most so many bytes at once, even if every cell stood for the whole column (as a dictionary's
one value can): honest row groups of 100 MB come in batches of ten rows."""

_SLACK_BYTES = 1 << 20  # numbers, offsets and validity of a row group, in memory but not in pages
_ROWS_OF_GROUP = 1 << 20  # of null cells, which take no bytes; we write 100
_LONGEST_SIDE = 1 << 20  # px

_HEX = {"key": 32, "sha256": 64}  # column -> hex digits
_LEAST = {
    **dict.fromkeys(("width", "height", "original_width", "original_height"), 1),
    **dict.fromkeys(("crop_x", "crop_y"), 0),
}


def path_inside(files: pafs.FileSystem, root: str, relative: str) -> str:
    """Full path of a file of a data set.

    Args:
        files: the file system that the set lies in.
        root: the set's folder there.
        relative: the file, from a record that was checked; it may be missing.

    Raises:
        ConfigError: a link that leads out of the folder, or not a regular file.
    """
    path = f"{root}/{relative}"
    if isinstance(files, pafs.LocalFileSystem):
        if not _is_blob(root, path):
            check_inside(root, relative)
        try:
            regular = stat.S_ISREG(os.stat(path).st_mode)
        except FileNotFoundError:
            return path
        except OSError:  # a link to itself, a folder that may not be entered
            regular = False
        if not regular:
            raise ConfigError(f"{path}: need a file, got something else; get the set again")
    return path


def check_inside(root: str, relative: str) -> None:
    """Refuse what a link takes out of a local folder, also if there is nothing.

    Raises:
        ConfigError: says where the link leads.
    """
    folder, real = os.path.realpath(root), os.path.realpath(f"{root}/{relative}")
    if real != folder and not real.startswith(f"{folder.rstrip('/')}/"):
        raise ConfigError(
            f"{root}/{relative}: need a file inside the data set's folder, got a link to {real}; "
            "copy the set without links (cp -rL)"
        )


def _is_blob(root: str, path: str) -> bool:
    """Whether it is a file of the Hugging Face cache as the cache keeps it.

    There `datasets--OWNER--NAME/snapshots/REVISION` holds links to the `blobs` of the same entry.
    """
    snapshots, _ = os.path.split(os.path.realpath(root))
    entry, name = os.path.split(snapshots)
    if name != "snapshots" or not os.path.basename(entry).startswith(("datasets--", "models--")):
        return False
    return os.path.dirname(os.path.realpath(path)) == f"{entry}/blobs"


def is_of_set(path: str | os.PathLike[str]) -> bool:
    """Whether a report or picture that is written there would replace a file of a data set."""
    real = os.path.realpath(path)
    folder, name = os.path.split(real)
    if name in {MANIFEST_NAME, "README.md", "preview.html"}:
        return os.path.exists(f"{folder}/{MANIFEST_NAME}")
    above, inside = os.path.split(folder)
    while inside:
        if inside in {"data", "rejects", RECORDS_DIR} and (
            os.path.exists(f"{above}/{MANIFEST_NAME}") or inside == RECORDS_DIR
        ):
            return True
        above, inside = os.path.split(above)
    return False


class ShardReader:
    """An open Parquet file of a data set; whatever is wrong with it is a ConfigError."""

    def __init__(
        self,
        source: str | Any,  # whatever file object the output's file system gives
        *,
        where: str,
        filesystem: pafs.FileSystem | None = None,
        columns: Mapping[str, pa.DataType] | None = None,
        rows: int | None = None,
    ) -> None:
        """Read the footer.

        Args:
            source: path in `filesystem`, from `path_inside`, or an open file.
            where: its path; the shard's name is that of the file.
            filesystem: None where `source` is an open file, which stays open, or a local path.
            columns: name -> type of the columns that it must have, as far as they are read.
            rows: that it must have; None is any number.

        Raises:
            ConfigError: gone, torn, of another name, or of another number of rows.
        """
        self.where, self._columns = where, columns
        # Reading ahead saves round trips to a store; on a disk it is one copy more.
        remote = filesystem is not None and not isinstance(filesystem, pafs.LocalFileSystem)
        self._opened: Any = None
        try:
            with self._damage():
                if isinstance(source, str):
                    files = filesystem or pafs.LocalFileSystem()
                    source = self._opened = files.open_input_file(source)
                self._file = pq.ParquetFile(
                    source, pre_buffer=remote, page_checksum_verification=True
                )
                check_footer(source, self._file)
                self.schema: pa.Schema = self._file.schema_arrow
                self.rows_of_groups = _rows_of_groups(self.metadata)
                paths = [self._file.schema.column(n).path for n in range(self.metadata.num_columns)]
            self._paths: list[str] = paths
            self._check_name()
            if rows is not None and self.metadata.num_rows != rows:
                found = f"{self.metadata.num_rows} rows where the manifest says {rows}"
                raise torn(where, ValueError(found))
        except ConfigError:
            self.close()
            raise

    @property
    def metadata(self) -> pq.FileMetaData:
        """The footer."""
        return self._file.metadata

    def close(self) -> None:
        """Let the file go."""
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def read(
        self, columns: Sequence[str] | None = None, *, row_group: int | None = None
    ) -> pa.Table:
        """Rows of the file, or of one row group.

        Args:
            columns: read only these, `canny.bytes` being a part of `canny`; None reads all.
            row_group: read only this one.

        Raises:
            ConfigError: damaged, without such a column, or larger decoded than it lies on disk.
        """
        groups = range(len(self.rows_of_groups)) if row_group is None else [row_group]
        batches = list(self.batches(columns, row_groups=groups, batch_rows=_ROWS_OF_GROUP))
        if batches:
            return pa.Table.from_batches(batches)
        with self._damage():
            return self._file.read_row_groups([], columns=_listed(columns), use_threads=False)

    def batches(
        self,
        columns: Sequence[str] | None = None,
        *,
        batch_rows: int,
        row_groups: Sequence[int] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Rows in order, at most `batch_rows` at a time, never of two row groups.

        Raises:
            ConfigError: as `read`.
        """
        self._check_columns(columns)
        for group in range(len(self.rows_of_groups)) if row_groups is None else row_groups:
            yield from self._batches_of(group, columns, batch_rows)

    def _batches_of(
        self, group: int, columns: Sequence[str] | None, batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        size = self._bytes_on_disk(group, columns)
        decoded, left = 0, self.rows_of_groups[group]
        with self._damage():
            batches = self._file.iter_batches(
                max(1, min(batch_rows, _DECODED_BYTES // max(size, 1))),
                row_groups=[group],
                columns=_listed(columns),
                use_threads=False,
            )
        while True:
            with self._damage():
                batch = next(batches, None)
                if batch is None:
                    break
                batch.validate(full=True)
            decoded += batch.nbytes
            if decoded > 2 * size + _SLACK_BYTES + 64 * self.rows_of_groups[group]:
                raise torn(self.where, ValueError(f"more than {decoded} bytes out of {size}"))
            self._check_values(batch)
            left -= batch.num_rows
            yield batch
        if left:
            raise torn(self.where, ValueError(f"{left} rows too few in row group {group}"))

    def _check_name(self) -> None:
        """Shards that changed their places would, say, be trained on and judged by."""
        name = (self.schema.metadata or {}).get(SHARD_KEY)
        there = os.path.basename(self.where).removesuffix(".parquet")
        if name is not None and name != there.encode():
            raise ConfigError(
                f"{self.where}: need the shard of this name, got {name.decode(errors='replace')!r};"
                " run `controlset verify`"
            )

    def _check_columns(self, columns: Sequence[str] | None) -> None:
        wanted = columns if columns is not None else self._columns or ()
        for column in dict.fromkeys(path.partition(".")[0] for path in wanted):
            found = self.schema.get_field_index(column)  # -1 also where there are two
            if found < 0:
                raise ConfigError(
                    f"{self.where}: need one column {column}, got {self.schema.names}; "
                    "run `controlset verify`"
                )
            need = (self._columns or {}).get(column)
            if need is not None and self.schema.field(found).type != need:
                raise ConfigError(
                    f"{self.where}: need {column} of type {need}, got "
                    f"{self.schema.field(found).type}; run `controlset verify`"
                )

    def null_count(self, group: int, column: str) -> int | None:
        """Nulls of a column of plain values in a row group; None where no statistics say so."""
        with self._damage():
            if column not in self._paths:
                return None
            known = self.metadata.row_group(group).column(self._paths.index(column)).statistics
            return known.null_count if known is not None and known.has_null_count else None

    def _bytes_on_disk(self, group: int, columns: Sequence[str] | None) -> int:
        """Size of the columns; of compressed ones nobody knows what they become."""
        total = 0
        with self._damage():
            record = self.metadata.row_group(group)
            for number, path in enumerate(self._paths):
                if columns is not None and not any(_is_part(path, column) for column in columns):
                    continue
                chunk = record.column(number)
                if chunk.compression != "UNCOMPRESSED":
                    raise ConfigError(
                        f"{self.where}: need plain, uncompressed pages, got {chunk.compression} "
                        f"in {path}; generate the data set again"
                    )
                total += chunk.total_compressed_size
        return total

    def _check_values(self, batch: pa.RecordBatch) -> None:
        """Refuse rows that nobody could have written: readers rely on names and sizes."""
        for name in batch.schema.names if batch.num_rows else ():
            column = batch.column(name)
            if name in _HEX:
                with self._damage():
                    pattern = rf"\A[0-9a-f]{{{_HEX[name]}}}\z"
                    fits = pc.match_substring_regex(column, pattern)  # type: ignore[attr-defined]
                need = f"{name}s of {_HEX[name]} hex digits"
            elif name in _LEAST:
                # In Python: a number beside a column lets pyarrow import pandas, a second a start.
                least = _LEAST[name]
                fits = [
                    side is not None and least <= side <= _LONGEST_SIDE
                    for side in column.to_pylist()
                ]
                need = f"{name} from {_LEAST[name]} to {_LONGEST_SIDE} px"
            elif pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
                bytes_there, need = column.field("bytes").is_valid(), f"{name} with bytes"
                # A map may be missing, but then as a whole.
                whole = column.is_valid() if name == "image" else column.is_null()
                join = pc.and_ if name == "image" else pc.or_  # type: ignore[attr-defined]
                fits = join(bytes_there, whole)
            elif name == "source":
                fits, need = column.is_valid(), "the name of the source"
            else:
                continue
            flags = fits if isinstance(fits, list) else fits.to_pylist()
            if not all(flags):
                first = column[[bool(fit) for fit in flags].index(False)].as_py()
                raise ConfigError(
                    f"{self.where}: need {need}, got {first!r:.100}; run `controlset verify`"
                )

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except pa.ArrowCancelled:
            raise
        except (OSError, pa.ArrowException, ValueError, OverflowError, TypeError) as error:
            raise torn(self.where, error) from error


def torn(where: str, error: Exception) -> ConfigError:
    """The error of a shard that cannot be read."""
    first = (str(error).splitlines() or [repr(error)])[0]
    return ConfigError(f"{where}: need a whole shard, got {first}; run `controlset verify`")


def _rows_of_groups(metadata: pq.FileMetaData) -> list[int]:
    rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
        raise ValueError(f"{metadata.num_rows} rows in all, but row groups of {rows[:20]}")
    if max(rows, default=0) > _ROWS_OF_GROUP:
        raise ValueError(f"a row group of {max(rows)} rows, more than {_ROWS_OF_GROUP}")
    return rows


def _is_part(path: str, column: str) -> bool:
    return path == column or path.startswith(f"{column}.")


def _listed(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)
