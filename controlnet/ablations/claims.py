"""What the paper says of its parts, asked of our own table."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from controlnet.ablations.config import AblationConfig
from controlnet.ablations.marks import Groups, Look, difference
from controlnet.ablations.quality import RESAMPLES
from controlnet.evaluator.metrics.base import RESAMPLES as RESAMPLES_OF_A_MEAN
from controlnet.evaluator.metrics.base import Aggregate, Estimate, mean

Looks = Mapping[str, Mapping[int, Look]]
"""Variant -> step -> look."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A sentence of the paper, and the difference that decides it."""

    text: str
    measure: str
    difference: Estimate  # above zero where the paper is right

    @property
    def verdict(self) -> Literal["yes", "no", "not decided"]:
        """Whether the interval lies on one side of zero."""
        if self.difference.low > 0:
            return "yes"
        return "no" if self.difference.high < 0 else "not decided"


def claims_of(config: AblationConfig, looks: Looks, distance: Aggregate) -> list[Claim]:
    """All of them; paired, since every variant was asked for the same pictures.

    Args:
        config: of the table.
        looks: all.
        distance: of features to real pictures.
    """
    start, early, end = 0, config.early, config.steps

    def more(worse: Groups, better: Groups) -> Estimate:
        return difference(worse, better, mean, resamples=RESAMPLES_OF_A_MEAN)

    def further(near: Groups, far: Groups) -> Estimate:
        return difference(near, far, distance, resamples=RESAMPLES)

    zero = looks["zero"]
    claims = [
        _claim(
            f"Zero convolutions obey better than {other} after {end} steps",
            "adherence, prompts",
            more(looks[name][end].prompted.adherence, zero[end].prompted.adherence),
        )
        for name, other in (("gaussian", "Gaussian ones"), ("lite", "ControlNet-lite"))
    ]
    for step in (start, early):
        ours, others = zero[step].prompted, looks["gaussian"][step].prompted
        text = f"Gaussian convolutions spoil samples after {step} steps, zero ones do not"
        apart = further(ours.features, others.features)
        claims.append(_claim(text, "Fréchet distance under control", apart))
        claims.append(_claim(text, "text under control", more(others.text, ours.text)))
    claims.append(
        _claim(
            "With empty prompts, training with prompt dropout obeys better than without",
            "adherence, empty prompts",
            more(looks["no-dropout"][end].empty.adherence, zero[end].empty.adherence),
        )
    )
    before, after = looks["unlocked"][start].free, looks["unlocked"][end].free
    claims.append(
        _claim(
            f"{end} steps of direct fine-tuning spoil what the base draws without control",
            "Fréchet distance without control",
            further(before.features, after.features),
        )
    )
    claims.append(
        _claim(
            f"{end} steps of direct fine-tuning make the base forget words",
            "text without control",
            more(after.text, before.text),
        )
    )
    return claims


def _claim(text: str, measure: str, estimated: Estimate) -> Claim:
    return Claim(text=text, measure=measure, difference=estimated)
