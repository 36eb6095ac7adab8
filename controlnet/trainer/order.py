"""Which rows make up which batch of an epoch: a pure function, so that a run can be continued.

Shuffling is by blocks: some row groups, anywhere in the data set, are read together and their rows
mixed. A reader then holds one block in memory, whatever the size of the data set.
"""

import dataclasses
import hashlib

import numpy as np

from controlnet.trainer.index import Index
from schemas.errors import ConfigError

SHUFFLE_GROUPS = 16


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EpochPlan:
    """The batches of one epoch, in order."""

    batches: np.ndarray  # (batches, batch_size) int64: row numbers of the index
    dropped: int  # rows that did not fill a last batch of their size
    block_rows: int  # rows of the largest block: what a reader has to hold

    def __len__(self) -> int:
        return len(self.batches)


def plan_epoch(
    index: Index, *, seed: int, epoch: int, batch_size: int, shuffle_groups: int = SHUFFLE_GROUPS
) -> EpochPlan:
    """Batches of rows of equal size (width, height); no row comes twice.

    Args:
        index: of the data set.
        seed: of the run.
        epoch: 0, 1, …; each has its own order.
        batch_size: rows of a batch, all processes together.
        shuffle_groups: row groups whose rows are mixed with each other, > 0.

    Returns:
        At least one batch. A batch comes when its last row does: sizes wait for each other across
        blocks, but not across epochs.

    Raises:
        ConfigError: no size has enough rows for one batch, or a number is out of range.

    Cost: 0.3 s for a million rows on one core of an AMD EPYC (measured 2026-11-23).
    """
    if batch_size < 1 or shuffle_groups < 1:
        raise ConfigError(
            f"{index.path}: need batch_size >= 1 and shuffle_groups >= 1, "
            f"got {batch_size} and {shuffle_groups}"
        )
    rng = np.random.default_rng(_seed_of(seed, epoch))
    blocks = _blocks(index.group_numbers, rng, shuffle_groups)
    rows = np.lexsort((rng.random(len(index)), blocks))  # block by block, mixed inside
    sizes = np.unique(index.size_codes, return_inverse=True)[1]
    dealt = _deal(sizes[rows], batch_size)
    if not len(dealt):
        most = max(index.sizes.values())
        raise ConfigError(
            f"{index.path}: need at least {batch_size} rows of one size for a batch, got at most "
            f"{most}; take a smaller batch or generate with another --fit"
        )
    batches = rows[dealt]
    return EpochPlan(
        batches=batches,
        dropped=len(index) - batches.size,
        block_rows=int(np.bincount(blocks).max()),
    )


def starving_sizes(index: Index, batch_size: int) -> dict[tuple[int, int], int]:
    """Sizes that never fill a batch: (width, height) in px -> rows that are never seen."""
    return {size: rows for size, rows in index.sizes.items() if rows < batch_size}


def _seed_of(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"order:{seed}:{epoch}".encode()).digest()[:16], "big")


def _blocks(groups: np.ndarray, rng: np.random.Generator, shuffle_groups: int) -> np.ndarray:
    """(N,) int64: the block of each row, after the row groups were shuffled."""
    places = rng.permutation(int(groups[-1]) + 1)
    return places[groups] // shuffle_groups


def _deal(sizes: np.ndarray, batch_size: int) -> np.ndarray:
    """Places in the sequence, dealt into batches of one size each.

    Args:
        sizes: (N,) size number of each row in the order in which rows come.
        batch_size: rows of a batch.

    Returns:
        (batches, batch_size) int64, ordered by when a batch gets its last row.
    """
    by_size = np.argsort(sizes, kind="stable")
    counts = np.bincount(sizes)
    starts = np.cumsum(counts) - counts
    turn = np.arange(len(sizes)) - np.repeat(starts, counts)  # the n-th row of its size
    full = turn < np.repeat(counts // batch_size * batch_size, counts)
    batches = by_size[full].reshape(-1, batch_size)
    return batches[np.argsort(batches[:, -1])]
