"""Thrift's compact protocol, in which Parquet writes its footer and the headers of its pages.

Arrow reads both for us; we look first where it would trust a number of a stranger's file.
Source: thrift-compact-protocol.md of Apache Thrift.
"""

from collections.abc import Iterator

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
