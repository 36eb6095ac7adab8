"""How different the pictures are that one row gets with several seeds."""

import hashlib
import importlib.resources
import itertools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controlnet.evaluator.metrics.base import Measure
from controlnet.evaluator.metrics.fid_kid import state_of
from schemas.errors import ConfigError
from schemas.pixels import RgbU8

BACKBONE = "alexnet-owt-7be5be79.pth"
"""torchvision's AlexNet, under whose features LPIPS's heads were trained."""

_HEADS = "weights/v0.1/alex.pth"


def pairwise(pictures: Sequence[RgbU8], distance: Callable[[RgbU8, RgbU8], float]) -> float:
    """Mean distance over all pairs.

    Args:
        pictures: of one row, of one size.
        distance: symmetric.

    Returns:
        In its units; NaN of fewer than two pictures.
    """
    found = [distance(a, b) for a, b in itertools.combinations(pictures, 2)]
    return float(np.mean(found)) if found else float("nan")


def rmse(a: RgbU8, b: RgbU8) -> float:
    """Root of the mean squared difference of two pictures of one size: 0..255 grey levels.

    Raises:
        ValueError: they are of two sizes.
    """
    _one_size(a, b)
    return float(np.sqrt(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)))


class Lpips:
    """Learned perceptual distance of two pictures; made by `lpips_distance`.

    Args:
        network: an `lpips.LPIPS`.
        name: see there.
        device: where it runs.
    """

    def __init__(self, network: Any, *, name: str, device: str) -> None:
        self._network, self._device = network.requires_grad_(False).eval().to(device), device
        self.name = name

    @torch.no_grad()
    def __call__(self, a: RgbU8, b: RgbU8) -> float:
        """0 where they are equal, around 0.7 where they have nothing to do with each other.

        Args:
            a: 31 px or more each way.
            b: of the same size.

        Raises:
            ValueError: they are of two sizes.
        """
        _one_size(a, b)
        return float(self._network(self._signed(a), self._signed(b)))

    def _signed(self, picture: RgbU8) -> Tensor:
        signed_HWC = torch.from_numpy(picture.astype(np.float32) / 127.5 - 1)
        return signed_HWC.permute(2, 0, 1)[None].to(self._device)


def lpips_distance(folder: str, *, device: str = "cpu") -> Lpips:
    """LPIPS on AlexNet, version 0.1.

    Args:
        folder: with torchvision's `alexnet-owt-7be5be79.pth`; the heads come with the package.
        device: where it runs.

    Returns:
        Distance of two pictures; its `name` says which weights.

    Raises:
        ConfigError: no such file, one that is not AlexNet's, or lpips is not installed.

    Source: Zhang et al. 2018; package lpips, BSD 2-clause.
    """
    path = Path(folder) / BACKBONE
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"--lpips {folder}: need a folder with torchvision's {BACKBONE}, got none "
            f"({error.strerror}); give one with --lpips FOLDER"
        ) from error
    # By hand: lpips itself would download the backbone and unpickle the heads.
    need = f"--lpips {folder}: need torchvision's AlexNet in {BACKBONE}"
    backbone = state_of(stored, need)
    network = _untrained(folder)
    try:
        # lpips cuts `features` into slices, but keeps each layer's number.
        network.net.load_state_dict(
            {
                name: backbone["features." + name.split(".", 1)[1]]
                for name in network.net.state_dict()
            }
        )
    except (RuntimeError, KeyError) as error:
        raise ConfigError(f"{need}, got another network; fetch it again") from error
    heads = importlib.resources.files("lpips").joinpath(_HEADS).read_bytes()
    for name, weight in state_of(heads, "lpips: need its own heads").items():
        network.get_parameter(name).data.copy_(weight)
    digest = hashlib.sha256(stored).hexdigest()[:16]
    return Lpips(network, name=f"LPIPS 0.1 on AlexNet (sha256 {digest})", device=device)


def _one_size(a: RgbU8, b: RgbU8) -> None:
    if a.shape != b.shape:
        raise ValueError(f"need pictures of one size, got {a.shape[:2]} and {b.shape[:2]}")


def _untrained(folder: str) -> Any:
    try:
        import lpips
    except ImportError as error:
        raise ConfigError(
            f"--lpips {folder}: need lpips, which is not installed; run "
            "`pip install controlset[quality]`"
        ) from error
    with warnings.catch_warnings():  # lpips calls torchvision by a keyword of long ago
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        return lpips.LPIPS(pretrained=False, pnet_rand=True, net="alex", verbose=False)


class Diversity:
    """How much the pictures of one row differ, who share everything but their noise.

    Args:
        distance: of two pictures.
        name: of the distance.
    """

    def __init__(self, distance: Callable[[RgbU8, RgbU8], float], name: str) -> None:
        self._distance, self._name = distance, name
        self.measures = (
            Measure(
                name="diversity",
                label=f"diversity ({name})",
                higher_is_better=True,
                kind="diversity",
            ),
        )

    @property
    def protocol(self) -> str:
        """Distance and definition."""
        return f"diversity: mean {self._name} between the pictures of one row"

    def __call__(
        self, pictures: Sequence[RgbU8], keys: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[np.ndarray]]:
        """See `Extra`; the first picture of a row carries its number."""
        # NaN in the others, which `mean` leaves out: each row counts once.
        counts = [np.array([np.nan]) for _ in pictures]
        for key in dict.fromkeys(keys):
            places = [place for place, other in enumerate(keys) if other == key]
            value = pairwise([pictures[place] for place in places], self._distance)
            counts[places[0]] = np.array([value])
        return {"diversity": counts}
