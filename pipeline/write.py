"""One Parquet file, written row group by row group, checked before anyone can see it."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from schemas.manifest import FileRecord
from schemas.triple import image_columns

ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 100 * 1000 * 1000
"""Hugging Face's viewer refuses to read rows out of groups above 286 MiB; it advises 100 MB."""


class ParquetFileWriter:
    """Writes rows in order; `commit` makes the file appear. Left without commit, nothing remains.

    Layout as `datasets` writes it: no compression (images are compressed), PLAIN encoding, page
    index, statistics only where they help.
    """

    def __init__(self, output: str, path: str, schema: pa.Schema) -> None:
        """Open a temporary file for `output`/`path`."""
        self._path = path
        self._final = f"{output}/{path}"
        self._schema = schema
        self._images = image_columns(schema)
        self._rows: list[Mapping[str, Any]] = []
        self._pending_bytes = 0
        self._written = 0
        self._temporary = store.temporary_file(self._final)

    def __enter__(self) -> Self:
        plain_columns = [name for name in self._schema.names if name not in self._images]
        with store.writing(self._final):
            self._local = self._temporary.__enter__()
            self._writer = pq.ParquetWriter(
                self._local,
                self._schema,
                compression="NONE",
                use_dictionary=False,
                write_page_index=True,
                write_statistics=plain_columns,  # type: ignore[arg-type]  # names are fine
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is not None:
                self._abandon()
        finally:
            self._temporary.__exit__(kind, error, traceback)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row; a full row group goes to disk."""
        self._rows.append(row)
        self._pending_bytes += sum(
            len(row[name]["bytes"]) for name in self._images if row[name] is not None
        )
        if len(self._rows) >= ROW_GROUP_ROWS or self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

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
            rows = pq.read_metadata(self._local).num_rows
            if rows != self._written:
                raise OSError(f"{self._final}: wrote {self._written} rows, the footer says {rows}")
            with open(self._local, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            record = FileRecord(
                path=self._path,
                rows=rows,
                size_bytes=os.path.getsize(self._local),
                sha256=digest,
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

    def _abandon(self) -> None:
        """Close the half-written file; on a full disk even that fails, and that is expected."""
        try:
            self._writer.close()
        except OSError:
            pass


def write_table(
    output: str, path: str, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]
) -> FileRecord:
    """Write and commit a small table at once."""
    with ParquetFileWriter(output, path, schema) as writer:
        for row in rows:
            writer.add(row)
        return writer.commit()
