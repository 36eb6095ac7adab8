"""The same picture twice: found when it is, not found when it is not."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from pipeline.inspection.duplicates import MAX_DISTANCE, Sets, join_equal, join_near
from pipeline.inspection.measure import measure_image
from tests.pipeline.handmade import PHOTOGRAPHS, encoded, photograph


def near_groups(pictures):
    """Groups of near copies among encoded pictures."""
    measured = np.stack([measure_image(picture) for picture in pictures])
    sets = Sets(len(pictures))
    join_near(
        sets,
        measured["phash"],
        measured["signature"],
        np.arange(len(pictures)),
    )
    return [rows.tolist() for rows in sets.groups()]


def changed(rgb, how):
    picture = Image.fromarray(rgb)
    side = picture.width
    changes = {
        "encoded again": lambda: encoded(rgb, quality=30),
        "as PNG": lambda: encoded(rgb, "PNG"),
        "as WebP": lambda: encoded(rgb, "WEBP", quality=80),
        "brightened": lambda: encoded(np.asarray(ImageEnhance.Brightness(picture).enhance(1.1))),
        "paler": lambda: encoded(np.asarray(ImageEnhance.Color(picture).enhance(0.7))),
        "halved": lambda: encoded(np.asarray(picture.resize((side // 2, side // 2)))),
        "cut by 1 %": lambda: encoded(
            np.asarray(picture.crop((3, 3, side - 3, side - 3)).resize((side, side)))
        ),
    }
    return changes[how]()


@pytest.mark.parametrize(
    "how",
    ["encoded again", "as PNG", "as WebP", "brightened", "paler", "halved", "cut by 1 %"],
)
def test_a_changed_copy_of_each_photograph_is_found_and_nothing_else(how):
    originals = [photograph(name, 384) for name in PHOTOGRAPHS]
    pictures = [encoded(rgb, quality=95) for rgb in originals]
    pictures += [changed(rgb, how) for rgb in originals]
    count = len(originals)
    assert near_groups(pictures) == [[index, index + count] for index in range(count)]


def test_different_photographs_are_not_copies():
    assert near_groups([encoded(photograph(name)) for name in PHOTOGRAPHS]) == []


def test_a_red_disc_is_no_copy_of_a_blue_one_in_the_same_place():
    discs = []
    for colour in ("red", "blue", "red"):
        picture = Image.new("RGB", (128, 128), "white")
        ImageDraw.Draw(picture).ellipse((34, 34, 94, 94), fill=colour)
        discs.append(encoded(np.asarray(picture), quality=95))
    assert near_groups(discs) == [[0, 2]]


def test_a_mirrored_photograph_is_another_picture():
    rgb = photograph("astronaut")
    assert near_groups([encoded(rgb), encoded(rgb[:, ::-1].copy())]) == []


def test_bands_find_the_same_pairs_as_comparing_all_with_all():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 400, dtype=np.uint64)
    for index in range(200, 400):  # 0 to 7 bits away from one of the first 200
        for bit in rng.choice(64, rng.integers(0, 8), replace=False):
            hashes[index] = hashes[index - 200] ^ (np.uint64(1) << np.uint64(bit))
            hashes[index - 200] = hashes[index] if bit == 63 else hashes[index - 200]
    signatures = np.tile(rng.integers(0, 256, 192, dtype=np.uint8), (400, 1))
    found, expected = Sets(400), Sets(400)
    join_near(found, hashes, signatures, np.arange(400))
    for one, other in itertools.combinations(range(400), 2):
        if int(hashes[one] ^ hashes[other]).bit_count() <= MAX_DISTANCE:
            expected.join(one, other)
    assert found.labels().tolist() == expected.labels().tolist()
    assert len(found.groups()) > 50


def test_four_flipped_bits_are_found_wherever_they_are():
    rng = np.random.default_rng(1)
    signature = rng.integers(0, 256, (1, 192), dtype=np.uint8).repeat(2, axis=0)
    for _ in range(200):
        base = int(rng.integers(0, 2**63))
        bits = rng.choice(64, MAX_DISTANCE, replace=False).tolist()
        other = base ^ sum(1 << bit for bit in bits)
        sets = Sets(2)
        join_near(sets, np.array([base, other], np.uint64), signature, np.arange(2))
        assert len(sets.groups()) == 1, bits


def test_one_hash_that_many_different_pictures_share_is_told_apart_by_colour():
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 256, (3, 192), dtype=np.uint8)
    sets = Sets(300)
    join_near(sets, np.full(300, 7, np.uint64), looks.repeat(100, axis=0), np.arange(300))
    assert [len(rows) for rows in sets.groups()] == [100, 100, 100]


def test_equal_digests_join_rows_even_if_they_end_in_zeros():
    sets = Sets(5)
    digests = [b"a" * 15 + b"\0", b"b" * 16, b"a" * 15 + b"\0", b"\0" * 16, b"\0" * 16]
    join_equal(sets, digests, np.arange(5))
    assert [rows.tolist() for rows in sets.groups()] == [[0, 2], [3, 4]]


def test_no_rows_have_no_groups():
    sets = Sets(0)
    join_equal(sets, [], np.arange(0))
    join_near(sets, np.zeros(0, np.uint64), np.zeros((0, 192), np.uint8), np.arange(0))
    assert sets.groups() == []
