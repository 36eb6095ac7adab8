"""Parquet files: footers for the listing, row groups streamed a few rows at a time for reading."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources import captions, files
from pipeline.sources.captions import Caption, ReadCaption
from pipeline.sources.columns import caption_column, image_column
from pipeline.sources.listing import problem_ref
from pipeline.sources.spec import Container, Notes, RawImage, SourceSpec
from schemas.columns import bounded_items, kind_of
from schemas.errors import Reason, Rejected
from schemas.ledger import Unused
from schemas.parquet_footers import I32, STRUCT, Compact, check_footer
from schemas.records import ImageRef, Place, Problem, as_utf8, key_of

_BATCH_ROWS = 8  # in memory at a time, beside one page of each column
_BATCH_BYTES = 512 * 2**20  # if each cell were the longest that its dictionary allows
_ROWS_OF_GROUP = 1 << 20  # or as many as the file has bytes: rows of nothing cost none
_BUFFER_BYTES = 1 << 20
_UNFOLDS = {"UNCOMPRESSED": 1, "SNAPPY": 32}  # what they take at most, as a multiple

Read = Callable[[], RawImage]


def index_parquet(container: Container, spec: SourceSpec, notes: Notes) -> Iterator[ImageRef]:
    """References to the rows of a Parquet file, from its footer.

    Yields:
        One for each row, in order; a single one with a problem if the file cannot be read.
    """
    try:
        with _Reader(container.place) as reader:
            image_column(reader.schema, spec.image_column, spec.map_columns)
            rows_of_groups = reader.rows_of_groups()
    except Rejected as rejected:
        problem = Problem(reason=rejected.reason, detail=rejected.detail)
        ref = problem_ref(container.relative, container.uri, problem)
        notes.found += 1
        notes.pictures += 1
        yield dataclasses.replace(ref, group=as_utf8(container.relative))
        return
    first = 0
    notes.found += sum(rows_of_groups)
    for number, rows in enumerate(rows_of_groups):
        notes.pictures += rows
        group = f"{as_utf8(container.relative)}#rg{number:05d}"
        for row in range(rows):
            name = f"{container.relative}#{first + row}"
            yield ImageRef(
                key=key_of(name),
                source=as_utf8(name),
                place=container.place,
                row_group=number,
                row=row,
                group=group,
                ordinal=row,
            )
        first += rows


def read_rows(refs: Sequence[ImageRef], spec: SourceSpec) -> Iterator[tuple[ImageRef, Read]]:
    """Rows in the order of `refs`; each run of ascending rows is one pass over its row group."""
    # References are in the order of the files: each is opened once.
    for place, of_file in itertools.groupby(refs, lambda ref: ref.place):
        rest = list(of_file)
        try:
            reader = _Reader(place)
        except Rejected as rejected:
            yield from ((ref, functools.partial(_fail, rejected)) for ref in rest)
            continue
        with reader:
            for run in _runs(rest):
                yield from _read_run(reader, run, spec)


def read_schema(place: Place) -> pa.Schema:
    """Arrow schema of a Parquet file.

    Raises:
        Rejected: it cannot be opened, or is damaged.
    """
    with _Reader(place) as reader:
        return reader.schema


def read_columns(place: Place, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file that fits in memory, a few at a time.

    Raises:
        Rejected: it cannot be opened, or is damaged.
    """
    with _Reader(place) as reader:
        for group in range(len(reader.rows_of_groups())):
            for batch in reader.batches(group, list(columns)):
                few = batch.num_rows if batch.nbytes < _BATCH_BYTES // 8 else 1
                try:
                    for row in range(0, batch.num_rows, few):
                        yield from batch.slice(row, few).to_pylist()
                except UnicodeDecodeError as error:
                    raise Rejected(Reason.BROKEN_CONTAINER, f"text is not UTF-8: {error}") from None


def first_values(place: Place, columns: Sequence[str]) -> dict[str, str]:
    """How the first value of each column of text starts; none where it cannot be read."""
    try:
        first = next(read_columns(place, columns), {}) if columns else {}
    except Rejected:
        return {}
    return {name: value[:200] for name, value in first.items() if isinstance(value, str)}


def _runs(refs: Sequence[ImageRef]) -> Iterator[list[ImageRef]]:
    run: list[ImageRef] = []
    for ref in refs:
        if run and (ref.row_group != run[-1].row_group or _row(ref) <= _row(run[-1])):
            yield run
            run = []
        run.append(ref)
    if run:
        yield run


