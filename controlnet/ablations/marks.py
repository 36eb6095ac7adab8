"""Samples of a look as numbers."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from controlnet.ablations.bench import Bench
from controlnet.ablations.config import AblationConfig
from controlnet.ablations.quality import distance_to, estimate_distance, latent_features
from controlnet.ablations.runs import load_base_look, load_look
from controlnet.evaluator.metrics.base import (
    Aggregate,
    Estimate,
    estimate,
    estimate_difference,
    mean,
)
from controlnet.nano.reading import text_scores
from controlnet.trainer.judge import Judge

Groups = list[np.ndarray]
"""Of each image what its pictures contributed, (seeds, K) float64."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """Contributions of one set of samples."""

    adherence: Groups  # K = 1, adherence to the image's condition
    features: Groups  # K = 24
    # K = 1, mean over what the caption says of colours, shapes and background; empty where the
    # prompts were
    text: Groups


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Numbers of one set of samples."""

    adherence: Estimate
    distance: Estimate
    text: Estimate | None  # None: it had empty prompts


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A variant after some steps."""

    step: int
    prompted: Marks
    empty: Marks
    free: Marks  # of its base, without control


class Marker:
    """Scores samples.

    Args:
        bench: what was asked for.
        judge: of adherence.
        real_ND: features of real pictures.
    """

    def __init__(self, bench: Bench, judge: Judge, real_ND: np.ndarray) -> None:
        self._bench, self._judge = bench, judge
        self.distance: Aggregate = distance_to(real_ND)

    def marks(self, of_seeds: Sequence[np.ndarray], *, prompted: bool = True) -> Marks:
        """Contributions of the same set from several trainings.

        Args:
            of_seeds: (N, H, W, 3) uint8 each, in the order of the bench's rows.
            prompted: whether the pictures were asked for with their captions.
        """
        bench = self._bench
        adherence, features, text = [], [], []
        for pictures in of_seeds:
            adherence.append(self._judge.score(list(pictures), bench.maps, bench.keys))
            features.append(latent_features(bench.base, pictures))
            if prompted:
                pairs = zip(pictures, bench.captions, strict=True)
                text.append([_told(picture, caption) for picture, caption in pairs])
        return Marks(
            adherence=_grouped(adherence),
            features=_grouped(features),
            text=_grouped(text) if text else [],
        )

    def score(self, marks: Marks) -> Score:
        """Numbers with intervals."""
        return Score(
            adherence=estimate(marks.adherence, mean),
            distance=estimate_distance(marks.features, self.distance),
            text=estimate(marks.text, mean) if marks.text else None,
        )

    def base(self, config: AblationConfig) -> tuple[Marks, Marks]:
        """Of the rows' own pictures (ceiling), and of the untouched base's (floor)."""
        real, free = load_base_look(config)
        return self.marks([real]), self.marks([free])

    def look(self, config: AblationConfig, variant: str, step: int, before: Marks) -> Look:
        """Of one variant after a step, all seeds together.

        Args:
            config: of the table.
            variant: its name.
            step: one of the config's looks.
            before: of the untouched base; a locked base still is that.
        """
        seeds = [load_look(config, variant, seed, step) for seed in range(config.seeds)]
        free = [one.free for one in seeds if one.free is not None]
        return Look(
            step=step,
            prompted=self.marks([one.prompted for one in seeds]),
            empty=self.marks([one.empty for one in seeds], prompted=False),
            free=self.marks(free) if free else before,
        )


def difference(a: Groups, b: Groups, aggregate: Aggregate, *, resamples: int) -> Estimate:
    """B minus A on the same images; a set of one seed is compared with each seed of the other."""
    most = max(len(a[0]), len(b[0]))
    a, b = ([np.repeat(one, most // len(one), axis=0) for one in each] for each in (a, b))
    return estimate_difference(a, b, aggregate, resamples=resamples)


def _told(picture: np.ndarray, caption: str) -> float:
    """Mean of what can be checked: 0..1; NaN where the caption names nothing."""
    scores = np.array([float(one) for one in text_scores(picture, caption).values()])
    present = scores[~np.isnan(scores)]
    return float(present.mean()) if len(present) else float("nan")


def _grouped(of_seeds: Sequence[Sequence[float] | np.ndarray]) -> Groups:
    stacked = np.stack([np.asarray(one, np.float64) for one in of_seeds], axis=1)  # N, seeds, (K)
    return list(stacked.reshape(*stacked.shape[:2], -1))
