"""What a score is: numbers of one picture, how they become one number, and how sure that is."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from schemas.pixels import RgbU8

Kind = Literal["adherence", "quality", "text", "diversity"]

# What pictures contributed, (N, K) float64, -> one number; NaN where none could be scored.
Aggregate = Callable[[np.ndarray], float]

RESAMPLES = 1000
NO_ROOM = 0.05
"""Of a score's range: a floor that lies nearer to the ceiling leaves a model nothing to show."""


def mean(counts_NK: np.ndarray) -> float:
    """Mean over pictures that have the number (K = 1); NaN where none has."""
    present = counts_NK[~np.isnan(counts_NK[:, 0]), 0]
    return float(present.mean()) if len(present) else float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What an annotator saw in one picture."""

    pixels: np.ndarray  # the map: (H, W) uint8 or uint16, or (H, W, 3) uint8
    stats: Mapping[str, Any]  # e.g. {"keypoints": [...]} of a pose


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One number of a result.

    Each picture contributes K numbers; `aggregate` makes the set's number of them. For most, K is 1
    and the number is the mean; a pooled one (mIoU, OKS AP) contributes counts.
    """

    name: str  # e.g. `f1_1px`: column of the scores, key of the results
    label: str  # e.g. `F1 (1 px)`
    higher_is_better: bool
    kind: Kind = "adherence"
    unit: str = ""  # e.g. `°`
    span: float = 1.0  # from the worst value to the best; of use where kind is adherence
    aggregate: Aggregate = mean
    resampled: bool = True  # whether a bootstrap gives its interval; not those of FID's kind

    def of_one(self, counts_K: np.ndarray) -> float:
        """The number of a set of one picture."""
        return self.aggregate(counts_K[None])


@runtime_checkable
class Scorer(Protocol):
    """Compares what was found in a picture with what was wanted."""

    @property
    def protocol(self) -> str:
        """Definition and thresholds in one line, for the protocol of a result."""
        ...

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The headline first."""
        ...

    def __call__(self, found: Seen | None, wanted: Seen) -> dict[str, np.ndarray]:
        """Contributions of one picture.

        Args:
            found: in the sampled picture; None: the annotator found nothing (e.g. no person).
            wanted: what the picture was asked for.

        Returns:
            Name of each measure -> (K,) float64.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float
    count: int  # pictures behind it


