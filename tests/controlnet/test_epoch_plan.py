import time

import numpy as np
import pyarrow.fs as pafs
import pytest

from controlnet.trainer.index import Index
from controlnet.trainer.loader import plan_epoch, starving_sizes
from schemas.errors import ConfigError

WIDE, SQUARE, TALL = (96, 64), (64, 64), (64, 96)


def index_of(sizes, group_rows=10):
    """An index whose rows have these (width, height), in shards of five row groups."""
    sizes = np.array(sizes, np.int32)
    groups = np.arange(len(sizes)) // group_rows
    return Index(
        path="set",
        split="train",
        condition="canny",
        files=("a",),
        filesystem=pafs.LocalFileSystem(),
        annotator={},
        latents=None,
        keys=np.arange(len(sizes)).astype("S32"),
        widths=sizes[:, 0],
        heights=sizes[:, 1],
        file_numbers=(groups // 5).astype(np.int32),
        row_groups=(groups % 5).astype(np.int32),
        rows_in_group=(np.arange(len(sizes)) % group_rows).astype(np.int32),
        null_maps=0,
        null_latents=0,
    )


@pytest.fixture
def mixed():
    """1,003 rows of three sizes, of which one is rare."""
    rng = np.random.default_rng(0)
    kinds = rng.choice(3, 1003, p=[0.6, 0.37, 0.03])
    return index_of([(SQUARE, WIDE, TALL)[kind] for kind in kinds])


def plan(index, **changes):
    return plan_epoch(index, **({"seed": 1, "epoch": 0, "batch_size": 8} | changes))


def test_every_row_comes_at_most_once_and_all_batches_are_full(mixed):
    planned = plan(mixed)
    rows = planned.batches.ravel()
    assert planned.batches.shape[1] == 8
    assert len(np.unique(rows)) == len(rows)
    assert len(rows) + planned.dropped == 1003
    assert planned.dropped == sum(count % 8 for count in mixed.sizes.values())


def test_where_the_batches_divide_every_row_comes(mixed):
    assert sorted(plan(index_of([SQUARE] * 96)).batches.ravel()) == list(range(96))


def test_sizes_never_mix(mixed):
    for rows in plan(mixed).batches:
        assert len({(mixed.widths[row], mixed.heights[row]) for row in rows}) == 1


def test_it_depends_on_seed_and_epoch_alone(mixed):
    assert np.array_equal(plan(mixed).batches, plan(mixed).batches)
    assert not np.array_equal(plan(mixed).batches, plan(mixed, epoch=1).batches)
    assert not np.array_equal(plan(mixed).batches, plan(mixed, seed=2).batches)
    assert len(plan(mixed)) == len(plan(mixed, epoch=7))


def test_a_smaller_batch_sees_the_rows_in_the_same_order():
    index = index_of([SQUARE] * 96)
    assert np.array_equal(plan(index).batches.ravel(), plan(index, batch_size=4).batches.ravel())


def test_a_block_is_used_up_before_the_next_one_begins():
    index = index_of([SQUARE] * 320)
    planned = plan(index, shuffle_groups=4)
    assert planned.block_rows == 40
    groups = index.group_numbers[planned.batches.reshape(8, 40)]
    blocks = [set(row.tolist()) for row in groups]
    assert [len(block) for block in blocks] == [4] * 8
    assert len(set().union(*blocks)) == 32
    # Mixed inside: the first quarter of a block comes from more than one row group.
    assert all(len(set(row[:10].tolist())) > 1 for row in groups)


def test_blocks_are_of_row_groups_from_anywhere():
    index = index_of([SQUARE] * 320)
    first = plan(index, shuffle_groups=4).batches.ravel()[:40]
    assert np.ptp(index.group_numbers[first]) > 8


def test_a_rare_size_waits_across_blocks():
    sizes = [SQUARE] * 160
    for row in range(0, 160, 20):
        sizes[row] = TALL  # one in every second row group: eight make one batch
    planned = plan(index_of(sizes), shuffle_groups=2)
    assert planned.dropped == 0
    rare = [number for number, rows in enumerate(planned.batches) if rows[0] % 20 == 0]
    assert rare
    assert rare[-1] > len(planned) // 2


def test_sizes_take_turns_as_their_batches_fill_up():
    index = index_of([SQUARE, WIDE] * 160)
    widths = index.widths[plan(index, shuffle_groups=4).batches[:, 0]]
    # One after the other in every block of 40 rows, not all of one size and then all of the other.
    assert np.count_nonzero(np.diff(widths)) >= 8


def test_sizes_that_never_fill_a_batch_are_told(mixed):
    tall = mixed.sizes[TALL]
    assert starving_sizes(mixed, tall) == {}
    assert starving_sizes(mixed, tall + 1) == {TALL: tall}


def test_not_one_batch_is_an_error():
    index = index_of([SQUARE] * 3 + [WIDE] * 7)
    with pytest.raises(ConfigError, match=r"need at least 8 rows of one size .* got at most 7; ta"):
        plan(index)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"shuffle_groups": 0}])
def test_numbers_out_of_range_are_refused(mixed, wrong):
    with pytest.raises(ConfigError, match="need batch_size >= 1 and shuffle_groups >= 1"):
        plan(mixed, **wrong)


def test_a_million_rows_take_less_than_three_seconds():
    index = index_of(np.tile([SQUARE, WIDE, TALL, SQUARE], (250_000, 1)), group_rows=100)
    start = time.process_time()
    planned = plan(index, batch_size=64)
    assert time.process_time() - start < 3
    assert planned.batches.size > 999_000
