"""Which rows show the same picture: exact copies by hash, near copies by 64-bit pHash."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.inspection.measure import Pixels

MAX_DISTANCE = 4
"""Bits of 64 that may differ: re-encoding flips 0 to 2, brightening 0 to 4, cutting 1 % off every
side 2 to 4, another photograph 24 or more (measured on seven photographs, 2026-11-23)."""

MIN_CORRELATION = 0.96
"""Of the 8x8 RGB copies. pHash knows no colour and little of plain drawings: alone it calls 852 of
2,000 drawn shapes copies, with this 80, all a pixel or two apart. Photographs that are encoded
again, brightened, cut or made paler stay above 0.98 (measured 2026-11-23)."""

_BANDS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))  # (first bit, bits): five, so that
# four flipped bits leave at least one band as it was
_BLOCK = 2048


def find_duplicates(
    source_digests: Sequence[bytes], pixels: Pixels
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Groups of rows that show the same picture.

    Returns:
        (exact, near): exact copies share source bytes or stored bytes; a near group holds at least
        two pictures that are no exact copies, and all exact copies of them.
    """
    sets = Sets(len(source_digests))
    join_equal(sets, source_digests, np.arange(len(source_digests)))
    join_equal(sets, pixels.images["digest"], pixels.rows)
    exact = sets.groups()
    exact_set = sets.labels()
    shown = pixels.images[~pixels.is_flat]
    join_near(sets, shown["phash"], shown["signature"], pixels.rows[~pixels.is_flat])
    near = [rows for rows in sets.groups() if len(np.unique(exact_set[rows])) > 1]
    return exact, near


class Sets:
    """Disjoint sets of rows (union-find with path halving)."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size)

    def find(self, row: int) -> int:
        """Representative of the row's set."""
        parent = self._parent
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    def join(self, first: int, second: int) -> None:
        """Make one set of two."""
        first, second = sorted((self.find(first), self.find(second)))
        self._parent[second] = first

    def labels(self) -> np.ndarray:
        """Representative of every row's set."""
        return np.array([self.find(row) for row in range(len(self._parent))], np.int64)

    def groups(self) -> list[np.ndarray]:
        """Sets of two rows and more, largest first, then by first row."""
        return sorted(runs(self.labels()), key=lambda rows: (-len(rows), rows[0]))


def runs(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of equal labels, ascending, for every label that occurs more than once."""
    order = np.argsort(labels, kind="stable")
    ends = np.flatnonzero(np.diff(labels[order])) + 1
    for indices in np.split(order, ends):
        if len(indices) > 1:
            yield indices


def join_equal(sets: Sets, digests: Sequence[bytes] | np.ndarray, rows: np.ndarray) -> None:
    """Join rows whose digests are the same.

    Args:
        sets: over all rows of the data set.
        digests: of equal length.
        rows: row number of each digest.
    """
    if not len(digests):
        return
    if not isinstance(digests, np.ndarray):
        digests = np.frombuffer(b"".join(digests), f"V{len(digests[0])}")
    _, labels = np.unique(digests, return_inverse=True)
    for indices in runs(labels):
        for index in indices[1:]:
            sets.join(int(rows[indices[0]]), int(rows[index]))


def join_near(sets: Sets, phashes: np.ndarray, signatures: np.ndarray, rows: np.ndarray) -> None:
    """Join rows whose pictures look the same.

    Rows with the same hash are boiled down to one leader for each look; leaders meet others that
    agree with them in one of five bands of bits, so work grows with the buckets, not with n². The
    sets do not depend on the order of rows: `generate --keep-copies-together` sees another one.

    Args:
        sets: over all rows of the data set.
        phashes: (n,) uint64. Leave flat pictures out: their hash is noise.
        signatures: (n, 192) uint8, 8x8 RGB copies.
        rows: (n,) row number of each.

    Cost: 0.9 s for 100,000 different pictures, 9 s for a million, on one core
    (measured 2026-11-23, AMD EPYC).
    """
    if len(rows) < 2:
        return
    directions = _directions(signatures)
    leaders = _leaders(sets, phashes, signatures, directions, rows)
    hashes, directions, rows = phashes[leaders], directions[leaders], rows[leaders]
    for first_bit, bits in _BANDS:
        band = (hashes >> np.uint64(first_bit)) & np.uint64((1 << bits) - 1)
        for bucket in runs(band):
            for first, other in _close_pairs(bucket, hashes, directions):
                sets.join(int(rows[first]), int(rows[other]))


def _directions(signatures: np.ndarray) -> np.ndarray:
    """Signatures as unit vectors without mean: their products are correlations."""
    centred = signatures.astype(np.float32)
    centred -= centred.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)


def _leaders(
    sets: Sets,
    phashes: np.ndarray,
    signatures: np.ndarray,
    directions: np.ndarray,
    rows: np.ndarray,
) -> np.ndarray:
    """One index for every look among rows of equal hash; joins the others to theirs."""
    is_leader = np.ones(len(rows), bool)
    for left in runs(phashes):
        # The first one leads: by its pixels, since the order of rows must not matter.
        left = np.array(sorted(left, key=lambda index: signatures[index].tobytes()))
        while len(left) > 1:
            alike = directions[left[1:]] @ directions[left[0]] >= MIN_CORRELATION
            for index in left[1:][alike]:
                sets.join(int(rows[left[0]]), int(rows[index]))
                is_leader[index] = False
            left = left[1:][~alike]
    return np.flatnonzero(is_leader)


def _close_pairs(
    bucket: np.ndarray, hashes: np.ndarray, directions: np.ndarray
) -> Iterator[tuple[int, int]]:
    for start in range(0, len(bucket), _BLOCK):
        block = bucket[start : start + _BLOCK]
        rest = bucket[start:]
        # A block at a time: of a large bucket the whole matrix would not fit into memory.
        distance = np.bitwise_count(hashes[block][:, None] ^ hashes[rest][None, :])
        for left, other in np.argwhere(np.triu(distance <= MAX_DISTANCE, 1)):
            first, second = int(block[left]), int(rest[other])
            if directions[first] @ directions[second] >= MIN_CORRELATION:
                yield first, second