def estimate(
    groups: Sequence[np.ndarray], aggregate: Aggregate, *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Percentile bootstrap over images.

    Args:
        groups: of each image what its pictures contributed, (samples, K) float64; an image's
            pictures are drawn together, since they share prompt and condition.
        aggregate: of a measure.
        seed: of the draws; the same for two results makes their intervals comparable.
        resamples: how often.
    """
    value = aggregate(np.concatenate(groups))
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(groups), (resamples, len(groups)))
    drawn = [aggregate(np.concatenate([groups[image] for image in draw])) for draw in draws]
    low, high = _percentiles(drawn)
    return Estimate(value=value, low=low, high=high, count=sum(map(len, groups)))


def estimate_difference(
    groups_a: Sequence[np.ndarray],
    groups_b: Sequence[np.ndarray],
    aggregate: Aggregate,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """B minus A on the same images, which are drawn together: a paired bootstrap.

    Args:
        groups_a: as `estimate` takes them.
        groups_b: of the same images in the same order.
        aggregate: of a measure.
        seed: of the draws.
        resamples: how often.

    Raises:
        ValueError: not the same number of images.
    """
    if len(groups_a) != len(groups_b):
        raise ValueError(f"need pairs, got {len(groups_a)} and {len(groups_b)} images")

    def apart(places: Sequence[int]) -> float:
        a = aggregate(np.concatenate([groups_a[image] for image in places]))
        return aggregate(np.concatenate([groups_b[image] for image in places])) - a

    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(groups_a), (resamples, len(groups_a)))
    low, high = _percentiles([apart(draw.tolist()) for draw in draws])
    value = apart(range(len(groups_a)))
    return Estimate(value=value, low=low, high=high, count=len(groups_a))


def has_room(low: float, high: float, measure: Measure) -> bool:
    """Whether `high` is better than `low` by `NO_ROOM` of the measure's range at least."""
    better = high - low if measure.higher_is_better else low - high
    return better >= NO_ROOM * measure.span  # NaN is not


def estimate_way(
    low: "Scored",
    model: "Scored",
    high: "Scored",
    measure: Measure,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """How far of the way from `low` to `high` a model gets: (model - low) / (high - low).

    Args:
        low: a row that obeys nothing: 0 of the way. It may lack images.
        model: its images are what is drawn: for all three rows together, a paired bootstrap.
        high: the best that can be reached: 1, whether the measure rises or falls to it.
        measure: of which `has_room` is true.
        seed: of the draws; equal ones draw the same images.
        resamples: how often.
    """
    rows = [row.groups_by_key(measure.name) for row in (low, model, high)]
    keys = list(rows[1])

    def way(drawn: Sequence[str]) -> float:
        start, at, end = (
            measure.aggregate(np.concatenate(groups))
            if (groups := [row[key] for key in drawn if key in row])
            else float("nan")
            for row in rows
        )
        return (at - start) / (end - start) if end != start else float("nan")

    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(keys), (resamples, len(keys)))
    ends = _percentiles([way([keys[image] for image in draw]) for draw in draws.tolist()])
    return Estimate(value=way(keys), low=ends[0], high=ends[1], count=len(keys))


def _percentiles(drawn: Sequence[float]) -> tuple[float, float]:
    # A resample may hold only pictures that have no such number.
    present = [value for value in drawn if not np.isnan(value)]
    if not present:
        return float("nan"), float("nan")
    low, high = np.percentile(present, [2.5, 97.5])
    return float(low), float(high)


@runtime_checkable
class Extra(Protocol):
    """Scores pictures without looking at their condition."""

    @property
    def protocol(self) -> str:
        """Extractor, version and definition in one line."""
        ...

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What it gives."""
        ...

    def __call__(
        self, pictures: Sequence[RgbU8], keys: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[np.ndarray]]:
        """Contributions of each picture.

        Args:
            pictures: of one size; all of an image's pictures come together.
            keys: of the image that each belongs to.
            texts: its caption.

        Returns:
            Name of each measure -> (K,) float64 of each picture.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scored:
    """Pictures of one row of the result: ceiling, floor, or model and shuffled of one setting."""

    row: str
    setting: str
    keys: tuple[str, ...]  # of each picture; an image's pictures follow each other
    numbers: tuple[int, ...]
    counts: dict[str, list[np.ndarray]]  # measure -> of each picture (K,)

    def groups(self, measure: str) -> list[np.ndarray]:
        """Of each image what its pictures contributed, (samples, K)."""
        return list(self.groups_by_key(measure).values())

    def groups_by_key(self, measure: str) -> dict[str, np.ndarray]:
        """Key of each image -> what its pictures contributed, (samples, K)."""
        groups: dict[str, list[np.ndarray]] = {}
        for key, counts in zip(self.keys, self.counts[measure], strict=True):
            groups.setdefault(key, []).append(counts)
        return {key: np.stack(group) for key, group in groups.items()}

    def estimates(self, measures: Iterable[Measure]) -> dict[str, Estimate]:
        """Number and interval of each measure that this row has."""
        return {
            measure.name: estimate(
                self.groups(measure.name),
                measure.aggregate,
                resamples=RESAMPLES if measure.resampled else 0,
            )
            for measure in measures
            if measure.name in self.counts
        }

    def of_pictures(self, measure: Measure) -> list[float]:
        """The number of each picture by itself."""
        return [measure.of_one(counts) for counts in self.counts[measure.name]]


def difference(a: Scored, b: Scored, measure: Measure) -> Estimate:
    """B minus A, paired by image."""
    return estimate_difference(a.groups(measure.name), b.groups(measure.name), measure.aggregate)
