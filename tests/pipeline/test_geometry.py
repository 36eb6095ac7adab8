import itertools

import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.geometry import (
    apply_geometry,
    buckets,
    nearest_bucket,
    plan_geometry,
    smallest_useful_size,
)

FITS = ("crop", "pad", "stretch", "bucket")
SIZES = [(1, 1), (1, 700), (64, 64), (333, 500), (512, 512), (640, 427), (1024, 768), (3000, 401)]


def plan(width, height, *, resolution=512, fit="crop"):
    return plan_geometry(width, height, resolution=resolution, fit=fit)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_stored_image_has_the_planned_size_whatever_comes_in(width, height, fit):
    geometry = plan(width, height, fit=fit)
    out = apply_geometry(np.full((height, width, 3), 9, np.uint8), geometry)
    assert out.shape == (geometry.height, geometry.width, 3)
    assert out.flags.c_contiguous
    if fit != "bucket":
        assert (geometry.width, geometry.height) == (512, 512)


ANY_PLAN = {
    "width": st.integers(1, 20_000),
    "height": st.integers(1, 20_000),
    "resolution": st.integers(8, 192).map(lambda eighth: 8 * eighth),
    "fit": st.sampled_from(FITS),
}


@settings(max_examples=300, derandomize=True, deadline=None)
@given(**ANY_PLAN)
def test_any_picture_is_cut_inside_and_laid_on_the_whole_canvas(width, height, resolution, fit):
    geometry = plan(width, height, resolution=resolution, fit=fit)
    left, top, right, bottom = geometry.source_box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert min(geometry.inner_width, geometry.inner_height) >= 1
    assert min(geometry.pad_left, geometry.pad_top, geometry.pad_right, geometry.pad_bottom) >= 0
    assert abs(geometry.pad_left - geometry.pad_right) <= 1
    assert abs(geometry.pad_top - geometry.pad_bottom) <= 1
    if fit == "bucket":
        assert (geometry.width, geometry.height) in buckets(resolution)
    else:
        assert (geometry.width, geometry.height) == (resolution, resolution)
    if fit in {"crop", "bucket"}:  # all of one side stays, and the cut has the canvas's aspect
        assert right - left == width or bottom - top == height
        off = (right - left) * geometry.height - (bottom - top) * geometry.width
        assert abs(off) <= max(geometry.width, geometry.height)
    else:
        assert geometry.source_box == (0, 0, width, height)


def test_a_crop_is_centred_and_keeps_the_whole_short_side():
    geometry = plan(1024, 768)
    assert geometry.source_box == (128, 0, 896, 768)
    assert plan(768, 1024).source_box == (0, 128, 768, 896)


def test_crop_coordinates_are_in_pixels_of_the_resized_image():
    # 1024x768 resized to height 512 is 683 wide; 512 of it stay, so the cut starts at 85.
    geometry = plan(1024, 768)
    assert (geometry.crop_x, geometry.crop_y) == (85, 0)
    assert (plan(768, 1024).crop_x, plan(768, 1024).crop_y) == (0, 85)


def test_half_a_pixel_is_rounded_up():
    # 257 px are cut on the left and scaled by a half: 128.5, which floats would round to even.
    assert plan_geometry(1026, 512, resolution=256, fit="crop").crop_x == 129


def test_padding_is_white_and_centred():
    geometry = plan(200, 100, resolution=64, fit="pad")
    out = apply_geometry(np.zeros((100, 200, 3), np.uint8), geometry)
    dark = np.flatnonzero((out == 0).all(axis=(1, 2)))
    assert (dark.min(), dark.max()) == (16, 47)
    assert (out[:16] == 255).all()
    assert (out[48:] == 255).all()
    assert (geometry.crop_x, geometry.crop_y) == (0, 0)


def test_an_image_that_fits_is_handed_through():
    rgb = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    for fit in FITS:
        geometry = plan(64, 64, resolution=64, fit=fit)
        assert geometry.is_identity(64, 64)
        assert apply_geometry(rgb, geometry) is rgb
    assert not plan(65, 64, resolution=64).is_identity(65, 64)


