"""Differences among pictures: by pixel worked out by hand, by LPIPS against its package."""

import pickle
import sys
import warnings

import lpips
import numpy as np
import pytest
import torch
import torchvision

from controlnet.evaluator.metrics.diversity import BACKBONE, lpips_distance, pairwise, rmse
from schemas.errors import ConfigError
from tests.controlnet.tiny_bases import one_thread  # noqa: F401


def grey(level):
    return np.full((4, 6, 3), level, np.uint8)


def noise(seed, *, side=64):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def untrained():
    """A random AlexNet: only its 2.5 million convolution weights, since LPIPS wants no others."""
    torch.manual_seed(0)
    state = torchvision.models.alexnet(weights=None).state_dict()
    return {name: weight for name, weight in state.items() if name.startswith("features")}


@pytest.fixture(scope="module")
def folder(untrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    torch.save(untrained, folder / BACKBONE)
    return str(folder)


@pytest.fixture(scope="module")
def distance(folder):
    return lpips_distance(folder)


# -------------------------------------------------------------------------------- pairs and pixels


def test_the_mean_is_over_all_pairs():
    # of 0, 10 and 40: 10, 40 and 30
    assert pairwise([grey(0), grey(10), grey(40)], rmse) == pytest.approx(80 / 3)


def test_equal_pictures_have_no_diversity():
    assert pairwise([grey(7)] * 3, rmse) == 0


@pytest.mark.parametrize("count", [0, 1])
def test_one_picture_has_no_diversity_to_speak_of(count):
    assert np.isnan(pairwise([grey(7)] * count, rmse))


def test_rmse_is_in_grey_levels_and_does_not_wrap():
    assert rmse(grey(255), grey(0)) == rmse(grey(0), grey(255)) == 255
    half = grey(0)
    half[:2] = 100
    assert rmse(half, grey(0)) == pytest.approx(100 / np.sqrt(2))


# ------------------------------------------------------------------------------------------- LPIPS


def test_a_picture_is_at_no_distance_from_itself(distance):
    assert distance(noise(0), noise(0)) == 0


def test_different_pictures_are_as_far_in_either_order(distance):
    there, back = distance(noise(0), noise(1)), distance(noise(1), noise(0))
    assert there > 1e-3
    assert there == pytest.approx(back, rel=1e-5)


def test_it_is_what_the_package_finds_with_the_same_weights(distance, untrained):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers = [layer for part in range(1, 6) for layer in getattr(theirs.net, f"slice{part}")]
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    for layer, number in zip(convolutions, (0, 3, 6, 8, 10), strict=True):
        of_layer = {name: untrained[f"features.{number}.{name}"] for name in ("weight", "bias")}
        layer.load_state_dict(of_layer)
    for seed in (1, 2):
        pair = noise(0), noise(seed)
        with torch.no_grad():
            expected = theirs(*(lpips.im2tensor(one) for one in pair)).item()
        assert distance(*pair) == pytest.approx(expected, rel=1e-4)


def test_loading_says_nothing(folder, capfd):
    lpips_distance(folder)
    assert capfd.readouterr() == ("", "")


def test_its_name_tells_one_backbone_from_another(distance, untrained, tmp_path):
    other = {name: weight + 1 for name, weight in untrained.items()}
    torch.save(other, tmp_path / BACKBONE)
    assert distance.name.startswith("LPIPS 0.1 on AlexNet (sha256 ")
    assert lpips_distance(str(tmp_path)).name != distance.name


@pytest.mark.parametrize("measure", ["rmse", "lpips"])
def test_pictures_of_two_sizes_are_refused(measure, distance):
    chosen = rmse if measure == "rmse" else distance
    with pytest.raises(ValueError, match=r"one size, got \(64, 64\) and \(32, 32\)"):
        chosen(noise(0), noise(0, side=32))


# -------------------------------------------------------------------------------------- bad weights


def test_a_folder_without_the_backbone_is_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        lpips_distance(str(tmp_path))
    assert str(caught.value) == (
        f"--lpips {tmp_path}: need a folder with torchvision's alexnet-owt-7be5be79.pth, got none "
        "(No such file or directory); give one with --lpips FOLDER"
    )


class _Harmful:
    def __reduce__(self):
        return print, ("unpickled",)


def _cut(path, state):
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:10_000])


@pytest.mark.parametrize(
    "write",
    [
        lambda path, state: path.write_bytes(b""),
        lambda path, state: path.write_text("<html>not found</html>"),
        lambda path, state: path.write_bytes(pickle.dumps(_Harmful(), protocol=2)),
        lambda path, state: torch.save({"state": _Harmful()}, path),
        lambda path, state: torch.save({"features.0.weight": state["features.0.weight"]}, path),
        lambda path, state: torch.save(dict.fromkeys(state, torch.ones(1)), path),
        lambda path, state: torch.save([1, 2], path),
        _cut,
    ],
    ids=["empty", "a page", "code", "code in a file", "too few", "other shapes", "a list", "torn"],
)
def test_a_file_that_is_no_alexnet_is_refused_and_runs_no_code(write, untrained, tmp_path, capfd):
    write(tmp_path / BACKBONE, untrained)
    with pytest.raises(ConfigError, match="need torchvision's AlexNet in alexnet-owt") as caught:
        lpips_distance(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert "unpickled" not in capfd.readouterr().out


def test_without_the_package_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ConfigError, match=r"run `pip install controlset\[quality\]`"):
        lpips_distance(folder)
