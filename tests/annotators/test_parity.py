"""The same weights in controlnet-aux's own detectors and in our annotators give the same maps."""

import functools
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
import skimage.io

from annotators.options import AnnotateConfig, configured
from annotators.registry import specs_of
from annotators.runtime import Runtime
from tests.annotators.reference_weights import write

# What importing controlnet-aux and its detectors says.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

_REAL = Path("/work/shared/weights/pidinet")

# condition, options of ours, detector, its arguments
_CASES = [
    ("hed", {}, "HEDdetector", {}),
    ("hed", {"hed_mode": "safe"}, "HEDdetector", {"safe": True}),
    ("hed", {"hed_mode": "scribble"}, "HEDdetector", {"scribble": True}),
    ("softedge", {}, "PidiNetDetector", {}),
    ("softedge", {"softedge_mode": "safe"}, "PidiNetDetector", {"safe": True}),
    ("softedge", {"softedge_mode": "scribble"}, "PidiNetDetector", {"scribble": True}),
    ("lineart", {}, "LineartDetector", {}),
    ("lineart", {"lineart_coarse": True}, "LineartDetector", {"coarse": True}),
    ("lineart_anime", {}, "LineartAnimeDetector", {}),
    ("mlsd", {}, "MLSDdetector", {}),
    ("mlsd", {"mlsd_thresholds": "0.6,30"}, "MLSDdetector", {"thr_v": 0.6, "thr_d": 30}),
    ("normal", {}, "NormalBaeDetector", {}),
]


@functools.cache
def photographs():
    """Eight photographs, cut and shrunk to sizes that controlnet-aux leaves as they are."""
    data = Path(skimage.__file__).parent / "data"
    astronaut, coffee = skimage.data.astronaut(), skimage.data.coffee()
    pictures = [
        astronaut,
        coffee,
        skimage.data.chelsea(),
        skimage.data.rocket(),
        skimage.io.imread(data / "motorcycle_left.png")[..., :3],
        skimage.io.imread(data / "ihc.png")[..., :3],
        astronaut[:300, 60:420],
        coffee[40:360, 100:360],
    ]
    sizes = [(256, 192), (192, 256), (192, 192), (192, 256)]
    return [
        cv2.resize(one, sizes[number % 4], interpolation=cv2.INTER_AREA)
        for number, one in enumerate(pictures)
    ]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As in a worker's pool."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return functools.cache(lambda condition: write(tmp_path_factory.mktemp(condition), condition))


def ours(condition, options, folder):
    (spec,) = specs_of(
        configured(AnnotateConfig, conditions=(condition,), precision="fp32", **options)
    )
    return spec.load(Runtime(weights=str(folder)))


def theirs(detector, folder, rgb, arguments):
    import controlnet_aux

    loaded = detector_of(getattr(controlnet_aux, detector), str(folder))
    side = min(rgb.shape[:2])
    drawn = loaded(
        rgb, detect_resolution=side, image_resolution=side, output_type="np", **arguments
    )
    assert drawn.shape == rgb.shape
    return drawn


@functools.lru_cache(maxsize=1)
def detector_of(kind, folder):
    if kind.__name__ == "LineartDetector":  # it always loads both
        write(Path(folder), "lineart")
    return kind.from_pretrained(folder)


def share_equal(ours, theirs):
    """Share of values that differ by at most 2/255; theirs has three channels always."""
    ours = ours if ours.ndim == 3 else ours[..., None]
    return np.mean(np.abs(ours.astype(int) - theirs.astype(int)) <= 2)


def compare(condition, options, detector, arguments, folder):
    images = photographs()
    assert len(images) == 8
    annotator = ours(condition, options, folder)
    expected = [theirs(detector, folder, one, arguments) for one in images]
    maps = annotator(images, [str(number) for number in range(len(images))])
    for one, wanted in zip(maps, expected, strict=True):
        assert wanted.std() > 3  # a flat map would prove nothing
        assert share_equal(one.pixels, wanted) >= 0.999
    # The comparison notices what it is for: channels or rows in the wrong order.
    (swapped,) = annotator([np.ascontiguousarray(images[0][..., ::-1])], ["0"])
    assert share_equal(swapped.pixels, expected[0]) < 0.999
    assert share_equal(maps[0].pixels[::-1], expected[0]) < 0.999


@pytest.mark.parametrize(
    ("condition", "options", "detector", "arguments"),
    _CASES,
    ids=[f"{case[0]}-{'-'.join(map(str, case[1].values())) or 'default'}" for case in _CASES],
)
def test_maps_equal_those_of_controlnet_aux(condition, options, detector, arguments, weights):
    compare(condition, options, detector, arguments, weights(condition))


@pytest.mark.skipif(not _REAL.is_dir(), reason="the released PiDiNet weights are not here")
@pytest.mark.parametrize("mode", ["soft", "safe", "scribble"])
def test_maps_of_the_released_pidinet_equal_those_of_controlnet_aux(mode, tmp_path):
    folder = shutil.copytree(_REAL, tmp_path / "pidinet")
    compare("softedge", {"softedge_mode": mode}, "PidiNetDetector", {mode: True}, folder)