def test_shrinking_averages_areas():
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[:2, :2] = [[[0, 0, 0], [100, 100, 100]], [[100, 100, 100], [200, 200, 200]]]
    out = apply_geometry(np.kron(rgb, np.ones((4, 4, 1), np.uint8)), plan(16, 16, resolution=8))
    assert out[0, 0].tolist() == [0, 0, 0]
    assert out[2, 2].tolist() == [200, 200, 200]
    fine = np.zeros((16, 16, 3), np.uint8)
    fine[::2] = 255  # stripes of one pixel: sampling would give all or nothing
    stripes = apply_geometry(fine, plan(16, 16, resolution=8))
    assert set(np.unique(stripes)) <= {127, 128}


def test_enlarging_is_lanczos():
    photograph = skimage.data.chelsea()[:64, :64].copy()
    out = apply_geometry(photograph, plan(64, 64, resolution=128))
    expected = Image.fromarray(photograph).resize((128, 128), Image.Resampling.LANCZOS)
    assert np.array_equal(out, np.asarray(expected))


def test_stretching_one_axis_up_and_one_down_neither_aliases_nor_blocks():
    fine = np.zeros((64, 8, 3), np.uint8)
    fine[::2] = 255
    out = apply_geometry(fine, plan(8, 64, resolution=16, fit="stretch"))
    assert out.shape == (16, 16, 3)
    assert np.abs(out.astype(int) - 127).max() <= 1


def test_no_picture_is_mirrored_or_turned():
    rgb = np.zeros((90, 90, 3), np.uint8)
    rgb[:30, :30] = 255, 0, 0
    rgb[:30, 60:] = 0, 255, 0
    rgb[60:, :30] = 0, 0, 255
    for fit in FITS:
        out = apply_geometry(rgb, plan(90, 90, resolution=64, fit=fit))
        assert out[5, 5].tolist() == [255, 0, 0]
        assert out[5, 58].tolist() == [0, 255, 0]
        assert out[58, 5].tolist() == [0, 0, 255]


@pytest.mark.parametrize("resolution", [64, 256, 512, 1024])
def test_buckets_are_multiples_of_64_within_area_and_aspect(resolution):
    found = buckets(resolution)
    assert (resolution, resolution) in found
    for width, height in found:
        assert width % 64 == height % 64 == 0
        assert width * height <= resolution * resolution
        assert max(width, height) <= 4 * min(width, height)
        assert (height, width) in found


def test_the_bucket_is_the_nearest_in_aspect():
    for width, height in itertools.product((300, 512, 777, 1900), repeat=2):
        chosen = nearest_bucket(width, height, 512)
        off = [abs(np.log(w / h) - np.log(width / height)) for w, h in buckets(512)]
        assert abs(np.log(chosen[0] / chosen[1]) - np.log(width / height)) <= min(off) + 1e-9


def test_of_equal_aspects_the_larger_bucket_wins():
    assert nearest_bucket(700, 700, 512) == (512, 512)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(**ANY_PLAN)
def test_the_smallest_useful_size_still_holds_every_target_pixel(width, height, resolution, fit):
    geometry = plan(width, height, resolution=resolution, fit=fit)
    left, top, right, bottom = geometry.source_box
    useful_width, useful_height = smallest_useful_size(
        width, height, resolution=resolution, fit=fit
    )
    assert useful_width <= width
    assert useful_height <= height
    if right - left >= geometry.inner_width:
        assert useful_width * (right - left) >= geometry.inner_width * width
    if bottom - top >= geometry.inner_height:
        assert useful_height * (bottom - top) >= geometry.inner_height * height


def test_the_smallest_useful_size_of_a_large_picture_is_smaller():
    assert smallest_useful_size(4096, 2048, resolution=512, fit="crop") == (1024, 512)
