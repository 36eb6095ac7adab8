"""What a report shows, as plain records: read from files, then only looked at."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controlnet.trainer.probe import Bounds
from schemas.manifest import Manifest
from schemas.pixels import RgbU8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A number and, where there is one, its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    count: int | None  # pictures behind it

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval; twice the number where there is none."""
        low = self.value if self.low is None else self.low
        return low, self.value if self.high is None else self.high


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MeasureView:
    """A measure as the document names it."""

    name: str
    label: str
    unit: str
    higher_is_better: bool
    kind: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """A ControlNet that was judged."""

    name: str
    path: str
    step: int | None
    base: str | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RowView:
    """One of the four rows; those of a network once for each run."""

    row: str  # ceiling, model, shuffled, floor
    run: str | None
    cell: str | None  # tells two floors of two bases apart
    values: Mapping[str, Value | None]  # by measure; None: could not be computed


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Run b minus run a, paired by image."""

    a: str
    b: str
    measure: str
    value: Value | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Values of one run along an axis: steps, guidance, conditioning scale."""

    what: str
    run: str
    points: Sequence[tuple[float, Mapping[str, Value | None]]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A drawn picture and what the judge found in it."""

    run: str | None
    picture: Path | None  # None: not there
    found: Path | None  # None: nothing was found, or not there
    score: float | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PictureView:
    """A row of the data set and what was made of it."""

    key: str
    text: str
    why: str | None  # first, best, median, worst; None: the document does not say
    number: int  # which of the samples of its image
    real: Path | None
    wanted: Path | None
    models: Sequence[Sample]
    floors: Sequence[Sample]

    @property
    def score(self) -> float | None:
        """Of the first run's sample."""
        return self.models[0].score if self.models else None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """Samples of one probe of a training run."""

    step: int
    pictures: Sequence[RgbU8]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What training left in a run's folder."""

    run: str
    metrics: Sequence[Mapping[str, Any]]
    probes: Sequence[Mapping[str, Any]]
    bounds: Bounds | None
    snap: int | None
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    strips: Sequence[Strip]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """All of it."""

    folder: Path
    protocol: Mapping[str, Any]
    data: Mapping[str, Any]
    runs: Sequence[RunView]
    measures: Sequence[MeasureView]  # the headline first
    rows: Sequence[RowView]
    missing: Sequence[tuple[str, str]]  # measure, why
    warnings: Sequence[str]
    comparisons: Sequence[Difference]
    sweeps: Sequence[Series]
    curves: Sequence[Series]
    pictures: Sequence[PictureView]
    software: Mapping[str, Any]
    hardware: str | None
    seconds: Mapping[str, float]
    trainings: Sequence[Training]
    manifest: Manifest | None  # None: the data set is not there any more

    @property
    def headline(self) -> MeasureView:
        return self.measures[0]

    def of(self, row: str, run: str | None = None) -> RowView | None:
        """The first row of a kind, of any run or of this one."""
        there = (one for one in self.rows if one.row == row and run in (None, one.run))
        return next(there, None)

    def value(self, row: str, run: str | None = None) -> Value | None:
        """The headline's number in a row."""
        found = self.of(row, run)
        return None if found is None else found.values.get(self.headline.name)
