"""What `evaluation.json` holds: rows with intervals, comparisons, sweeps, pictures to look at."""

import dataclasses
from typing import Any

RESULT, FORMAT, VERSION = "evaluation.json", "controlset-evaluation", 1
JUDGE = "judge"
"""Row of the original pictures, where they are held to the truth."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NumberRecord:
    """A number and, where there is one, its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None  # pictures behind it

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval; twice the number where there is none."""
        low = self.value if self.low is None else self.low
        return low, self.value if self.high is None else self.high


Numbers = dict[str, NumberRecord | None]
"""By measure; None: it could not be computed."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MeasureRecord:
    """What the numbers of a name mean."""

    name: str
    label: str
    unit: str = ""
    higher_is_better: bool = True
    kind: str = "adherence"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RowRecord:
    """One of the rows; those of a network once for each run."""

    row: str  # ceiling, model, shuffled, floor; by the truth also judge
    run: str | None = None
    cell: str | None = None  # the network with its setting: tells two floors of two bases apart
    values: Numbers


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ObedienceRecord:
    """How far a run gets, as a share of what can be reached; for every condition the same scale."""

    run: str
    measure: str  # the headline
    floor: str = "floor"  # cell of its base's floor
    obedience: NumberRecord | None  # (model - floor) / (ceiling - floor)
    specificity: NumberRecord | None  # (model - shuffled) / (ceiling - shuffled)
    why: str | None = None  # there is no obedience: no room between floor and ceiling


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonRecord:
    """Run b minus run a, paired by image."""

    a: str
    b: str
    measure: str
    value: float | None
    low: float | None = None
    high: float | None = None
    count: int | None = None

    @property
    def number(self) -> NumberRecord | None:
        """The difference; None: it could not be computed."""
        if self.value is None:
            return None
        return NumberRecord(value=self.value, low=self.low, high=self.high, count=self.count)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SweepPoint:
    """Numbers at one value of what was swept."""

    at: float
    values: Numbers


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SweepRecord:
    """Numbers of one run along guidance or the scale of the control."""

    what: str
    run: str
    points: list[SweepPoint]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """Numbers of one checkpoint."""

    step: int
    values: Numbers


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CurveRecord:
    """Numbers of one run over training steps."""

    run: str
    points: list[CurvePoint]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SampleRecord:
    """A sampled picture and what the judge saw in it; paths in the evaluation's folder."""

    run: str | None = None
    picture: str | None = None
    found: str | None = None  # None: nothing, e.g. no person
    score: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PictureRecord:
    """A row of the data set and what was made of it."""

    key: str
    number: int = 0  # which of the samples of its image
    text: str | None = ""
    why: str | None = None  # it is shown: first, best, median, worst
    real: str | None = None
    wanted: str | None = None
    rows: dict[str, list[SampleRecord]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """A ControlNet that was judged."""

    name: str
    path: str  # as seen from the evaluation's folder
    step: int | None = None
    base: str | None = None
    condition: str | None = None
    zero_terminal_snr: bool = False
    snap: int | None = None  # step at which control snapped in


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MissingRecord:
    """A measure that could not be had, and why."""

    measure: str
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRecord:
    """`evaluation.json`: written by an evaluation, read by the report and by other programs."""

    format: str = FORMAT
    version: int = VERSION
    protocol: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    measures: list[MeasureRecord]  # the headline first
    rows: list[RowRecord] = dataclasses.field(default_factory=list)
    obedience: list[ObedienceRecord] = dataclasses.field(default_factory=list)
    comparisons: list[ComparisonRecord] = dataclasses.field(default_factory=list)
    sweeps: list[SweepRecord] = dataclasses.field(default_factory=list)
    curve: list[CurveRecord] = dataclasses.field(default_factory=list)
    pictures: list[PictureRecord] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    runs: list[RunRecord] = dataclasses.field(default_factory=list)
    missing: list[MissingRecord] = dataclasses.field(default_factory=list)
    software: dict[str, Any] = dataclasses.field(default_factory=dict)
    hardware: str | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)  # path -> sha256
