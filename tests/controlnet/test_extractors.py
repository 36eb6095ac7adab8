"""Feature extractors: the right weights or none, and the features of the libraries' networks."""

import hashlib
import io
import pickle
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from controlnet.architecture.backbone import load_base
from controlnet.evaluator.metrics.fid_kid import (
    Extractor,
    frechet_distance,
    inception,
    vae_features,
)
from controlnet.nano import base_folder, scenes
from schemas.errors import ConfigError
from tests.controlnet.tiny_bases import one_thread  # noqa: F401


class Untrained(FeatureExtractorInceptionV3):
    """The library's network with random weights: it takes those of its file only."""

    def __init__(self):
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        super().__init__("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)

    def load_state_dict(self, state_dict, *args, **options):
        for one in self.modules():  # or pictures would be lost on the way through so many layers
            if isinstance(one, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(one.weight)
        return super().load_state_dict(state_dict, strict=False)


class _Harmful:
    def __reduce__(self):
        return print, ("unpickled",)


def noise(count, *, side=64, seed=0):
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, side, side, 3), np.uint8))


def drawn(count, *, seed=0):
    rng = np.random.default_rng(seed)
    return [scenes.draw(scenes.random_scene(rng)) for _ in range(count)]


def prefix_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


# -------------------------------------------------------------------------------------- Inception


@pytest.mark.slow
def test_inception_s_features_are_the_library_s_and_do_not_depend_on_the_batch(tmp_path):
    torch.manual_seed(0)
    theirs = Untrained()
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)
    ours = inception(str(path), expected=prefix_of(path))
    pictures = [*noise(2), *noise(1, side=80, seed=1)]
    found_ND = ours(pictures)
    assert found_ND.shape == (3, 2048)
    assert found_ND.dtype == np.float32
    for picture, found_D in zip(pictures, found_ND, strict=True):
        with torch.no_grad():
            expected_D = theirs(torch.from_numpy(picture).permute(2, 0, 1)[None])[0][0].numpy()
        np.testing.assert_allclose(found_D, expected_D, rtol=1e-3, atol=1e-5)
    assert np.abs(found_ND[0] - found_ND[1]).max() > 0.01  # pictures do make a difference
    for part in ("InceptionV3", hashlib.sha256(path.read_bytes()).hexdigest()[:16], "299 px"):
        assert part in ours.name


def test_a_missing_file_names_the_option(tmp_path):
    path = tmp_path / "none.pth"
    with pytest.raises(ConfigError) as caught:
        inception(str(path))
    assert str(caught.value) == (
        f"--inception {path}: need a file with Inception's weights, got none (No such file or "
        "directory); give the path of weights-inception-2015-12-05-6726825d.pth (torch-fidelity's "
        "release v0.2.0) with --inception PATH"
    )


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="Is a directory"):
        inception(str(tmp_path))


def test_a_file_of_another_hash_is_refused_before_it_is_unpickled(tmp_path, monkeypatch):
    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    path.write_bytes(pickle.dumps(_Harmful()))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was unpickled"))
    with pytest.raises(ConfigError) as caught:
        inception(str(path))
    assert str(caught.value) == (
        f"--inception {path}: need a file whose sha256 begins with 6726825d, got "
        f"{prefix_of(path)}; fetch weights-inception-2015-12-05-6726825d.pth again"
    )


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(pickle.dumps(_Harmful(), protocol=2)),
        lambda path: torch.save({"fc.weight": _Harmful()}, path),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"epoch": 3}, path),
        lambda path: torch.save({"fc.weight": torch.ones(2)}, path),
    ],
    ids=["code", "code in a file", "a list", "numbers", "another network"],
)
def test_even_with_the_hash_a_file_of_other_things_runs_no_code(write, tmp_path, capfd):
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(ConfigError, match="need torch-fidelity's Inception weights, got") as caught:
        inception(str(path), expected=prefix_of(path))
    assert "\n" not in str(caught.value)
    assert "unpickled" not in capfd.readouterr().out


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ConfigError, match=r"run `pip install controlset\[quality\]`"):
        inception(str(path), expected=prefix_of(path))


# -------------------------------------------------------------------------------------------- VAE


@pytest.fixture(scope="module")
def nano():
    return load_base(str(base_folder()), text=False)


def test_vae_features_are_the_posterior_s_mean_in_sixteen_cells(nano):
    pictures = drawn(3)
    found_ND = vae_features(nano)(pictures)
    assert found_ND.shape == (3, 16 * 4)
    assert found_ND.dtype == np.float32
    for picture, found_D in zip(pictures, found_ND, strict=True):
        image_BCHW = torch.from_numpy(picture / 127.5 - 1).permute(2, 0, 1)[None].float()
        mean_BCHW = nano.vae.encode(image_BCHW).latent_dist.mean
        expected_D = functional.avg_pool2d(mean_BCHW, mean_BCHW.shape[-1] // 4).flatten()
        np.testing.assert_allclose(found_D, expected_D.numpy(), atol=1e-4)


def test_features_do_not_depend_on_what_else_is_in_the_batch(nano):
    extractor = vae_features(nano)
    pictures = [*drawn(18), *noise(2, side=96), *drawn(1, seed=1)]  # over a batch, and two sizes
    together_ND = extractor(pictures)
    alone_ND = np.concatenate([extractor([one]) for one in pictures])
    np.testing.assert_allclose(together_ND, alone_ND, atol=1e-4)


def test_no_pictures_have_no_features(nano):
    assert vae_features(nano)([]).shape == (0, 64)


def test_it_is_named_for_what_it_is(nano):
    extractor = vae_features(nano)
    assert isinstance(extractor, Extractor)
    assert "no Inception, so no FID" in extractor.name
    assert str(base_folder()) not in extractor.name  # the same on every machine


def test_worse_pictures_are_farther_from_drawn_ones(nano):
    extractor = vae_features(nano)
    real_ND = extractor(drawn(80))
    grainy = [
        np.clip(one + np.random.default_rng(0).normal(0, 40, one.shape), 0, 255).astype(np.uint8)
        for one in drawn(80, seed=1)
    ]
    others, worse, nothing = (
        frechet_distance(real_ND, extractor(pictures))
        for pictures in (drawn(80, seed=1), grainy, noise(80))
    )
    assert 0 < others < worse < nothing
