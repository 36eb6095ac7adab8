"""What a report shows, as plain records: read from files, then only looked at."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controlnet.trainer.judge import Bounds
from controlnet.trainer.log import METRICS, PROBES, SAMPLES, read_journal
from controlnet.trainer.run_folder import CONFIG_NAME, SUMMARY_NAME, read_record
from schemas.dataset import filesystem_of, read_manifest
from schemas.documents import as_record, misfit, read_checked
from schemas.errors import ConfigError, Rejected
from schemas.files import file_digest, read_plain
from schemas.manifest import Manifest
from schemas.pixels import RgbU8, decode_stored_rgb

DOCUMENT, FORMAT, VERSION = "evaluation.json", "controlset-evaluation", 1

_AGAIN = "run `controlset evaluate` again"
_STRIPS, _PICTURES = 7, 8  # probes, and pictures of each, that are shown


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Value:
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MeasureView:
    """A measure as the document names it."""

    name: str
    label: str
    unit: str = ""
    higher_is_better: bool = True
    kind: str = "adherence"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """A ControlNet that was judged."""

    name: str
    path: str
    step: int | None = None
    base: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RowView:
    """One of the four rows; those of a network once for each run."""

    row: str  # ceiling, model, shuffled, floor
    values: Mapping[str, Value | None]  # by measure; None: could not be computed
    run: str | None = None
    cell: str | None = None  # tells two floors of two bases apart


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Difference(Value):
    """Run b minus run a, paired by image."""

    a: str
    b: str
    measure: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Values at one place of an axis."""

    at: float
    values: Mapping[str, Value | None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Values of one run along an axis: steps, guidance, conditioning scale."""

    what: str
    run: str
    points: Sequence[Point]


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Document:
    """What is shown as the document has it; parts that it lacks are empty."""

    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    runs: Sequence[RunView] = ()
    measures: Sequence[MeasureView] = ()  # the headline first
    rows: Sequence[RowView] = ()
    missing: Sequence[Mapping[str, str]] = ()  # measure, why
    warnings: Sequence[str] = ()
    comparisons: Sequence[Difference] = ()
    sweeps: Sequence[Series] = ()
    curves: Sequence[Series] = ()
    software: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    hardware: str | None = None
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(_Document):
    """All of it: the document, its pictures, and what runs and data set still say."""

    folder: Path
    pictures: Sequence[PictureView]
    trainings: Sequence[Training]
    manifest: Manifest | None  # None: the data set is not there any more

    @property
    def headline(self) -> MeasureView:
        return self.measures[0]

    def of(self, row: str, run: str | None = None) -> RowView | None:
        """The first row of a kind, of any run or of this one."""
        there = (
            candidate
            for candidate in self.rows
            if candidate.row == row and run in (None, candidate.run)
        )
        return next(there, None)

    def value(self, row: str, run: str | None = None) -> Value | None:
        """The headline's number in a row."""
        found = self.of(row, run)
        return None if found is None else found.values.get(self.headline.name)


def gather(folder: Path) -> Evaluation:
    """Everything that a report shows.

    Args:
        folder: that `controlset evaluate` wrote.

    Raises:
        ConfigError: no evaluation there, or one that this release cannot read.
    """
    document = _document(folder)
    try:
        pictures, files = document.pop("pictures", []), document.pop("files", {})
        document["comparisons"] = [
            pair for pair in document.get("comparisons", ()) if pair["value"] is not None
        ]
        document["sweeps"] = [line for line in document.get("sweeps", ()) if line["points"]]
        document["curves"] = [
            {"what": "step", "run": line["run"], "points": [*map(_at_its_step, line["points"])]}
            for line in document.pop("curve", ())
            if line["points"]
        ]
        changed = _changed(folder, files)
        shown = [_picture(folder, picture, changed) for picture in pictures]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # The document is one of ours by its first lines, yet not by the rest.
        found = f"one with {type(error).__name__} {error}"
        raise misfit(str(folder / DOCUMENT), found, _AGAIN) from error
    said = as_record(document, _Document, where=str(folder / DOCUMENT), advice=_AGAIN)
    warnings = list(said.warnings)
    if changed:
        warnings.append(
            f"{len(changed)} files were changed or lost since the evaluation and are not shown, "
            f"{min(changed)} for example; {_AGAIN}"
        )
    trainings = [_training(folder, run, _sizes(said.protocol), warnings) for run in said.runs]
    parts: dict[str, Any] = {
        part.name: getattr(said, part.name) for part in dataclasses.fields(said)
    }
    parts["warnings"] = warnings
    return Evaluation(
        **parts,
        folder=folder,
        pictures=shown,
        trainings=[training for training in trainings if training.metrics or training.probes],
        manifest=_manifest(folder, said.data.get("path")),
    )


def _at_its_step(point: Mapping[str, Any]) -> dict[str, Any]:
    return {"at": point["step"], "values": point["values"]}


def _document(folder: Path) -> dict[str, Any]:
    path = folder / DOCUMENT
    if not os.path.lexists(path):
        raise ConfigError(
            f"{folder}: need an evaluation, found no {DOCUMENT}; run `controlset evaluate` (again, "
            "if it was interrupted)"
        )
    document: dict[str, Any] = read_checked(path, dict, advice=_AGAIN)
    found = document.get("format"), document.get("version")
    if found != (FORMAT, VERSION):
        raise ConfigError(
            f"{path}: need {FORMAT} version {VERSION}, got {found[0]} version {found[1]}; "
            "use the release of controlset that wrote it, or evaluate again"
        )
    if not document.get("measures"):
        raise ConfigError(
            f"{path}: need at least one measure, got none; run `controlset evaluate` again"
        )
    return document


def _changed(folder: Path, files: Mapping[str, str]) -> frozenset[str]:
    """Files of an evaluation that are not as it left them."""
    changed = set()
    for name, expected in files.items():
        path = _there(folder, name)
        if path is None or file_digest(path) != expected:
            changed.add(name)
    return frozenset(changed)


def _picture(folder: Path, record: Mapping[str, Any], changed: frozenset[str]) -> PictureView:
    rows = record.get("rows") or {}

    def inside(name: str | None) -> Path | None:
        return None if name in changed else _there(folder, name)

    def samples(row: str) -> list[Sample]:
        return [
            Sample(
                run=sample.get("run"),
                picture=inside(sample.get("picture")),
                found=inside(sample.get("found")),
                score=sample.get("score"),
            )
            for sample in rows.get(row) or ()
        ]

    return PictureView(
        key=record["key"],
        text=record.get("text") or "",
        why=record.get("why"),
        number=record.get("number", 0),
        real=inside(record.get("real")),
        wanted=inside(record.get("wanted")),
        models=samples("model"),
        floors=samples("floor"),
    )


def _there(folder: Path, name: str | None) -> Path | None:
    """A file of the evaluation; nothing else gets into a page that is passed on."""
    if name is None or "\0" in name:
        return None
    path = folder / name
    inside = path.resolve().is_relative_to(folder.resolve())
    return path if inside and path.is_file() else None


def _training(
    evaluation: Path, run: RunView, sizes: Sequence[tuple[int, int]], warnings: list[str]
) -> Training:
    """What a run's folder still says; what is damaged there is added to the warnings."""
    folder = evaluation.resolve() / run.path
    summary, config = (_record(folder / name, warnings) for name in (SUMMARY_NAME, CONFIG_NAME))
    bounds = summary.get("bounds")
    return Training(
        run=run.name,
        metrics=_lines(folder / METRICS, warnings),
        probes=_lines(folder / PROBES, warnings),
        bounds=Bounds(**bounds) if bounds else None,
        snap=summary.get("snap"),
        summary=summary,
        config=_without_folders(config.get("config") or {}),
        strips=_strips(folder / SAMPLES, sizes),
    )


def _record(path: Path, warnings: list[str]) -> dict[str, Any]:
    """JSON that a run may lack: one of somebody else has none."""
    try:
        return read_record(path)
    except ConfigError as error:
        warnings.append(str(error))
        return {}


def _lines(path: Path, warnings: list[str]) -> list[dict[str, Any]]:
    try:
        found = read_journal(path)
    except ConfigError as error:
        warnings.append(str(error))
        return []
    warnings += found.told
    return found.lines


def _without_folders(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for a page that is passed on: where things lay on this machine is nobody's."""
    return {
        name: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for name, value in config.items()
    }


def _strips(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[Strip]:
    """Some probes' samples, the first and the last one among them."""
    files = sorted(folder.glob("step-*.png"))
    if not files:
        return []
    chosen = np.unique(np.linspace(0, len(files) - 1, min(_STRIPS, len(files))).round())
    strips = []
    for file in (files[number] for number in chosen.astype(int)):
        strip = read_rgb(file)
        if strip is None:
            continue
        step = int(file.stem.removeprefix("step-"))
        strips.append(Strip(step=step, pictures=_cut(strip, sizes)))
    return strips


def _cut(strip: RgbU8, sizes: Sequence[tuple[int, int]]) -> list[RgbU8]:
    """Pictures that lie side by side; their width is the evaluation's, or they are square."""
    height, length = strip.shape[:2]
    widths = [width for width, tall in sizes if tall == height and length % width == 0]
    width = widths[0] if widths else height
    return [strip[:, x : x + width] for x in range(0, length - width + 1, width)][:_PICTURES]


def _sizes(protocol: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(width, height) in px of the pictures that were judged."""
    size = protocol.get("size")
    return [(width, height) for width, height in protocol.get("sizes") or ([size] if size else ())]


def read_rgb(path: Path) -> RgbU8 | None:
    """A picture; None where it cannot be read."""
    try:
        return decode_stored_rgb(read_plain(path))
    except (OSError, Rejected):
        return None


def _manifest(folder: Path, path: str | None) -> Manifest | None:
    """Of a data set in a folder that is still there; remote ones are not asked."""
    if not path or "://" in path or "\0" in path:
        return None
    path = str(folder.resolve() / path)
    try:
        files, root = filesystem_of(path)
        return read_manifest(files, root, path)
    except (ConfigError, OSError):
        return None
