"""How far drawn pictures are from real ones as a set: distances of two clouds of features.

N: pictures, D: features of each. Everything is float64; which network the features are of is its
`Extractor`'s to say, and only with Inception's are these FID and KID.
"""

import hashlib
import importlib.metadata
import io
import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from controlnet.architecture.backbone import Base, fingerprint
from controlnet.evaluator.metrics.base import Measure
from schemas.errors import ConfigError
from schemas.pixels import RgbU8

_DEGREE = 3  # of the kernel (x.y / D + 1)^3


def frechet_distance(real_ND: np.ndarray, fake_ND: np.ndarray) -> float:
    """Fréchet distance of the Gaussians with the sets' means and covariances; FID on Inception's.

    |mu_r - mu_f|^2 + Tr(S_r + S_f - 2 (S_r S_f)^(1/2)). With S = R'R the trace of that root is the
    sum of the singular values of R_r R_f', so that no covariance is formed or rooted: sets of fewer
    pictures than features are no special case, and equal sets give 0 to 1e-12 (rooting the
    covariances of 300 pictures gives 1e-5).

    Args:
        real_ND: (N, D) features of real pictures, N >= 2.
        fake_ND: (M, D) of drawn ones, M >= 2.

    Returns:
        0 or more, in units of the features squared; falls as N grows, so compare only equal N.

    Raises:
        ValueError: fewer than two samples, or sets of different D.

    Source: Heusel et al. 2017, eq. 6; equal to torch-fidelity and torchmetrics on one set of
        features.
    Cost: for D = 2048 0.1 s of 300 pictures and 6 s of 3000, one core (measured 2026-11-24).
    """
    real_ND, fake_ND = _checked(real_ND, fake_ND)
    real_root, fake_root = _root(real_ND), _root(fake_ND)
    between = np.sum((real_ND.mean(axis=0) - fake_ND.mean(axis=0)) ** 2)
    within = np.sum(real_root**2) + np.sum(fake_root**2)
    shared = np.linalg.svd(real_root @ fake_root.T, compute_uv=False).sum()
    # Equal sets may come out at -1e-12.
    return max(0.0, float(between + within - 2 * shared))


