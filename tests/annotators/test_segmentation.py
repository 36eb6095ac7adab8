import json

import cv2
import numpy as np
import pytest
import skimage
import torch

from annotators.conditions.segmentation import SegmentationSpec, classes_of
from annotators.protocol import Annotation
from annotators.registry import record_of, spec_from_record
from annotators.runtime import Runtime
from pipeline.annotate import annotate, encode_map, load_annotator
from schemas.errors import ConfigError, Reason, Rejected
from schemas.pixels import decode_stored_map
from tests.annotators import tiny_models

_SAVERS = {"segformer": tiny_models.save_segformer, "upernet": tiny_models.save_upernet}


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


@pytest.fixture(scope="module")
def palette():
    from annotators.network import reference

    return np.array(reference("util").ade_palette())


def photographs():
    names = ["astronaut", "coffee", "chelsea", "rocket"]
    # At half size: 150 classes of each pixel take their time.
    pictures = [np.ascontiguousarray(getattr(skimage.data, name)()[::2, ::2, :3]) for name in names]
    return pictures + [np.ascontiguousarray(one[:, ::-1]) for one in pictures]


def segmented(model, images, **parameters):
    look = SegmentationSpec(model=model, **parameters).load(Runtime())
    return look(images, [str(number) for number in range(len(images))])


@pytest.mark.parametrize("name", _SAVERS)
def test_maps_equal_those_of_a_loop_over_transformers(models, palette, name):
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    processor = AutoImageProcessor.from_pretrained(models[name])
    model = AutoModelForSemanticSegmentation.from_pretrained(models[name]).eval()
    images = photographs()[:5]
    for image, ours in zip(images, segmented(models[name], images), strict=True):
        with torch.no_grad():
            outputs = model(**processor(images=Image.fromarray(image), return_tensors="pt"))
        sizes = [image.shape[:2]]
        expected = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)[0]
        same = (palette[expected.numpy()] == ours.pixels).all(axis=2)
        assert same.mean() >= 0.999
        assert ours.stats["classes"] == len(np.unique(ours.pixels.reshape(-1, 3), axis=0)) > 3


@pytest.mark.parametrize("name", _SAVERS)
def test_a_map_has_its_images_size_and_does_not_depend_on_its_batch(models, palette, name):
    sizes = [(226, 150), (64, 64), (97, 131), (64, 64), (131, 97), (226, 150), (3, 50), (50, 3)]
    images = [cv2.resize(one, size) for one, size in zip(photographs(), sizes, strict=True)]
    colours = {tuple(one) for one in palette.tolist()}
    for image, one in zip(images, segmented(models[name], images), strict=True):
        assert one.pixels.shape == image.shape
        assert one.pixels.dtype == np.uint8
        assert {tuple(pixel) for pixel in one.pixels.reshape(-1, 3).tolist()} <= colours
        (alone,) = segmented(models[name], [image])
        assert np.array_equal(alone.pixels, one.pixels)


def test_whole_batches_through_the_network_give_nearly_the_same(models, monkeypatch):
    images = [cv2.resize(one, (128, 96)) for one in photographs()]
    alone = segmented(models["upernet"], images)
    monkeypatch.setattr(Runtime, "images_at_once", 64)
    for one, other in zip(alone, segmented(models["upernet"], images), strict=True):
        assert (one.pixels == other.pixels).mean() > 0.999


def test_classes_are_enlarged_without_classes_between_them():
    logits = torch.zeros(150, 2, 2)
    logits[10, :, 0] = logits[100, :, 1] = 1.0
    classes = classes_of(logits, 7, 9)
    assert classes.shape == (7, 9)
    assert set(np.unique(classes)) == {10, 100}
    assert (classes[:, :4] == 10).all()
    assert (classes[:, 5:] == 100).all()


def test_a_wall_is_grey_and_a_building_is_red(palette):
    assert palette.shape == (150, 3)
    assert palette[0].tolist() == [120, 120, 120]  # wall
    assert palette[1].tolist() == [180, 120, 120]  # building: red comes first
    assert palette[2].tolist() == [6, 230, 230]  # sky


def test_red_and_blue_are_told_apart(models):
    image = photographs()[0]
    swapped = np.ascontiguousarray(image[..., ::-1])
    right, wrong = segmented(models["segformer"], [image, swapped])
    assert (right.pixels != wrong.pixels).any(axis=2).mean() > 0.01


def test_bf16_changes_few_pixels(models):
    image = photographs()[0]
    (exact,), (fast,) = (
        segmented(models["segformer"], [image], precision=one) for one in ("fp32", "bf16")
    )
    assert (exact.pixels == fast.pixels).all(axis=2).mean() > 0.9


def test_a_picture_whose_logits_are_not_finite_is_rejected_alone(models):
    look = SegmentationSpec(model=models["segformer"]).load(Runtime())
    good = look([photographs()[0]], ["a"])[0]
    look.network.decode_head.classifier.bias.data[7] = float("nan")
    assert isinstance(good, Annotation)
    (bad,) = look([photographs()[0]], ["a"])
    assert isinstance(bad, Rejected)
    assert bad.reason == Reason.NOT_FINITE


def test_a_map_keeps_to_the_contract_and_survives_storing(models):
    spec = SegmentationSpec(model=models["upernet"])
    (one,) = annotate(spec, load_annotator(spec, Runtime()), photographs()[:1], ["a"])
    assert isinstance(one, Annotation)
    assert np.array_equal(decode_stored_map(encode_map(one.pixels, spec.hint_mode)), one.pixels)
    assert spec_from_record("segmentation", record_of(spec)) == spec


def test_a_model_with_other_classes_is_refused_before_its_weights_are_read(tmp_path):
    folder = tiny_models.save_segformer(tmp_path, labels=19)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="need the 150 classes of ADE20K, got 19; choose"):
        SegmentationSpec(model=folder).load(Runtime())


def test_a_model_that_is_nowhere_or_damaged_is_named(tmp_path):
    spec = SegmentationSpec(model=str(tmp_path / "model"))
    with pytest.raises(ConfigError, match=r"weights: need .*model, licence: .*; found none in"):
        spec.load(Runtime(offline=True))
    tiny_models.save_segformer(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ConfigError, match="model: need a transformers model for this task with"):
        spec.load(Runtime())


def test_only_pickled_weights_are_refused(tmp_path):
    folder = tiny_models.save_upernet(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"lacks config\.json or \*\.safetensors"):
        SegmentationSpec(model=folder).load(Runtime())


def test_a_folder_of_another_kind_of_model_is_refused(tmp_path):
    folder = tiny_models.save_dpt(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {str(number): str(number) for number in range(150)}
    config["model_type"] = "no-such-model"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="got ValueError"):
        SegmentationSpec(model=folder).load(Runtime())
