"""What the pages of a Parquet file become when they are unpacked, before anybody unpacks them.

Arrow allocates what a page's header says, up to 2 GB, and a few bytes can stand for a million
values. So the headers are read first; they are Thrift's compact protocol, of which three numbers
are wanted.
"""

from typing import BinaryIO, NamedTuple

import pyarrow.parquet as pq

from schemas.errors import Reason, Rejected
from schemas.parquet_footers import I32, STRUCT, Compact

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

    Args:
        opened: the file; its position is changed.
        chunk: the column in one row group.
        size_bytes: of the file.

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