def kernel_distance(
    real_ND: np.ndarray,
    fake_ND: np.ndarray,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Squared maximum mean discrepancy of the sets; KID on Inception's features.

    Args:
        real_ND: (N, D) features of real pictures, N >= 2.
        fake_ND: (M, D) of drawn ones, M >= 2.
        subsets: how many are drawn of each set, without replacement.
        subset_size: pictures of a subset; cut to the smaller set.
        seed: of the drawing.

    Returns:
        Mean and standard deviation over the subsets. The estimate is unbiased at any N, so it may
        be negative. Where subsets hold all of both sets there is but one, and the deviation is 0.

    Raises:
        ValueError: fewer than two samples, or sets of different D.

    Source: Bińkowski et al. 2018; equal to torch-fidelity and torchmetrics on one set of features.
    Cost: 100 subsets of 1000 take 65 s for D = 2048 and 5 s for 64, one core (measured
        2026-11-24).
    """
    real_ND, fake_ND = _checked(real_ND, fake_ND)
    size = min(subset_size, len(real_ND), len(fake_ND))
    if size < 2 or subsets < 1:
        raise ValueError(f"need 1 subset or more, of 2 samples or more, got {subsets} of {size}")
    if size == len(real_ND) == len(fake_ND):
        subsets = 1  # every draw would be the same pictures
    rng = np.random.default_rng(seed)
    distances = [
        _discrepancy(
            real_ND[rng.choice(len(real_ND), size, replace=False)],
            fake_ND[rng.choice(len(fake_ND), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return float(np.mean(distances)), float(np.std(distances))


def _checked(real_ND: np.ndarray, fake_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shapes = real_ND.shape, fake_ND.shape
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "need two sets of 2 samples or more with equally many features, (N, D) and (M, D), "
            f"got {shapes[0]} and {shapes[1]}"
        )
    return np.asarray(real_ND, np.float64), np.asarray(fake_ND, np.float64)


def _root(features_ND: np.ndarray) -> np.ndarray:
    """(min(N, D), D) whose product with itself, R'R, is the covariance."""
    centred = features_ND - features_ND.mean(axis=0)
    # R alone has the singular values, and at most D rows, however many pictures there are.
    return np.linalg.qr(centred, mode="r") / np.sqrt(len(features_ND) - 1)


def _discrepancy(real_ND: np.ndarray, fake_ND: np.ndarray) -> float:
    """Unbiased estimate of two sets of one size: no sample is compared with itself."""
    count = len(real_ND)
    inside = sum(
        kernel.sum() - kernel.trace()
        for kernel in (_kernel(real_ND, real_ND), _kernel(fake_ND, fake_ND))
    )
    return float(inside / (count * (count - 1)) - 2 * _kernel(real_ND, fake_ND).mean())


def _kernel(a_ND: np.ndarray, b_ND: np.ndarray) -> np.ndarray:
    return (a_ND @ b_ND.T / a_ND.shape[1] + 1) ** _DEGREE


RELEASED = "6726825d"
"""First digits of the sha256 of torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`."""

# bounds memory only: Inception sees 299 px whatever comes, the VAE one at a time is slow
_BATCH = 16
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
    if not isinstance(state, dict) or not all(
        isinstance(tensor, Tensor) for tensor in state.values()
    ):
        raise ConfigError(f"{need}, got a file of other things than tensors; fetch it again")
    return dict(state)


def _batches(pictures: Sequence[RgbU8]) -> Iterator[list[RgbU8]]:
    for _, group in itertools.groupby(pictures, key=np.shape):
        alike = list(group)
        yield from (alike[start : start + _BATCH] for start in range(0, len(alike), _BATCH))


class Distance:
    """How far the distribution of pictures lies from that of the real ones.

    Args:
        extractor: pictures -> features.
        real: the real pictures; read when they are first needed.
        names: of the Fréchet and the kernel distance.
        labels: likewise.
    """

    def __init__(
        self,
        extractor: Extractor,
        real: Callable[[], Iterable[RgbU8]],
        *,
        names: tuple[str, str],
        labels: tuple[str, str],
    ) -> None:
        self._extractor, self._real, self._names = extractor, real, names
        self._real_ND: np.ndarray | None = None
        functions = (self._frechet, self._kernel)
        # Fréchet, then kernel distance
        self.measures = tuple(
            Measure(
                name=name,
                label=label,
                higher_is_better=False,
                kind="quality",
                aggregate=function,
                resampled=False,
            )
            for name, label, function in zip(names, labels, functions, strict=True)
        )

    @property
    def protocol(self) -> str:
        """Extractor and definition."""
        return f"{', '.join(self._names)}: {self._extractor.name}"

    def __call__(
        self, pictures: Sequence[RgbU8], keys: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[np.ndarray]]:
        """See `Extra`; what a picture contributes are its features."""
        features = list(self._extractor(pictures).astype(np.float64))
        return {name: features for name in self._names}

    @property
    def _features_of_real(self) -> np.ndarray:
        if self._real_ND is None:
            # One at a time: they are decoded as they are asked for, and not all fit in memory.
            features = [self._extractor([picture])[0] for picture in self._real()]
            self._real_ND = np.stack(features).astype(np.float64)
        return self._real_ND

    def _frechet(self, features_ND: np.ndarray) -> float:
        return _or_nan(frechet_distance, self._features_of_real, features_ND)

    def _kernel(self, features_ND: np.ndarray) -> float:
        return _or_nan(lambda *sets: kernel_distance(*sets)[0], self._features_of_real, features_ND)


def _or_nan(
    distance: Callable[[np.ndarray, np.ndarray], float], real_ND: np.ndarray, fake_ND: np.ndarray
) -> float:
    """A distance of sets that are large enough to have one."""
    return distance(real_ND, fake_ND) if min(len(real_ND), len(fake_ND)) > 1 else float("nan")
