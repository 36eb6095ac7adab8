import concurrent.futures
import threading

import cv2
import numpy as np
import pytest
import skimage
import torch

from annotators.conditions.depth import DepthSpec, _Midas, _OfThisThread, finished
from annotators.network import model_of
from annotators.options import AnnotateConfig, configured
from annotators.protocol import Annotation
from annotators.registry import record_of, spec_from_record, specs_of
from annotators.runtime import Runtime
from pipeline.annotate import annotate, encode_map, load_annotator
from schemas.errors import ConfigError, Reason, Rejected
from schemas.pixels import decode_stored_map
from tests.annotators import tiny_models

_SAVERS = {
    "dpt": tiny_models.save_dpt,
    "dpt hybrid": lambda folder: tiny_models.save_dpt(folder, hybrid=True),
    "depth anything": tiny_models.save_depth_anything,
    "metric": lambda folder: tiny_models.save_depth_anything(folder, kind="metric", max_depth=20),
    "glpn": tiny_models.save_glpn,
    "zoedepth": tiny_models.save_zoedepth,
}
_RELATIVE = ["dpt", "dpt hybrid", "depth anything"]
_METRIC = ["metric", "glpn", "zoedepth"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name -> folder."""
    place = tmp_path_factory.mktemp("models")
    return {name: save(place / name) for name, save in _SAVERS.items()}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def photographs(number=8, size=None):
    names = ["astronaut", "coffee", "chelsea", "rocket"]
    pictures = [np.ascontiguousarray(getattr(skimage.data, name)()[..., :3]) for name in names]
    pictures += [np.ascontiguousarray(one[:, ::-1]) for one in pictures]
    if size is not None:
        pictures = [cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in pictures]
    return pictures[:number]


def depths(model, images, **parameters):
    look = DepthSpec(model=model, **parameters).load(Runtime())
    return look(images, [str(number) for number in range(len(images))])


def by_transformers(folder, image):
    """Raw prediction at the image's size, as the model's card shows it."""
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForDepthEstimation.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(**processor(images=Image.fromarray(image), return_tensors="pt"))
    extra = {"source_sizes": [image.shape[:2]]} if "zoe" in folder else {}
    after = processor.post_process_depth_estimation(
        outputs, target_sizes=[image.shape[:2]], **extra
    )
    return after[0]["predicted_depth"].numpy()


def test_the_default_model_is_a_free_one_and_the_earlier_one_can_be_asked_for():
    (spec,) = specs_of(
        configured(AnnotateConfig, conditions=("depth",), device="cpu", precision="fp32")
    )
    assert spec == DepthSpec()
    assert spec.model == "depth-anything/Depth-Anything-V2-Small-hf"
    assert [one.licence for one in spec.weights] == ["Apache-2.0"]
    earlier = configured(
        AnnotateConfig, conditions=("depth",), depth_model="Intel/dpt-hybrid-midas", device="cpu"
    )
    (spec,) = specs_of(earlier)
    assert (spec.revision, spec.weights[0].licence) == (1, "Apache-2.0")


@pytest.mark.parametrize("name", _RELATIVE)
def test_maps_equal_those_of_a_loop_over_transformers(models, name):
    for image in photographs(5):
        raw = by_transformers(models[name], image)
        expected = ((raw - raw.min()) / (raw.max() - raw.min()) * 255).astype(np.uint8)
        (ours,) = depths(models[name], [image])
        apart = np.abs(ours.pixels.astype(int) - expected)
        assert (apart <= 2).mean() >= 0.999
        assert ours.stats["min"] == pytest.approx(raw.min(), rel=1e-3, abs=1e-2)
        assert ours.stats["max"] == pytest.approx(raw.max(), rel=1e-3)
        assert ours.pixels.std() > 5  # not a blank that equals a blank


@pytest.mark.parametrize("name", _METRIC)
def test_few_metres_are_bright(models, name):
    image = photographs(1)[0]
    metres = by_transformers(models[name], image)
    (ours,) = depths(models[name], [image])
    assert np.corrcoef(1 / np.maximum(metres, 0.1).ravel(), ours.pixels.ravel())[0, 1] > 0.95
    nearest, farthest = np.quantile(metres, [0.1, 0.9])
    assert ours.pixels[metres < nearest].min() > ours.pixels[metres > farthest].max()


def test_metres_become_their_inverse(models):
    image = photographs(1, (56, 56))[0]  # the network's own size: nothing is resized
    metres = by_transformers(models["metric"], image)
    (ours,) = depths(models["metric"], [image])
    near = 1 / np.maximum(metres, 0.1)
    expected = (near - near.min()) / (near.max() - near.min()) * 255
    assert np.abs(ours.pixels - expected).max() <= 1.01
    assert ours.stats["min"] == pytest.approx(near.min(), rel=1e-3)


@pytest.mark.parametrize("name", _SAVERS)
def test_a_map_has_its_images_size_and_does_not_depend_on_its_batch(models, name):
    sizes = [(451, 300), (64, 64), (97, 131), (64, 64), (131, 97), (451, 300), (65, 63), (200, 64)]
    images = [cv2.resize(one, size) for one, size in zip(photographs(), sizes, strict=True)]
    together = depths(models[name], images)
    for image, one in zip(images, together, strict=True):
        assert one.pixels.shape == image.shape[:2]
        assert one.pixels.dtype == np.uint8
        (alone,) = depths(models[name], [image])
        assert np.array_equal(alone.pixels, one.pixels)
        assert alone.stats == one.stats


def test_an_image_of_three_rows_or_columns_is_not_mistaken_for_channels(models):
    for size in ((50, 3), (3, 50), (1, 1)):
        (one,) = depths(models["dpt"], [cv2.resize(photographs(1)[0], size)])
        assert one.pixels.shape == size[::-1]


def test_whole_batches_through_the_network_give_nearly_the_same(models, monkeypatch):
    images = photographs(8, (128, 96))
    alone = depths(models["dpt hybrid"], images)
    monkeypatch.setattr(Runtime, "images_at_once", 64)
    together = depths(models["dpt hybrid"], images)
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1


@pytest.mark.parametrize("name", ["dpt hybrid", "depth anything", "zoedepth"])
def test_bf16_changes_little(models, name):
    image = photographs(1)[0]
    (exact,), (fast,) = (depths(models[name], [image], precision=one) for one in ("fp32", "bf16"))
    assert np.abs(exact.pixels.astype(int) - fast.pixels).mean() < 8


@pytest.mark.parametrize(("name", "side"), [("dpt", 64), ("depth anything", 56)])
def test_the_last_layer_answers_with_more_bits_than_bf16_has(models, name, side):
    look = DepthSpec(model=models[name], precision="bf16").load(Runtime())
    with torch.inference_mode():  # at the network's own size, so no resizing adds bits
        raw = look.network(photographs(1, (side, side)))
    seen = raw[raw != 0]  # the rest is behind the last ReLU
    assert (seen != seen.bfloat16().float()).float().mean() > 0.5


def test_red_and_blue_are_told_apart(models):
    image = photographs(1)[0]
    right, swapped = depths(models["dpt"], [image, np.ascontiguousarray(image[..., ::-1])])
    assert np.abs(right.pixels.astype(int) - swapped.pixels).max() > 10


def test_nearness_is_brightness():
    nearness = torch.linspace(-3, 7, 256).reshape(1, 16, 16)
    (ramp,) = finished(nearness, bits=8)
    assert ramp.pixels[0, 0] == 0
    assert ramp.pixels[-1, -1] == 255
    assert (np.diff(ramp.pixels.ravel().astype(int)) >= 0).all()
    assert ramp.stats == {"min": -3, "max": 7, "flat": False}


@pytest.mark.parametrize("value", [0.0, 1.0, -5.0, 1e6])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_flat_scene_is_black_and_says_so(value, bits):
    nearness = torch.full((1, 8, 9), value)
    nearness[0, 0, 0] += abs(value) * 2e-7  # the noise of float32
    (flat,) = finished(nearness, bits=bits)
    assert not flat.pixels.any()
    assert flat.pixels.shape == (8, 9)
    assert flat.stats["flat"]
    assert flat.stats["min"] == pytest.approx(value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_map_that_is_not_finite_is_rejected_alone(bad):
    nearness = torch.rand(3, 8, 8)
    nearness[1, 2, 3] = bad
    good, rejected, also_good = finished(nearness, bits=8)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == Reason.NOT_FINITE
    assert isinstance(good, Annotation)
    assert isinstance(also_good, Annotation)


def test_sixteen_bits_survive_storing(models):
    spec = DepthSpec(model=models["dpt hybrid"], bits=16)
    images = photographs(2)
    for result in annotate(spec, load_annotator(spec, Runtime()), images, ["a", "b"]):
        assert isinstance(result, Annotation)  # it kept to the contract of grey16
        stored = decode_stored_map(encode_map(result.pixels, spec.hint_mode))
        assert stored.dtype == np.uint16
        assert np.array_equal(stored, result.pixels)
        assert stored.max() == 65535
        assert len(np.unique(stored)) > 1000
    (coarse,) = depths(models["dpt hybrid"], images[1:])
    assert np.abs(coarse.pixels - stored / 257).max() <= 1


def test_sixteen_bits_are_computed_in_fp32():
    options = configured(AnnotateConfig, conditions=("depth",), depth_bits=16, device="cpu")
    spec = specs_of(options)[0]
    assert (spec.bits, spec.precision, spec.hint_mode) == (16, "fp32", "grey16")
    with pytest.raises(
        ConfigError, match="--depth-bits 16: need --precision fp32 or auto, got 'bf16'"
    ):
        DepthSpec(bits=16, precision="bf16")


def test_a_spec_survives_its_record():
    for spec in (DepthSpec(model="midas", precision="bf16"), DepthSpec(bits=16)):
        record = record_of(spec)
        assert spec_from_record("depth", record) == spec
        assert record["hint_mode"] == spec.hint_mode
    options = configured(AnnotateConfig, conditions=("depth",), depth_model="midas", device="cpu")
    assert specs_of(options)[0].weights[0].file == "dpt_hybrid-midas-501f0c75.pt"


def test_a_model_that_is_nowhere_is_named(tmp_path):
    spec = DepthSpec(model=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"weights: need .*nothing, licence: .*; found none in"):
        spec.load(Runtime(offline=True))


class _Trap:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (type(self.mark).touch, (self.mark,))


def test_pickled_weights_are_refused_and_not_executed(tmp_path):
    folder = tiny_models.save_dpt(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"weight": _Trap(tmp_path / "executed")}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"lacks config\.json or \*\.safetensors"):
        DepthSpec(model=folder).load(Runtime())
    from transformers import AutoModelForDepthEstimation

    with pytest.raises(ConfigError, match="with safetensors weights, got OSError"):
        model_of(AutoModelForDepthEstimation, tmp_path / "model")
    assert not (tmp_path / "executed").exists()


def test_weights_that_lack_a_layer_are_refused_unless_nothing_uses_it(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny_models.save_dpt(tmp_path)
    image = photographs(1, (64, 64))[0]
    (whole,) = depths(folder, [image])
    state = load_file(tmp_path / "model.safetensors")
    unused = [name for name in state if "fusion_stage.layers.0.residual_layer1" in name]
    assert len(unused) == 4  # as in the released Intel/dpt-large
    state = {name: one for name, one in state.items() if name not in unused}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert np.array_equal(depths(folder, [image])[0].pixels, whole.pixels)

    del state["head.head.4.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"need the weights of every layer, got none for head\."):
        depths(folder, [image])


def test_a_model_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"need a model of type depth_anything, .*got segformer"):
        DepthSpec(model=tiny_models.save_segformer(tmp_path)).load(Runtime())


def test_midas_sees_sides_in_multiples_of_32_and_answers_in_the_images_size():
    seen = []

    def network(batch):
        seen.append(batch)
        return batch.mean(1)

    midas = _Midas(network=network, runtime=Runtime(), precision="fp32")
    image = photographs(1, (451, 300))[0]
    answer = midas([image, 255 - image])
    assert answer.shape == (2, 300, 451)
    assert seen[0].shape == (2, 3, 288, 448)
    assert seen[0].abs().max() <= 1
    # The fake network answers with the picture itself: nothing is shifted, nothing is swapped.
    assert np.abs(answer[0].numpy() - (image.mean(2) / 127.5 - 1)).mean() < 0.03
    midas([image[:8, :8]])
    assert seen[1].shape == (1, 3, 32, 32)
    midas([cv2.resize(image, (128, 64))])
    assert seen[2].shape == (1, 3, 64, 128)


def test_each_thread_reads_its_own_feature_maps():
    shared = _OfThisThread()
    turn = threading.Barrier(2, timeout=10)

    def run(value):
        shared["1"] = value
        turn.wait()  # both have written before either reads
        return shared["1"]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, ["mine", "yours"])) == ["mine", "yours"]
    with pytest.raises(KeyError):
        shared["1"]


@pytest.fixture(scope="module")
def midas_weights(tmp_path_factory):
    """Random weights in the released file's format (493 MB)."""
    from annotators.network import reference

    folder = tmp_path_factory.mktemp("midas")
    torch.manual_seed(0)
    network = reference("midas.midas.dpt_depth").DPTDepthModel(backbone="vitb_rn50_384")
    # Random weights answer 0 behind the last ReLU nearly everywhere.
    torch.nn.init.constant_(network.scratch.output_conv[4].bias, 1.0)
    torch.save(network.state_dict(), folder / "dpt_hybrid-midas-501f0c75.pt")
    yield str(folder)
    (folder / "dpt_hybrid-midas-501f0c75.pt").unlink()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what importing controlnet-aux and its detectors says
def test_midas_equals_that_of_controlnet_aux(midas_weights):
    from controlnet_aux import MidasDetector

    theirs = MidasDetector.from_pretrained(midas_weights)
    spec = DepthSpec(model="midas")
    ours = spec.load(Runtime(weights=midas_weights))
    images = photographs(2, (256, 192)) + photographs(2, (192, 192))
    found = ours(images, [""] * 4)
    for image, one in zip(images, found, strict=True):
        expected = theirs(image, detect_resolution=192, image_resolution=192)[..., 0]
        assert (np.abs(one.pixels.astype(int) - expected) <= 2).mean() >= 0.999
        assert one.pixels.std() > 5
    fast = DepthSpec(model="midas", precision="bf16").load(Runtime(weights=midas_weights))
    for one, other in zip(found, fast(images, [""] * 4), strict=True):
        assert (np.abs(one.pixels.astype(int) - other.pixels) <= 2).mean() >= 0.99


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_threads_through_one_midas_do_not_mix_their_pictures(midas_weights):
    look = DepthSpec(model="midas").load(Runtime(weights=midas_weights))
    images = photographs(8, (96, 96))
    alone = [look([image], [""])[0].pixels for image in images]

    def run(image):
        torch.set_num_threads(1)
        return look([image], [""])[0].pixels

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            for one, expected in zip(pool.map(run, images), alone, strict=True):
                assert np.array_equal(one, expected)