def _row(ref: ImageRef) -> int:
    assert ref.row is not None
    return ref.row


def _read_run(
    reader: "_Reader", run: list[ImageRef], spec: SourceSpec
) -> Iterator[tuple[ImageRef, Read]]:
    waiting = iter(run)
    ref = next(waiting, None)
    failure = Rejected(Reason.BROKEN_CONTAINER, "the row group has fewer rows than its footer says")
    try:
        image = image_column(reader.schema, spec.image_column, spec.map_columns)
        caption = caption_column(reader.schema, spec)
        columns = list(dict.fromkeys([image] if caption is None else [image, caption]))
        maps = [column for column in spec.map_columns if column in reader.schema.names]
        columns = list(dict.fromkeys([*columns, *sorted(maps), *_kept(reader.schema, spec)]))
        first = 0
        for batch in reader.batches(run[0].row_group or 0, columns):
            while ref is not None and _row(ref) < first + batch.num_rows:
                yield ref, _row_reader(batch, ref, _row(ref) - first, image, caption, spec)
                ref = next(waiting, None)
            first += batch.num_rows
            if ref is None:
                return
    except Rejected as rejected:
        failure = rejected
    if ref is not None:
        for missing in itertools.chain([ref], waiting):
            yield missing, functools.partial(_fail, failure)


def _fail(rejected: Rejected) -> RawImage:
    raise Rejected(rejected.reason, rejected.detail)


def _row_reader(
    batch: pa.RecordBatch,
    ref: ImageRef,
    row: int,
    image: str,
    caption: str | None,
    spec: SourceSpec,
) -> Read:
    """Copies the row's cells, so that the batch can go."""
    raw, detail = _bytes_of(batch.column(image)[row])
    if raw is None:
        return functools.partial(_fail, Rejected(Reason.NULL_IMAGE, detail))
    read = RawImage(raw=raw, **_caption(batch, ref, row, caption, spec)._asdict())
    if spec.pairings:
        read = dataclasses.replace(read, maps=dict(_maps(batch, row, spec)))
    if spec.keep:
        kept = _kept(batch.schema, spec)
        values = {name: _value(batch.column(name)[row]) for name in kept}
        read = dataclasses.replace(read, values=values)
    return lambda: read


def _kept(schema: pa.Schema, spec: SourceSpec) -> list[str]:
    """Columns that are kept, as far as a file has them once."""
    return [name for name in spec.keep if schema.names.count(name) == 1]


def _value(cell: pa.Scalar) -> Any:
    """What is in a cell, or a ValueError that says why that cannot be kept."""
    if not cell.is_valid:
        return None
    if kind_of(cell.type) is None:  # the first file had another type
        return ValueError(f"need a value that is not nested, got {cell.type}")
    try:
        if isinstance(cell, pa.ListScalar):
            return bounded_items(item.as_py() for item in cell.values)
        return cell.as_py()
    except UnicodeDecodeError:
        return ValueError("need text in UTF-8, got other bytes")


def _maps(
    batch: pa.RecordBatch, row: int, spec: SourceSpec
) -> Iterator[tuple[str, bytes | Rejected]]:
    for pairing in spec.pairings:
        raw, detail = None, f"no column {pairing.column} in this file"
        if pairing.column in batch.schema.names:
            raw, detail = _bytes_of(batch.column(pairing.column)[row])
        yield pairing.condition, raw or Rejected(Reason.MAP_MISSING, detail)


def _bytes_of(cell: pa.Scalar) -> tuple[bytes | None, str]:
    """Bytes of a picture's cell; where there are none, why."""
    path = None
    if isinstance(cell, pa.StructScalar):
        if cell.is_valid:
            path = _text(cell["path"]) if "path" in cell else None
            cell = cell["bytes"]
        else:
            cell = pa.scalar(None)
    raw = cell.as_py()
    return raw, f"no bytes, only the path {path!r}" if path else "the cell is null"


