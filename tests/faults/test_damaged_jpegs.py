"""Damage that can be seen in a JPEG is told; what is whole is taken. Figures: damaged_jpegs.py."""

import io

import numpy as np
import pytest
import skimage
from PIL import Image

from tests.faults.damaged_jpegs import (
    damaged,
    good,
    is_visible,
    measure_damage,
    measure_good,
    outcome,
    photographs,
)


def test_lost_data_never_becomes_a_row_and_few_flipped_bits_do():
    report = measure_damage(240)
    assert sum(report["visible"].values()) > 100
    lost = ("cut", "cut, end mark kept", "hole", "large hole")
    assert {kind: report["became rows"].get(kind) for kind in lost} == dict.fromkeys(lost, 0)
    assert report["share"] <= 0.01


def test_good_jpegs_of_all_encoders_are_taken():
    assert measure_good(400) == []


def test_the_measure_itself_sees_damage_and_its_absence():
    whole = good(0, photographs())
    assert not is_visible(whole, whole)
    assert is_visible(*next(d[1:] for d in (damaged(n, photographs()) for n in (0, 6, 12))))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_half_of_another_format_never_becomes_a_row(kind):
    picture = Image.fromarray(skimage.data.chelsea())
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    raw = buffer.getvalue()
    for share in (0.3, 0.6, 0.9, 0.99):
        assert outcome(raw[: int(len(raw) * share)]) == "truncated"


def test_a_flipped_bit_in_the_pixels_of_a_png_is_told():
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()).save(buffer, "PNG", compress_level=0)
    raw = bytearray(buffer.getvalue())
    raw[len(raw) // 2] ^= 8  # stored, not deflated: nothing but the sum can tell
    assert outcome(bytes(raw)) == "damaged"


def test_a_flat_picture_whose_data_is_zeros_is_not_a_hole():
    buffer = io.BytesIO()
    flat = np.full((800, 800, 3), 128, np.uint8)
    flat[:8, :8] = skimage.data.chelsea()[:8, :8]
    Image.fromarray(flat).save(buffer, "JPEG", optimize=True)
    assert bytes(14) in buffer.getvalue()
    assert outcome(buffer.getvalue()) == "row"
