"""Networks that turn pictures into the features whose sets are compared.

N: pictures, D: features of each.
"""

import hashlib
import importlib.metadata
import io
import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from controlnet.architecture.backbone import Base, fingerprint
from schemas.errors import ConfigError
from schemas.pixels import RgbU8

RELEASED = "6726825d"
"""First digits of the sha256 of torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`."""

_BATCH = (
    16  # bounds memory only: Inception sees 299 px whatever comes, the VAE one at a time is slow
)
_GRID = 4  # sides of what is left of a VAE's latent


@runtime_checkable
class Extractor(Protocol):
    """Gives each picture's features."""

    @property
    def name(self) -> str:
        """Network, hash of its weights and how it resizes: what two numbers must share."""
        ...

    def __call__(self, pictures: Sequence[RgbU8]) -> np.ndarray:
        """Features.

        Args:
            pictures: of any sizes; those of one size that follow each other go together.

        Returns:
            (N, D) float32.
        """
        ...


class _Network:
    """Features of a function of (B, 3, H, W) uint8, B pictures of one size."""

    def __init__(
        self, name: str, features: Callable[[Tensor], Tensor], *, count: int, device: Any
    ) -> None:
        self.name = name
        self._features, self._count, self._device = features, count, device

    @torch.no_grad()
    def __call__(self, pictures: Sequence[RgbU8]) -> np.ndarray:
        found = [np.empty((0, self._count), np.float32)]
        for batch in _batches(pictures):
            picture_BCHW = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
            feature_BD = self._features(picture_BCHW.to(self._device))
            found.append(feature_BD.float().cpu().numpy())
        return np.concatenate(found)


def inception(path: str, *, device: str = "cpu", expected: str = RELEASED) -> Extractor:
    """The Inception network of FID and KID: 2048 features.

    Args:
        path: file of the weights that torch-fidelity released.
        device: where it runs.
        expected: first digits of the file's sha256.

    Raises:
        ConfigError: no such file, one of another hash, or torch-fidelity is not installed. Nothing
            of a file with another hash is unpickled.
    """
    try:
        stored = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"--inception {path}: need a file with Inception's weights, got none "
            f"({error.strerror}); give the path of weights-inception-2015-12-05-{RELEASED}.pth "
            "(torch-fidelity's release v0.2.0) with --inception PATH"
        ) from error
    digest = hashlib.sha256(stored).hexdigest()
    if not digest.startswith(expected):
        raise ConfigError(
            f"--inception {path}: need a file whose sha256 begins with {expected}, got "
            f"{digest[: len(expected)]}; fetch weights-inception-2015-12-05-{RELEASED}.pth again"
        )
    network = _inception_v3(path, stored).to(device)
    version = importlib.metadata.version("torch-fidelity")
    return _Network(
        f"InceptionV3, 2048 features (torch-fidelity {version}, sha256 {digest[:16]}), resized to "
        "299 px as TensorFlow 1 does: bilinear, not antialiased",
        lambda picture_BCHW: network(picture_BCHW)[0],
        count=2048,
        device=device,
    )


def vae_features(base: Base) -> Extractor:
    """Features for bases whose pictures are nothing to Inception, as the nano base's are.

    Args:
        base: loaded with its VAE.

    Returns:
        4 x 4 means of each channel of the VAE's posterior mean, unscaled: D = 16 * channels. Their
        Fréchet distance is no FID, and comparable only with that of the same VAE's features.
    """
    vae, channels = base.vae, base.space.channels
    assert vae is not None, "the base was loaded without its VAE"

    def features(picture_BCHW: Tensor) -> Tensor:
        mean_BCHW = base.moments(picture_BCHW.float() / 127.5 - 1)[:, :channels]
        return functional.adaptive_avg_pool2d(mean_BCHW.float(), _GRID).flatten(1)

    return _Network(
        f"mean of the base's VAE (weights {fingerprint(vae)}), averaged to {_GRID}x{_GRID}: "
        f"{_GRID**2 * channels} features, not resized; no Inception, so no FID",
        features,
        count=_GRID**2 * channels,
        device=vae.device,
    )


def _inception_v3(path: str, stored: bytes) -> Any:
    """The network with those weights."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ConfigError(
            f"--inception {path}: need torch-fidelity, which is not installed; run "
            "`pip install controlset[quality]`"
        ) from error
    # The class unpickles whatever it is given, and has no other way to be given weights: so it gets
    # what we pickled ourselves, since eight digits of a hash can be forged.
    ours = io.BytesIO()
    need = f"--inception {path}: need torch-fidelity's Inception weights"
    torch.save(state_of(stored, need), ours)
    ours.seek(0)
    try:
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=ours
        )
    except RuntimeError as error:
        raise ConfigError(f"{need}, got those of another network; fetch them again") from error


def state_of(stored: bytes, need: str) -> dict[str, Tensor]:
    """Tensors of a file that torch wrote; anything else in it is not unpickled.

    Args:
        stored: the whole file.
        need: where and what, for the error.

    Raises:
        ConfigError: torn, something else, or with more than tensors in it.
    """
    try:
        state = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, LookupError, OSError, RuntimeError, ValueError):
        # Not torch's own message: it proposes to unpickle all the same.
        raise ConfigError(f"{need}, got a torn file or none of tensors; fetch it again") from None
    if not isinstance(state, dict) or not all(isinstance(one, Tensor) for one in state.values()):
        raise ConfigError(f"{need}, got a file of other things than tensors; fetch it again")
    return dict(state)


def _batches(pictures: Sequence[RgbU8]) -> Iterator[list[RgbU8]]:
    for _, group in itertools.groupby(pictures, key=np.shape):
        alike = list(group)
        yield from (alike[start : start + _BATCH] for start in range(0, len(alike), _BATCH))
