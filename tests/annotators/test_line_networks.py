"""What every network that draws edges, lines or normals must do, on random weights."""

import functools
import pickle
import re

import numpy as np
import pytest
import skimage

from annotators.conditions.mlsd import MlsdSpec, segments
from annotators.network import padded, reference
from annotators.options import AnnotateConfig, configured
from annotators.protocol import Annotation
from annotators.registry import record_of, spec_from_record, specs_of
from annotators.runtime import Runtime
from schemas.errors import ConfigError, Reason, Rejected
from tests.annotators.reference_weights import FILES, write

_LIGHT = ["hed", "softedge", "lineart", "mlsd"]
_HEAVY = ["lineart_anime", "normal"]  # hundreds of MB of weights
_ALL = [*_LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in _HEAVY)]

# Timm's and torchvision's imports warn about themselves.
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As in a worker's pool; more only wait for each other at these sizes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return functools.cache(lambda condition: write(tmp_path_factory.mktemp(condition), condition))


@pytest.fixture(scope="module")
def load(weights):
    @functools.cache
    def loaded(condition, precision="fp32"):
        return spec_of(condition, precision).load(Runtime(weights=str(weights(condition))))

    return loaded


def spec_of(condition, precision="fp32", **options):
    (spec,) = specs_of(
        configured(AnnotateConfig, conditions=(condition,), precision=precision, **options)
    )
    return spec


def look(annotator, *images):
    return annotator(images, [str(number) for number in range(len(images))])


def crop(height, width, top=60, left=150):
    return np.ascontiguousarray(skimage.data.astronaut()[top : top + height, left : left + width])


@pytest.mark.parametrize("condition", _ALL)
@pytest.mark.parametrize("size", [(97, 131), (64, 65), (9, 70), (1, 1)])
def test_a_map_has_exactly_the_images_size_and_the_promised_type(condition, size, load):
    (result,) = look(load(condition), crop(*size))
    spec = spec_of(condition)
    assert isinstance(result, Annotation)
    assert result.pixels.shape == ((*size, 3) if spec.hint_mode == "rgb" else size)
    assert result.pixels.dtype == np.uint8
    assert result.stats.keys() == spec.stats.keys()
    if spec.hint_mode == "bilevel":
        assert set(np.unique(result.pixels)) <= {0, 255}


@pytest.mark.parametrize("condition", _ALL)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_map_does_not_depend_on_its_neighbours(condition, precision, load):
    images = [crop(49, 40), crop(32, 32), crop(49, 40, top=200), crop(17, 64), crop(49, 40, 300)]
    if condition in _HEAVY:  # half a minute a look, on a processor without bf16
        images = images[:2]
    annotator = load(condition, precision)
    together = look(annotator, *images)
    for image, one in zip(images, together, strict=True):
        (alone,) = look(annotator, image)
        assert np.array_equal(alone.pixels, one.pixels)
        assert alone.stats == one.stats


@pytest.mark.parametrize("condition", _ALL)
def test_swapped_red_and_blue_give_another_map(condition, load):
    image = crop(96, 128)
    image[..., 0] = 255 - image[..., 0] // 2
    right, swapped = look(load(condition), image, np.ascontiguousarray(image[..., ::-1]))
    assert np.mean(np.abs(right.pixels.astype(int) - swapped.pixels) > 2) > 0.01


