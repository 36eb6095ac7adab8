"""Every training of a small annotator learns a few scenes, and writes the file it is read from."""

import dataclasses

import numpy as np
import pytest
import torch

from controlnet.nano.eyes import captions, depth, hed, pose, segmentation, softedge
from controlnet.nano.eyes.training import TRAIN_SEED, TrainConfig, drawn_scenes

_TRAININGS = {
    "hed": hed,
    "depth": depth,
    "pose": pose,
    "segmentation": segmentation,
    "softedge": softedge,
    "blip": captions,
}
_STEPS = 20


@pytest.fixture(scope="module")
def scenes():
    return drawn_scenes(2, seed=TRAIN_SEED, processes=1)


each = pytest.mark.parametrize(
    "annotator",
    ["hed", *(pytest.param(name, marks=pytest.mark.slow) for name in _TRAININGS if name != "hed")],
)


@each
def test_a_seed_gives_the_same_weights_whatever_was_drawn_before(annotator, scenes, tmp_path):
    contents = []
    for before in (1, 2):
        torch.manual_seed(before)
        folder = tmp_path / str(before)
        folder.mkdir()
        _TRAININGS[annotator].train(scenes, TrainConfig(output=folder, steps=3))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        contents.append({path.relative_to(folder): path.read_bytes() for path in files})
    assert contents[0] == contents[1]


def test_a_training_may_be_a_single_step(scenes, tmp_path):
    assert hed.train(scenes, TrainConfig(output=tmp_path, steps=1)).exists()


@each
def test_a_training_learns_a_few_scenes(annotator, scenes, tmp_path, monkeypatch):
    module, losses = _TRAININGS[annotator], []

    def learn(network, loss, scenes, config, recipe):
        def noted(numbers):
            found = loss(numbers)
            losses.append(found.item())
            return found

        _learn(network, noted, scenes, config, dataclasses.replace(recipe, batch=2))

    _learn = module.learn
    monkeypatch.setattr(module, "learn", learn)
    written = module.train(scenes, TrainConfig(output=tmp_path, steps=_STEPS))
    assert written.exists()
    assert written.parent == tmp_path
    assert np.mean(losses[-3:]) < 0.85 * losses[0]
