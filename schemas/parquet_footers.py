"""A look at a Parquet footer before pyarrow's own, which ends the process over some of them.

pyarrow 25 calls C++ without a guard where it hands out the record of a column in a row group. What
that refuses (a histogram of another length than the column has levels, an encrypted record) is an
error where values are read, and the end of the process where only the record is looked at. So the
bytes are read here as Thrift's compact protocol has them.

Source: thrift-compact-protocol.md of Apache Thrift; parquet.thrift.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

I32, LIST, STRUCT = 5, 9, 12
_FIXED = {1: 0, 2: 0, 3: 1, 7: 8, 13: 16}  # truths, byte, double, uuid: bytes


class Compact:
    """Thrift's compact protocol: numbers are read, everything else is passed over.

    IndexError is the end of the bytes; ValueError what Thrift refuses, too.
    """

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def byte(self) -> int:
        """The next byte, 0..255."""
        self.at += 1
        return self.raw[self.at - 1]

    def unsigned(self) -> int:
        """A number of one to ten bytes."""
        number = shift = 0
        while True:
            part = self.byte()
            number |= (part & 0x7F) << shift
            shift += 7
            if part < 0x80:
                return number
            if shift >= 70:
                raise ValueError("a number of more than ten bytes")

    def signed(self, bits: int) -> int:
        """A number of 16, 32 or 64 bits with its sign."""
        number = self.unsigned() & (1 << bits) - 1
        return (number >> 1) ^ -(number & 1)

    def fields(self) -> Iterator[tuple[int, int]]:
        """(number, type) of each field of a structure, whose value must be read or skipped."""
        field = 0
        while (head := self.byte()) & 15:
            field = field + (head >> 4) if head >> 4 else self.signed(16)
            yield field, head & 15

    def items(self) -> tuple[int, int]:
        """(how many, type) of a list, whose items must be read or skipped."""
        head = self.byte()
        return head >> 4 if head >> 4 < 15 else self.unsigned(), head & 15

    def skip(self, kind: int, depth: int = 64) -> None:
        """Pass over a value of that type."""
        if not depth:
            raise ValueError("nested too deep")
        if kind in _FIXED:
            self.at += _FIXED[kind]
        elif kind in {4, 5, 6}:
            self.unsigned()
        elif kind == 8:
            length = self.unsigned()  # moves `at` itself
            self.at += length
        elif kind in {9, 10}:  # list and set
            count, item = self.items()
            self._skip_items(count, [item], depth)
        elif kind == 11:  # map
            if count := self.unsigned():
                kinds = self.byte()
                self._skip_items(count, [kinds >> 4, kinds], depth)
        elif kind == STRUCT:
            for _, of in self.fields():
                self.skip(of, depth - 1)
        else:
            raise ValueError(f"a field of type {kind}")
        if self.at > len(self.raw):
            raise IndexError

    def _skip_items(self, count: int, kinds: list[int], depth: int) -> None:
        for _ in range(count):
            for kind in kinds:
                if kind & 15 in {1, 2}:  # as a field, a truth has no byte of its own
                    self.byte()
                else:
                    self.skip(kind & 15, depth - 1)


_ROW_GROUPS, _COLUMNS, _RECORD, _SIZES = 4, 1, 3, 16  # field numbers of parquet.thrift
_ENCRYPTED = (8, 9)
_BYTES_OF_TEXTS, _REPETITIONS, _DEFINITIONS = 1, 2, 3

_MOST_REMEMBERED = 1 << 16  # some 6 MB; then it starts anew
_passed: set[bytes] = set()  # SHA-256 of footers: the loader opens a shard for each row group


def check_footer(opened: Any, parquet: pq.ParquetFile) -> None:
    """Refuse a footer over which `metadata.row_group(n).column(m)` would end the process.

    Args:
        opened: the file, read from the end; its position is changed.
        parquet: the same file.

    Raises:
        ValueError: says what is wrong.

    Cost: 30 us for a column of a row group, and a SHA-256 of the footer if this process has checked
        it before; two short reads.
    """
    size = opened.seek(0, 2)
    opened.seek(size - 8)
    length = int.from_bytes(opened.read(4), "little")
    opened.seek(size - 8 - length)
    raw = opened.read(length)
    digest = hashlib.sha256(raw).digest()
    if digest in _passed:
        return
    footer = Compact(raw)
    columns = [parquet.schema.column(n) for n in range(parquet.metadata.num_columns)]
    levels = [
        {_REPETITIONS: column.max_repetition_level, _DEFINITIONS: column.max_definition_level}
        for column in columns
    ]
    is_text = [column.physical_type == "BYTE_ARRAY" for column in columns]
    try:
        for group in _structures(footer, _ROW_GROUPS):
            for number, _ in enumerate(_structures(footer, _COLUMNS)):
                if number >= len(columns):
                    raise ValueError(f"row group {group} with more columns than the schema")
                _check_column(footer, levels[number], columns[number].path, is_text[number])
    except IndexError as error:
        raise ValueError("a footer that ends before its end") from error
    if len(_passed) >= _MOST_REMEMBERED:
        _passed.clear()
    _passed.add(digest)


def _structures(compact: Compact, wanted: int) -> Iterator[int]:
    """Stand at the beginning of each structure of a list, which is a field of what comes next."""
    for field, kind in compact.fields():
        if field == wanted and kind == LIST:
            count, item = compact.items()
            if item != STRUCT:
                raise ValueError(f"items of type {item} in field {field}")
            yield from range(count)
        else:
            compact.skip(kind)


def _check_column(compact: Compact, levels: dict[int, int], path: str, is_text: bool) -> None:
    for field, kind in compact.fields():
        if field in _ENCRYPTED:
            raise ValueError(f"column {path} encrypted")
        if field != _RECORD or kind != STRUCT:
            compact.skip(kind)
            continue
        for inner, of in compact.fields():
            if inner == _SIZES and of == STRUCT:
                _check_sizes(compact, levels, path, is_text)
            else:
                compact.skip(of)


def _check_sizes(compact: Compact, levels: dict[int, int], path: str, is_text: bool) -> None:
    for field, kind in compact.fields():
        if field == _BYTES_OF_TEXTS and not is_text:
            raise ValueError(f"column {path} with the size of texts that it does not hold")
        if field in levels and kind == LIST:
            count, item = compact.items()
            if count not in (0, levels[field] + 1):
                raise ValueError(
                    f"column {path} with {count} counts for {levels[field] + 1} levels"
                )
            for _ in range(count):
                compact.skip(item)
        else:
            compact.skip(kind)
