import collections
import re

import numpy as np
import pytest
import skimage

from annotators.conditions.canny import CannySpec, canny
from annotators.options import AnnotateConfig, configured
from annotators.protocol import Annotation
from annotators.registry import record_of, spec_from_record, specs_of
from annotators.runtime import Runtime
from schemas.errors import ConfigError


def spec_of(thresholds, seed=0):
    (spec,) = specs_of(
        configured(AnnotateConfig, conditions=("canny",), canny_thresholds=thresholds, seed=seed)
    )
    return spec


def test_a_flat_image_has_no_edges():
    assert not canny(np.full((32, 48, 3), 77, np.uint8), low=1, high=2).any()


def test_a_map_has_the_images_size_and_two_values():
    edges = canny(skimage.data.chelsea(), low=100, high=200)
    assert edges.shape == (300, 451)
    assert edges.dtype == np.uint8
    assert set(np.unique(edges)) == {0, 255}


def test_a_step_gives_one_line_where_it_is():
    rgb = np.zeros((32, 32, 3), np.uint8)
    rgb[:, 16:] = 255
    columns = np.flatnonzero(canny(rgb, low=100, high=200).any(axis=0))
    assert columns.tolist() in ([15], [16])


def test_an_edge_between_colours_of_equal_grey_is_found():
    rgb = np.zeros((32, 32, 3), np.uint8)
    rgb[:, :16] = 200, 0, 0  # 0.299 * 200 = 60 = 0.587 * 102
    rgb[:, 16:] = 0, 102, 0
    assert canny(rgb, low=100, high=200).any()


def test_the_strongest_channel_counts_whichever_it_is():
    for channel in range(3):
        rgb = np.zeros((32, 32, 3), np.uint8)
        rgb[:, 16:, channel] = 255
        assert canny(rgb, low=100, high=200).any()


def test_higher_thresholds_give_fewer_edges():
    rgb = skimage.data.coffee()
    counts = [np.count_nonzero(canny(rgb, low=t, high=2 * t)) for t in (50, 100, 200)]
    assert counts[0] > counts[1] > counts[2] > 0


def test_one_annotation_for_each_image_with_its_statistics():
    images = [skimage.data.chelsea(), np.zeros((8, 8, 3), np.uint8)]
    some, none = CannySpec().load(Runtime())(images, ["a", "b"])
    assert isinstance(some, Annotation)
    assert isinstance(none, Annotation)
    assert some.stats["low"] == 100
    assert some.stats["high"] == 200
    assert some.stats["edge_density"] == np.count_nonzero(some.pixels) / (300 * 451)
    assert none.stats["edge_density"] == 0


@pytest.mark.parametrize("text", ["50-150,150-250", "0-99,1-100", "100,200", "10-200,20-210"])
def test_drawn_thresholds_stay_in_range_and_low_below_high(text):
    spec = spec_of(text)
    for number in range(2000):
        low, high = spec.thresholds(f"key-{number}")
        assert spec.low[0] <= low <= spec.low[1]
        assert spec.high[0] <= high <= spec.high[1]
        assert low < high


def test_draws_depend_on_key_and_seed_alone_and_reach_both_ends():
    spec = spec_of("50-53,150-153")
    draws = collections.Counter(spec.thresholds(f"key-{number}") for number in range(4000))
    assert len(draws) == 16  # every pair of 4 x 4
    assert max(draws.values()) < 2 * min(draws.values())
    assert spec.thresholds("k") == spec_of("50-53,150-153").thresholds("k")
    other = spec_of("50-53,150-153", seed=1)
    assert any(spec.thresholds(key) != other.thresholds(key) for key in "abcdefgh")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("100", "--canny-thresholds: need LOW,HIGH or LOW-LOW,HIGH-HIGH, got '100'"),
        ("a,b", "--canny-thresholds: need LOW,HIGH or LOW-LOW,HIGH-HIGH, got 'a,b'"),
        ("200,100", "canny: need low < high, got low=(200, 200), high=(100, 100)"),
        ("100,100", "canny: need low < high"),
        ("50-200,100-300", None),
        ("50-200,100-150", "canny: need low < high"),
        ("100-50,200", "canny: need 0 <= low range in order, got (100, 50)"),
        ("50,200-100", "canny: need a high range in order, got (200, 100)"),
    ],
)
def test_thresholds_that_cannot_work_are_explained(text, message):
    if message is None:
        spec_of(text)
        return
    with pytest.raises(ConfigError, match=re.escape(message)):
        spec_of(text)


def test_a_spec_survives_its_record():
    spec = spec_of("50-150,150-250", seed=3)
    assert spec_from_record("canny", record_of(spec)) == spec


def test_a_record_of_another_revision_or_annotator_is_refused():
    record = record_of(CannySpec()) | {"revision": 99}
    with pytest.raises(ConfigError, match="canny: need revision 99 of the annotator, got 1"):
        spec_from_record("canny", record)
    with pytest.raises(ConfigError, match="sketch: need its annotator to be installed"):
        spec_from_record("sketch", record)


def test_conditions_that_are_not_there_are_named():
    options = AnnotateConfig(conditions=("canny", "edges"))
    with pytest.raises(ConfigError, match="--conditions edges: no such annotator; available"):
        specs_of(options)


@pytest.mark.filterwarnings("ignore")  # what importing controlnet-aux and its detectors says
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_maps_equal_those_of_controlnet_aux(name):
    from controlnet_aux import CannyDetector
    from PIL import Image

    picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB").resize((512, 384))
    theirs = CannyDetector()(picture, 100, 200, detect_resolution=384, image_resolution=384)
    ours = canny(np.asarray(picture), low=100, high=200)
    assert np.array_equal(ours, np.asarray(theirs.convert("L")))
