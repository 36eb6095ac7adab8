"""Grey, tile and shuffle."""

import numpy as np
import pytest
import skimage.data

from annotators.conditions.plain import GreySpec, ShuffleSpec, TileSpec, grey, shuffled, tile
from annotators.runtime import Runtime
from schemas.errors import ConfigError

SIZES = [(64, 64), (97, 131), (1, 5), (300, 2)]


def photograph(height, width):
    return np.ascontiguousarray(skimage.data.astronaut()[100 : 100 + height, 100 : 100 + width])


@pytest.mark.parametrize("spec", [GreySpec(), TileSpec(factor=8), ShuffleSpec(seed=3)])
@pytest.mark.parametrize("size", SIZES)
def test_a_map_has_its_images_size(spec, size):
    [annotation] = spec.load(Runtime())([photograph(*size)], ["a"])
    channels = (3,) if spec.hint_mode == "rgb" else ()
    assert annotation.pixels.shape == size + channels
    assert annotation.pixels.dtype == np.uint8


def test_grey_weighs_green_most_and_blue_least():
    primaries = np.eye(3, dtype=np.uint8)[None] * 255  # red, green, blue
    red, green, blue = grey(primaries)[0].tolist()
    assert (red, green, blue) == (76, 150, 29)


def test_a_tile_keeps_large_things_and_loses_small_ones():
    rgb = photograph(256, 256)
    coarse = tile(rgb, factor=16)

    def mean_difference(a, b):
        return np.abs(a.astype(int) - b.astype(int)).mean()

    def blocks(image):
        return image.reshape(8, 32, 8, 32, 3).mean((1, 3))

    assert mean_difference(blocks(coarse), blocks(rgb)) < 3
    steps_before, steps_after = (
        np.abs(np.diff(one.astype(int), axis=1)).mean() for one in (rgb, coarse)
    )
    assert steps_after < 0.35 * steps_before


def test_a_tile_factor_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="--tile-factor: need 2 to 64, got 1"):
        TileSpec(factor=1)


def test_a_shuffle_keeps_colours_and_moves_them():
    rgb = photograph(256, 256)
    [annotation] = ShuffleSpec(seed=1).load(Runtime())([rgb], ["a"])
    assert np.abs(annotation.pixels.astype(int) - rgb.astype(int)).mean() > 20
    swapped = ShuffleSpec(seed=1).load(Runtime())([rgb[..., ::-1].copy()], ["a"])[0]
    assert np.array_equal(swapped.pixels, annotation.pixels[..., ::-1])


def test_a_shuffle_depends_on_key_and_seed_alone():
    rgb = photograph(64, 96)
    look = ShuffleSpec(seed=1).load(Runtime())
    alone = look([rgb], ["b"])[0].pixels
    assert np.array_equal(look([rgb, rgb, rgb], ["a", "b", "c"])[1].pixels, alone)
    assert not np.array_equal(look([rgb], ["a"])[0].pixels, alone)
    assert not np.array_equal(ShuffleSpec(seed=2).load(Runtime())([rgb], ["b"])[0].pixels, alone)


@pytest.mark.filterwarnings("ignore")  # what importing controlnet-aux and its detectors says
def test_a_shuffle_is_that_of_controlnet_aux(monkeypatch):
    from controlnet_aux import ContentShuffleDetector

    for size in [(256, 320), (512, 512), (320, 256)]:
        rgb = (
            photograph(256, 320)
            if size == (256, 320)
            else np.resize(photograph(256, 256), (*size, 3))
        )
        theirs_rng = np.random.default_rng(7)
        monkeypatch.setattr(np.random, "uniform", theirs_rng.uniform)
        theirs = ContentShuffleDetector()(
            rgb, detect_resolution=min(size), image_resolution=min(size), output_type="np"
        )
        ours = shuffled(rgb, rng=np.random.default_rng(7))
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 2
