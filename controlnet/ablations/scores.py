"""Samples of the variants as numbers with intervals, and what the paper says of its parts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from controlnet.ablations.config import AblationConfig
from controlnet.architecture.backbone import Base
from controlnet.architecture.sampling import to_pictures
from controlnet.evaluator.metrics.base import (
    RESAMPLES,
    Aggregate,
    Estimate,
    Measure,
    Scored,
    estimate,
    estimate_difference,
    mean,
)
from controlnet.evaluator.metrics.fid_kid import frechet_distance
from controlnet.nano.reading import text_scores
from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from schemas.pixels import RgbU8, decode_stored_rgb, of_row

RESAMPLES_OF_A_DISTANCE = 200  # it costs more than a mean
_REAL = 1000
_AT_ONCE = 128
FEATURES, TEXT = "latent_features", "text"

PROTOCOL = (
    f"Fréchet distance between samples and up to {_REAL} training pictures in 24 numbers of the "
    "nano VAE's latent: of each channel mean, deviation, and mean absolute first and second "
    "differences along both axes"
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SetScores:
    """Numbers of one set of samples."""

    adherence: Estimate
    frechet_distance: Estimate
    text: Estimate | msgspec.UnsetType = msgspec.UNSET  # unset: it had empty prompts


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepScores:
    """A variant after some steps."""

    step: int
    prompts: SetScores
    empty_prompts: SetScores
    base_without_control: SetScores


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VariantScores:
    """One variant in numbers."""

    name: str
    label: str
    trained_parameters: int
    training_seconds: float  # of all seeds
    locked: bool
    control_in_by_step: int | None  # step by which half the way from floor to ceiling lasted
    training_loss: dict[int, float]  # of the first seed, by step
    looks: list[StepScores]

    def at(self, step: int) -> StepScores:
        """Numbers after a step that was sampled."""
        return next(look for look in self.looks if look.step == step)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A sentence of the paper, and the difference that decides it."""

    text: str
    measure: str
    difference: Estimate  # above zero where the paper is right
    verdict: Literal["yes", "no", "not decided"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Everything that was measured: `ablation.json`."""

    config: AblationConfig
    judge: str
    quality: str
    before: SetScores  # the untouched base without control: floor of adherence, and its quality
    real: SetScores  # the rows' own pictures through the VAE: ceiling
    variants: list[VariantScores]
    claims: list[Claim]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSets:
    """What the three sets of samples of a variant contributed, picture by picture."""

    prompts: Scored
    empty_prompts: Scored
    base_without_control: Scored


class CaptionWords:
    """The share of a caption that came true: of its colours, shapes and background."""

    protocol = "mean of what can be checked of a drawn scene's caption"
    measures = (Measure(name=TEXT, label="text", higher_is_better=True, kind="text"),)

    def __call__(
        self, pictures: Sequence[RgbU8], keys: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[np.ndarray]]:
        """See `Extra`; NaN where a caption names nothing."""
        told = []
        for picture, caption in zip(pictures, texts, strict=True):
            shares = np.array([float(share) for share in text_scores(picture, caption).values()])
            present = shares[~np.isnan(shares)]
            told.append(np.array([float(present.mean()) if len(present) else float("nan")]))
        return {TEXT: told}


class LatentDistance:
    """How far pictures are from the training pictures: of each the features, see `PROTOCOL`.

    Args:
        base: with its VAE.
        real_ND: features of the training pictures.
    """

    protocol = PROTOCOL

    def __init__(self, base: Base, real_ND: np.ndarray) -> None:
        self._base = base
        self.distance = distance_to(real_ND)
        self.measures = (
            Measure(
                name=FEATURES,
                label="Fréchet distance",
                higher_is_better=False,
                kind="quality",
                aggregate=self.distance,
                resampled=False,
            ),
        )

    def __call__(
        self, pictures: Sequence[RgbU8], keys: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[np.ndarray]]:
        """See `Extra`."""
        return {FEATURES: list(latent_features(self._base, np.stack(pictures)))}


@torch.no_grad()
def latent_features(base: Base, pictures_NHWC: np.ndarray) -> np.ndarray:
    """What a distance between sets of pictures is computed from.

    Few numbers, since there are few samples; differences, since damage shows in them: noise of 8
    grey levels on the base's 64 samples changes the distance by 25 %, where means and deviations
    of the latent's quarters change by less than 1 % (measured 2026-11-24).

    Args:
        base: with its VAE.
        pictures_NHWC: (N, H, W, 3) uint8, RGB.

    Returns:
        (N, 6 * latent channels) float64.
    """
    parts: list[Tensor] = []
    for start in range(0, len(pictures_NHWC), _AT_ONCE):
        latent_NCHW = _latents(base, pictures_NHWC[start : start + _AT_ONCE])
        edges = [
            latent_NCHW.diff(n=order, dim=axis).abs().mean(dim=(2, 3))
            for order in (1, 2)
            for axis in (2, 3)
        ]
        flat = [latent_NCHW.mean(dim=(2, 3)), latent_NCHW.std(dim=(2, 3)), *edges]
        parts.append(torch.cat(flat, dim=1).cpu())
    return torch.cat(parts).double().numpy()


@torch.no_grad()
def real_features(base: Base, data: str, size: tuple[int, int]) -> np.ndarray:
    """Features of a data set's training pictures, through the VAE and back like every sample.

    Args:
        base: with its VAE.
        data: data set.
        size: (width, height) of the pictures that count, px.

    Raises:
        ConfigError: fewer than two of that size.
    """
    pictures: list[np.ndarray] = []
    for batch in open_dataset(data, split="train").batches(["image"]):
        with of_row(data):
            decoded = [decode_stored_rgb(row["image"]["bytes"]) for row in batch.to_pylist()]
        pictures += [picture for picture in decoded if picture.shape[:2] == (size[1], size[0])]
        if len(pictures) >= _REAL:
            break
    if len(pictures) < 2:
        raise ConfigError(
            f"{data}: need training pictures of {size[0]}x{size[1]} px like the validation rows, "
            f"got {len(pictures)}; generate with one --resolution"
        )
    pictures_NHWC, passed = np.stack(pictures[:_REAL]), []
    for start in range(0, len(pictures_NHWC), _AT_ONCE):
        latent_NCHW = _latents(base, pictures_NHWC[start : start + _AT_ONCE])
        passed += to_pictures(base.pictures(latent_NCHW))
    return latent_features(base, np.stack(passed))


def _latents(base: Base, pictures_NHWC: np.ndarray) -> Tensor:
    """Means of the VAE's posterior: no draw of it, which would blur the distance."""
    image_NHWC = torch.from_numpy(pictures_NHWC).to(next(base.unet.parameters()).device)
    moments_NCHW = base.moments(image_NHWC.permute(0, 3, 1, 2).float() / 127.5 - 1)
    return base.space.scaled(moments_NCHW.chunk(2, dim=1)[0])


def distance_to(real_ND: np.ndarray) -> Aggregate:
    """Contributions (features of samples) -> their distance to the real pictures."""
    return lambda fake_ND: float(frechet_distance(real_ND, fake_ND))


def scores_of(scored: Scored, adherence: str, distance: Aggregate) -> SetScores:
    """Numbers of a set of samples.

    Args:
        scored: what its pictures contributed.
        adherence: name of that measure.
        distance: of features to those of real pictures.
    """
    text = estimate(scored.groups(TEXT), mean) if TEXT in scored.counts else msgspec.UNSET
    return SetScores(
        adherence=estimate(scored.groups(adherence), mean),
        frechet_distance=estimate_distance(scored.groups(FEATURES), distance),
        text=text,
    )


def estimate_distance(groups: Sequence[np.ndarray], distance: Aggregate) -> Estimate:
    """A distance and its 95 % interval.

    A resample repeats pictures, so its covariance is poorer and its distance larger than that of
    the pictures themselves. The interval is the resamples' spread around the value.

    Args:
        groups: of each image the features of its pictures, (samples, D).
        distance: from `distance_to`.
    """
    value, count = distance(np.concatenate(groups)), len(groups)
    draws = np.random.default_rng(0).integers(0, count, (RESAMPLES_OF_A_DISTANCE, count))
    drawn = np.array(
        [distance(np.concatenate([groups[image] for image in draw])) for draw in draws]
    )
    low, high = np.percentile(drawn - drawn.mean(), [2.5, 97.5])
    return Estimate(
        value=value,
        low=max(0.0, value + float(low)),
        high=value + float(high),
        count=sum(map(len, groups)),
    )


def difference(
    a: list[np.ndarray], b: list[np.ndarray], aggregate: Aggregate, *, resamples: int = RESAMPLES
) -> Estimate:
    """B minus A on the same images; a set of one seed is compared with each seed of the other."""
    most = max(len(a[0]), len(b[0]))
    a, b = (
        [np.repeat(samples, most // len(samples), axis=0) for samples in groups]
        for groups in (a, b)
    )
    return estimate_difference(a, b, aggregate, resamples=resamples)


def claim_of(text: str, measure: str, found: Estimate) -> Claim:
    """A claim holds where its whole interval lies above zero."""
    verdict = "yes" if found.low > 0 else "no" if found.high < 0 else "not decided"
    return Claim(text=text, measure=measure, difference=found, verdict=verdict)


def claims_of(
    config: AblationConfig,
    sets: Mapping[str, Mapping[int, ScoredSets]],
    adherence: str,
    distance: Aggregate,
) -> list[Claim]:
    """All of them; paired, since every variant was asked for the same pictures.

    Args:
        config: of the table.
        sets: variant -> step -> what its samples contributed.
        adherence: name of that measure.
        distance: of features to those of real pictures.
    """
    start, early, end = 0, config.early, config.steps

    def more(worse: Scored, better: Scored, measure: str) -> Estimate:
        return difference(worse.groups(measure), better.groups(measure), mean)

    def further(near: Scored, far: Scored) -> Estimate:
        pair = near.groups(FEATURES), far.groups(FEATURES)
        return difference(*pair, distance, resamples=RESAMPLES_OF_A_DISTANCE)

    zero = sets["zero"]
    claims = [
        claim_of(
            f"Zero convolutions obey better than {other} after {end} steps",
            "adherence, prompts",
            more(sets[name][end].prompts, zero[end].prompts, adherence),
        )
        for name, other in (("gaussian", "Gaussian ones"), ("lite", "ControlNet-lite"))
    ]
    for step in (start, early):
        ours, others = zero[step].prompts, sets["gaussian"][step].prompts
        text = f"Gaussian convolutions spoil samples after {step} steps, zero ones do not"
        claims.append(claim_of(text, "Fréchet distance under control", further(ours, others)))
        claims.append(claim_of(text, "text under control", more(others, ours, TEXT)))
    without = sets["no-dropout"][end].empty_prompts
    before, after = (sets["unlocked"][step].base_without_control for step in (start, end))
    return [
        *claims,
        claim_of(
            "With empty prompts, training with prompt dropout obeys better than without",
            "adherence, empty prompts",
            more(without, zero[end].empty_prompts, adherence),
        ),
        claim_of(
            f"{end} steps of direct fine-tuning spoil what the base draws without control",
            "Fréchet distance without control",
            further(before, after),
        ),
        claim_of(
            f"{end} steps of direct fine-tuning make the base forget words",
            "text without control",
            more(after, before, TEXT),
        ),
    ]