def _text(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return repr(cell.cast(pa.binary()).as_py()) if pa.types.is_string(cell.type) else None


def _caption(
    batch: pa.RecordBatch, ref: ImageRef, row: int, column: str | None, spec: SourceSpec
) -> ReadCaption:
    if spec.caption == "fixed":
        return ReadCaption(spec.caption_text, "fixed")
    if spec.caption == "none":
        return ReadCaption(None, None)
    problem = None
    unused: tuple[Unused, ...] = ()
    if column is not None:
        try:
            cell = batch.column(column)[row]
            items = cell.values if isinstance(cell, pa.ListScalar) else None
            value = cell.as_py() if items is None else _few(items)
        except UnicodeDecodeError:
            value, found = "", Caption(problem=captions.bad(f"column {column}: not UTF-8"))
        else:
            choose = captions.chooser(spec, ref.key)
            found = captions.clean(value, where=f"column {column}", choose=choose)
        if found.text is not None:
            return ReadCaption(found.text, f"column:{column}", used=1, was_list=found.was_list)
        problem = found.problem
        if value is not None:
            unused = (Unused.EMPTY if problem is None else Unused.UNUSABLE,)
    if problem is None and (spec.caption == "column" or (column is None and spec.caption_column)):
        wanted = column or spec.caption_column or ", ".join(captions.COLUMNS)
        detail = f"column {wanted}: {'empty' if column else 'not in this file'}"
        problem = Problem(reason=Reason.NO_CAPTION, detail=detail)
    return ReadCaption(None, None, problem, unused)


def _few(items: pa.Array) -> list[Any]:
    """A list of captions, as far as it takes to see that it is too long."""
    return [captions.cut(item.as_py()) for item in items[: captions.MAX_CAPTIONS + 1]]


# Reader -----------------------------------------------------------------------------------------


class _Reader:
    """An open Parquet file whose damage is Rejected and whose outages fly."""

    def __init__(self, place: Place) -> None:
        self._opened = files.open_checked(place)
        self._is_remote = files.is_remote(place.uri)
        try:
            # Without pre-buffering: else a whole row group is held in memory.
            self._parquet = self._guarded(
                functools.partial(
                    pq.ParquetFile, self._opened, pre_buffer=False, buffer_size=_BUFFER_BYTES
                )
            )
            self.schema: pa.Schema = self._guarded(lambda: self._parquet.schema_arrow)
            self._check_footer()
            self._size_bytes = self._opened.seek(0, 2)
        except BaseException:  # a disk's error, too
            self._opened.close()
            raise

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._parquet.close(force=True)
        self._opened.close()

    def _check_footer(self) -> None:
        try:
            check_footer(self._opened, self._parquet)
        except ValueError as error:
            detail = f"its footer is damaged: {error}"
            raise Rejected(Reason.BROKEN_CONTAINER, detail) from error

    def rows_of_groups(self) -> list[int]:
        metadata = self._parquet.metadata
        rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
            raise Rejected(
                Reason.BROKEN_CONTAINER,
                f"its footer says {metadata.num_rows} rows, its row groups {rows[:20]}",
            )
        if max(rows, default=0) > max(_ROWS_OF_GROUP, self._size_bytes):
            raise Rejected(
                Reason.BROKEN_CONTAINER,
                f"a row group of {max(rows)} rows in a file of {self._size_bytes} bytes",
            )
        return rows

    def batches(self, row_group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Rows of the columns, a few at a time.

        Raises:
            Rejected: damaged, or it unpacks to more than the limits of `pages`.
        """
        cell_bytes, lists = self._guarded(lambda: self._measured(row_group, columns))
        parquet = self._parquet
        if lists:  # a row may repeat one long value a million times
            parquet = self._guarded(
                lambda: pq.ParquetFile(
                    self._opened,
                    metadata=self._parquet.metadata,
                    read_dictionary=lists,
                    buffer_size=_BUFFER_BYTES,
                )
            )
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(cell_bytes, 1)))
        batches = self._guarded(
            lambda: parquet.iter_batches(
                rows, row_groups=[row_group], columns=columns, use_threads=False
            )
        )
        while True:
            batch = self._guarded(lambda: next(batches, None))
            if batch is None:
                return
            yield batch

    def _measured(self, row_group: int, columns: Sequence[str]) -> tuple[int, list[str]]:
        """Bytes that a row may take beside its pages, and the columns that are lists."""
        record, cell_bytes, lists = self._parquet.metadata.row_group(row_group), 0, []
        for number in range(record.num_columns):
            chunk, column = record.column(number), self._parquet.schema.column(number)
            if column.path.partition(".")[0] not in {c.partition(".")[0] for c in columns}:
                continue
            is_list = column.max_repetition_level > 0
            if is_list and column.physical_type == "BYTE_ARRAY":
                lists.append(column.path)
            if self._is_remote and not is_list and chunk.compression in _UNFOLDS:
                # On a server each short read is a request: no cell is larger than the column.
                cell_bytes += _UNFOLDS[chunk.compression] * chunk.total_compressed_size
            else:
                found = measure_pages(self._opened, chunk, self._size_bytes)
                unfolds = "DELTA_BYTE_ARRAY" in chunk.encodings
                cell_bytes += found.largest_bytes if unfolds else found.dictionary_bytes
        return cell_bytes, lists

    @staticmethod
    def _guarded(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (pa.ArrowMemoryError, pa.ArrowCancelled):
            raise
        except (pa.ArrowException, UnicodeDecodeError) as error:
            detail = str(error)
        except OSError as error:
            # Arrow reports damaged pages as a bare OSError; a disk's or a network's error has a
            # number or a class of its own.
            if type(error) is not OSError or error.errno is not None:
                raise
            detail = str(error)
        raise Rejected(Reason.BROKEN_CONTAINER, f"Parquet file cannot be read: {detail}")


# Pages --------------------------------------------------------------------------------------------
#
# What they become when they are unpacked, before anybody unpacks them: Arrow allocates what the
# header of a page says, up to 2 GB, and a few bytes can stand for a million values. So headers are
# read first; they are Thrift's compact protocol, of which three numbers are wanted.

_HEADER_BYTES = 1 << 12  # longer ones hold statistics of long values; more is read for them
_MOST_HEADER_BYTES = 1 << 24
_SMALL_PAGE_BYTES = 64 * 2**20
"""Any page may become so much; a larger one only `_RATIO` times what it takes in the file."""

_RATIO = 32  # snappy cannot do more; pictures hardly shrink, long texts three to ten times
_VALUES = 1 << 24  # of one column in a row group, items of lists included
_DICTIONARY_PAGE = 2
_NESTED = {5, 7, 8}  # headers of data and dictionary pages, of which the first field is a count


class Pages(NamedTuple):
    """What the pages of one column in one row group become at most."""

    largest_bytes: int
    dictionary_bytes: int


def measure_pages(opened: BinaryIO, chunk: pq.ColumnChunkMetaData, size_bytes: int) -> Pages:
    """Read the headers of a column's pages.

    Raises:
        Rejected: BROKEN_CONTAINER where pages unpack to more than the limits.

    Cost: one short read a page.
    """
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    end = start + chunk.total_compressed_size
    if not 0 <= start <= end <= size_bytes:
        raise _broken(f"a column from byte {start} to {end} of {size_bytes}")
    largest = dictionary = values = 0
    while start < end:
        header = _header(opened, start, end)
        if header is None:
            break
        if header.unpacked > max(_SMALL_PAGE_BYTES, _RATIO * header.packed):
            raise _broken(
                f"a page of {header.packed} bytes that unpacks to {header.unpacked}, more than "
                f"{_SMALL_PAGE_BYTES} and {_RATIO} times as much"
            )
        largest = max(largest, header.unpacked)
        if header.kind == _DICTIONARY_PAGE:
            dictionary = max(dictionary, header.unpacked)
        else:
            values += header.values
            if values > _VALUES:
                raise _broken(f"{values} values in a column of one row group")
        start += header.length + header.packed
    return Pages(largest, dictionary)


class _Header(NamedTuple):
    length: int
    kind: int
    unpacked: int
    packed: int
    values: int


def _header(opened: BinaryIO, start: int, end: int) -> _Header | None:
    """The header there; None if it is none, as Arrow will say when it comes to it."""
    wanted = 0
    while wanted < min(end - start, _MOST_HEADER_BYTES):
        wanted = min(max(_HEADER_BYTES, 16 * wanted), end - start, _MOST_HEADER_BYTES)
        opened.seek(start)
        try:
            found = _parsed(opened.read(wanted))
        except IndexError:
            continue
        except ValueError:
            return None
        return found if min(found.unpacked, found.packed, found.values) >= 0 else None
    return None


def _parsed(raw: bytes) -> _Header:
    compact = Compact(raw)
    numbers = {1: -1, 2: -1, 3: -1}
    values = 0
    for field, kind in compact.fields():
        if field in numbers and kind == I32:
            numbers[field] = compact.signed(32)
        elif field in _NESTED and kind == STRUCT:
            for inner, of in compact.fields():
                if inner == 1 and of == I32:
                    values = compact.signed(32)
                else:
                    compact.skip(of)
        else:
            compact.skip(kind)
    return _Header(compact.at, numbers[1], numbers[2], numbers[3], values)


def _broken(found: str) -> Rejected:
    return Rejected(Reason.BROKEN_CONTAINER, f"Parquet file with {found}")
