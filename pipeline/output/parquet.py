"""One Parquet file, written row group by row group, checked before anyone can see it."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output import store
from schemas.files import file_digest
from schemas.manifest import FileRecord
from schemas.triple import SHARD_KEY, image_columns

ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 100 * 1000 * 1000
"""Hugging Face's viewer refuses to read rows out of groups above 286 MiB; it advises 100 MB.
Only a single row may be larger."""

_ROW_OVERHEAD_BYTES = 2000  # numbers, lengths and page headers of a row; about 1,500 at most


class ParquetFileWriter:
    """Writes rows in order; `commit` makes the file appear. Left without commit, nothing remains.

    Layout as `datasets` writes it: no compression (images are compressed), PLAIN encoding, page
    index, statistics only where they help.
    """

    def __init__(self, output: str, path: str, schema: pa.Schema) -> None:
        """Open a temporary file for `output`/`path`."""
        self._path = path
        self._final = f"{output}/{path}"
        name = os.path.basename(path).removesuffix(".parquet")
        self._schema = schema.with_metadata({**(schema.metadata or {}), SHARD_KEY: name})
        self._images = image_columns(schema)
        self._rows: list[Mapping[str, Any]] = []
        self._pending_bytes = 0
        self._written = 0

    def __enter__(self) -> Self:
        plain_columns = [name for name in self._schema.names if name not in self._images]
        with contextlib.ExitStack() as opened, store.writing(self._final):
            self._local = opened.enter_context(store.temporary_file(self._final))
            # Ours to close: pyarrow keeps a file open whose disk got full, and the space with it.
            self._sink = opened.enter_context(pa.OSFile(self._local, "wb"))
            self._writer = pq.ParquetWriter(
                self._sink,
                self._schema,
                compression="NONE",
                use_dictionary=False,
                write_page_index=True,
                write_page_checksum=True,
                write_statistics=plain_columns,  # type: ignore[arg-type]  # names are fine
            )
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._opened:
            # On a full disk even closing fails, and that is expected.
            with contextlib.suppress(OSError):
                self._writer.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row; a row group goes to disk before it would be too large."""
        size = _ROW_OVERHEAD_BYTES + sum(map(_payload_bytes, row.values()))
        if len(self._rows) >= ROW_GROUP_ROWS or self._pending_bytes + size > ROW_GROUP_BYTES:
            self._flush()
        self._rows.append(row)
        self._pending_bytes += size

    def commit(self) -> FileRecord:
        """Close, read the footer back, hash, rename.

        Returns:
            What was committed.

        Raises:
            OutputError: the output place refuses.
        """
        with store.writing(self._final):
            self._flush()
            self._writer.close()
            self._sink.close()
            # The footer comes last: whoever can read it has the whole file.
            rows = pq.read_metadata(self._local).num_rows
            if rows != self._written:
                raise OSError(f"{self._final}: wrote {self._written} rows, the footer says {rows}")
            record = FileRecord(
                path=self._path,
                rows=rows,
                size_bytes=os.path.getsize(self._local),
                sha256=file_digest(Path(self._local)),
            )
            store.commit(self._local, self._final)
        return record

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = [
            pa.array([row[field.name] for row in self._rows], type=field.type)
            for field in self._schema
        ]
        with store.writing(self._final):
            self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._written += len(self._rows)
        self._rows = []
        self._pending_bytes = 0


def _payload_bytes(value: Any) -> int:
    """Size of a picture, a text or moments in a column; numbers are in the overhead."""
    if isinstance(value, str):
        return 4 * len(value)  # no character takes more in UTF-8
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, list):  # a column's of the source; keypoints are in the overhead
        texts = sum(4 * len(item) for item in value if isinstance(item, str))
        return texts + sum(8 for item in value if not isinstance(item, dict))
    return len(value["bytes"]) if isinstance(value, dict) else 0


def write_table(
    output: str, path: str, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]
) -> FileRecord:
    """Write and commit a small table at once."""
    with ParquetFileWriter(output, path, schema) as writer:
        for row in rows:
            writer.add(row)
        return writer.commit()
