import hashlib
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


def test_sizes_that_fill_no_batch_in_one_epoch_are_told(mixed):
    tall = mixed.sizes[TALL]
    assert starving_sizes(mixed, tall) == {}
    assert starving_sizes(mixed, tall + 1) == {TALL: tall}


def test_a_size_with_few_rows_fills_its_batches_over_epochs():
    index = index_of([SQUARE] * 16 + [TALL] * 3)
    waited = []
    for epoch in range(8):
        planned = plan(index, epoch=epoch)
        (usual, few), drawn_in = np.split(planned.batches, [2]), planned.drawn_in
        assert sorted(usual.ravel()) == list(range(16))
        assert (drawn_in[:2] == epoch).all()
        assert planned.dropped == 0
        # 3 rows an epoch: 8 of them are there in the third, the sixth and the eighth epoch.
        assert len(few) == (epoch in {2, 5, 7})
        waited += zip(few.ravel().tolist(), drawn_in[2:].ravel().tolist(), strict=True)
        assert all(turn <= epoch for _, turn in waited)
    # Every row of every epoch came, once, and in another order each time.
    assert sorted(waited) == [(row, turn) for row in (16, 17, 18) for turn in range(8)]
    orders = {tuple(row for row, turn in waited if turn == each) for each in range(8)}
    assert len(orders) > 2


@pytest.mark.parametrize(
    ("sizes", "digest"),
    [([SQUARE] * 100, "88bc420f9670a0eb"), ([SQUARE, WIDE] * 60, "8812ea1b9785141d")],
)
def test_where_every_size_fills_a_batch_the_plan_is_that_of_older_releases(sizes, digest):
    planned = plan(index_of(sizes), epoch=3)
    assert (planned.drawn_in == 3).all()
    assert hashlib.sha256(planned.batches.astype("<i8").tobytes()).hexdigest()[:16] == digest


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