# Not M-LSD and NormalBae, whose random networks spread a change over the whole map: that lines lie
# where they should is tested below, and test_parity.py notices a normal map upside down.
@pytest.mark.parametrize("condition", [*_LIGHT[:3], _ALL[4]])
@pytest.mark.parametrize("top", [8, 104])
@pytest.mark.parametrize("left", [8, 136])
def test_a_map_changes_where_the_image_does(condition, top, left, load):
    grey = np.full((192, 256, 3), 100, np.uint8)
    grey[1::2, ::2] = 110  # without any texture nothing is there to be normalised
    marked = grey.copy()
    marked[top : top + 80, left : left + 112] = crop(80, 112)
    plain, seen = look(load(condition), grey, marked)
    changes = np.abs(plain.pixels.astype(float) - seen.pixels).reshape(192, 256, -1).sum(axis=2)
    quarters = changes.reshape(2, 96, 2, 128).sum(axis=(1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == (top > 96, left > 128)


# Share of values that bf16 leaves within so many levels. Random networks are rougher than trained
# ones, and lines of M-LSD jump as a whole: there it is the share of pixels that stay as they are.
_BF16 = {
    "hed": (4, 0.99),
    "softedge": (8, 0.99),
    "lineart": (8, 0.99),
    "lineart_anime": (12, 0.99),
    "mlsd": (0, 0.8),
    "normal": (12, 0.99),
}


@pytest.mark.parametrize("condition", _ALL)
def test_bf16_stays_near_fp32(condition, load):
    image = crop(64, 96)
    (exact,), (fast,) = look(load(condition), image), look(load(condition, "bf16"), image)
    levels, share = _BF16[condition]
    difference = np.abs(exact.pixels.astype(int) - fast.pixels)
    assert np.mean(difference <= levels) >= share
    assert not np.array_equal(exact.pixels, fast.pixels)  # it did run in bf16


@pytest.mark.parametrize("condition", _ALL)
def test_a_map_of_a_network_that_says_nan_is_rejected(condition, weights, tmp_path):
    import torch

    (file, _), *_ = FILES[condition]
    state = torch.load(weights(condition) / file.file, weights_only=True)
    tensors = state.get("state_dict", state.get("model", state))
    first = next(name for name in tensors if "weight" in name)
    tensors[first].flatten()[0] = torch.nan
    torch.save(state, tmp_path / file.file)
    annotator = spec_of(condition).load(Runtime(weights=str(tmp_path)))
    results = look(annotator, crop(64, 64), crop(40, 64))
    assert all(isinstance(one, Rejected) and one.reason is Reason.NOT_FINITE for one in results)


class _Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("condition", [*_LIGHT, *_HEAVY])
def test_weights_that_are_damaged_or_hold_code_are_refused(condition, tmp_path):
    (file, _), *_ = FILES[condition]
    spec, runtime = spec_of(condition), Runtime(weights=str(tmp_path))
    path = tmp_path / file.file
    refused = re.escape(f"{path}: need a file of tensors alone, got ")

    path.write_bytes(pickle.dumps(_Attack(tmp_path / "executed"), protocol=2))
    with pytest.raises(ConfigError, match=refused):
        spec.load(runtime)
    assert not (tmp_path / "executed").exists()

    path.write_bytes(b"PK\x03\x04 and then the connection broke")
    with pytest.raises(ConfigError, match=refused):
        spec.load(runtime)


@pytest.mark.parametrize("condition", [*_LIGHT, *_HEAVY])
def test_a_spec_survives_its_record(condition):
    spec = spec_of(condition, "bf16", lineart_coarse=True, mlsd_thresholds="0.2,20")
    assert spec_from_record(condition, record_of(spec)) == spec


def test_fine_and_coarse_lines_come_from_their_own_weights():
    fine, coarse = spec_of("lineart"), spec_of("lineart", lineart_coarse=True)
    assert [one.weights[0].file for one in (fine, coarse)] == ["sk_model.pth", "sk_model2.pth"]


def test_padding_mirrors_to_the_right_and_below_and_moves_nothing():
    image = crop(5, 6)
    (wide,) = padded([image], multiple=4, smallest=4)
    assert wide.shape == (8, 8, 3)
    assert np.array_equal(wide[:5, :6], image)
    assert np.array_equal(wide[5], wide[4])
    assert np.array_equal(wide[:, 7], wide[:, 4])
    fits = [crop(8, 12)]
    assert padded(fits, multiple=4, smallest=8) is fits


def found_by_the_reference(tensor, *, score, distance):
    """`pred_lines` of controlnet-aux, fed with what its network would have said."""
    utils = reference("mlsd.utils")

    class Network:
        def parameters(self):
            yield tensor

        def __call__(self, _):
            return tensor

    side = 2 * tensor.shape[-1]
    rgb = np.zeros((side, side, 3), np.uint8)
    return utils.pred_lines(rgb, Network(), [side, side], score, distance)


@pytest.mark.parametrize(("score", "distance"), [(0.1, 0.1), (0.9, 20.0), (0.5, 5.0)])
def test_lines_are_decoded_as_the_reference_does(score, distance):
    import torch

    generator = torch.Generator().manual_seed(0)
    found = torch.randn(3, 9, 48, 48, generator=generator) * 3
    found[:, 1:5] *= 5
    lines = segments(found, score=score, distance=distance)
    for number, one in enumerate(lines):
        wanted = found_by_the_reference(found[number : number + 1], score=score, distance=distance)
        assert 0 < len(wanted) <= 200
        assert np.array_equal(one, wanted)


def test_a_picture_without_lines_has_a_black_map(weights):
    spec = MlsdSpec(score=0.999999, distance=1e6)
    (result,) = look(spec.load(Runtime(weights=str(weights("mlsd")))), crop(97, 131))
    assert isinstance(result, Annotation)
    assert not result.pixels.any()
    assert result.stats == {"lines": 0, "edge_density": 0}


def test_lines_are_drawn_in_the_pictures_own_pixels(load, monkeypatch):
    """One line, found in what the network is fed (64x128), lies in the 80x150 picture."""
    import torch

    annotator = load("mlsd")
    found = torch.full((1, 9, 32, 64), -20.0)
    found[0, 0, 16, 32] = 20.0
    found[0, 1:5, 16, 32] = torch.tensor([-16.0, 0.0, 16.0, 0.0])  # x 16..48, y 16, half size
    monkeypatch.setattr(type(annotator.network), "forward", lambda *_: found)
    (result,) = look(annotator, crop(80, 150))
    rows, columns = np.nonzero(result.pixels)
    assert set(rows) == {int(32 * 80 / 64)}
    assert (columns.min(), columns.max()) == (int(32 * 150 / 128), int(96 * 150 / 128))
    assert result.stats["lines"] == 1


@pytest.mark.parametrize("text", ["0.1", "a,b", "0.1,0.1,0.1", ""])
def test_thresholds_that_are_not_two_numbers_are_explained(text):
    message = f"--mlsd-thresholds: need SCORE,DISTANCE, got {text!r}; e.g. 0.1,0.1"
    with pytest.raises(ConfigError, match=re.escape(message)):
        spec_of("mlsd", mlsd_thresholds=text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,0", "mlsd: need 0 <= score < 1, got 1.0"),
        ("-0.1,0", "mlsd: need 0 <= score < 1, got -0.1"),
        ("nan,0", "mlsd: need 0 <= score < 1, got nan"),
        ("0.1,-1", "mlsd: need 0 <= distance, got -1.0"),
        ("0.1,inf", "mlsd: need 0 <= distance, got inf"),
    ],
)
def test_thresholds_out_of_range_are_explained(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        spec_of("mlsd", mlsd_thresholds=text)
