"""What a report shows, as plain records: read from files, then only looked at."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controlnet.evaluator.records import (
    FORMAT,
    RESULT,
    VERSION,
    CurveRecord,
    EvaluationRecord,
    MeasureRecord,
    NumberRecord,
    PictureRecord,
    RowRecord,
    RunRecord,
    SweepPoint,
    SweepRecord,
)
from controlnet.trainer.log import METRICS, PROBES, SAMPLES, read_journal
from controlnet.trainer.probe import Bounds
from controlnet.trainer.run_folder import CONFIG_NAME, SUMMARY_NAME, read_record
from schemas.dataset import filesystem_of, read_manifest
from schemas.documents import as_record, misfit, read_checked
from schemas.errors import ConfigError, Rejected
from schemas.files import file_digest, read_plain
from schemas.manifest import Manifest
from schemas.pixels import RgbU8, decode_stored_rgb

_AGAIN = "run `controlset evaluate` again"
_STRIPS, _PICTURES = 7, 8  # probes, and pictures of each, that are shown


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
    """All of it: the document, its pictures, and what runs and data set still say."""

    folder: Path
    document: EvaluationRecord
    warnings: Sequence[str]
    curves: Sequence[SweepRecord]  # over training steps
    pictures: Sequence[PictureView]
    trainings: Sequence[Training]
    manifest: Manifest | None  # None: the data set is not there any more

    @property
    def headline(self) -> MeasureRecord:
        return self.document.measures[0]

    def of(self, row: str, run: str | None = None) -> RowRecord | None:
        """The first row of a kind, of any run or of this one."""
        for record in self.document.rows:
            if record.row == row and run in {None, record.run}:
                return record
        return None

    def value(self, row: str, run: str | None = None) -> NumberRecord | None:
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
    changed = _changed(folder, document.files)
    warnings = list(document.warnings)
    if changed:
        warnings.append(
            f"{len(changed)} files were changed or lost since the evaluation and are not shown, "
            f"{min(changed)} for example; {_AGAIN}"
        )
    try:
        sizes = _sizes(document.protocol)
        manifest = _manifest(folder, document.data.get("path"))
    except (TypeError, ValueError) as error:  # these parts have no record of their own
        found = f"one with {type(error).__name__} {error}"
        raise misfit(str(folder / RESULT), found, _AGAIN) from error
    trainings = [_training(folder, run, sizes, warnings) for run in document.runs]
    return Evaluation(
        folder=folder,
        document=document,
        warnings=warnings,
        curves=[_over_steps(curve) for curve in document.curve if curve.points],
        pictures=[_picture(folder, picture, changed) for picture in document.pictures],
        trainings=[training for training in trainings if training.metrics or training.probes],
        manifest=manifest,
    )


def _over_steps(curve: CurveRecord) -> SweepRecord:
    points = [SweepPoint(at=float(point.step), values=point.values) for point in curve.points]
    return SweepRecord(what="step", run=curve.run, points=points)


def _document(folder: Path) -> EvaluationRecord:
    path = folder / RESULT
    if not os.path.lexists(path):
        raise ConfigError(
            f"{folder}: need an evaluation, found no {RESULT}; run `controlset evaluate` (again, "
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
    return as_record(document, EvaluationRecord, where=str(path), advice=_AGAIN)


def _changed(folder: Path, files: Mapping[str, str]) -> frozenset[str]:
    """Files of an evaluation that are not as it left them."""
    changed = set()
    for name, expected in files.items():
        path = _there(folder, name)
        if path is None or file_digest(path) != expected:
            changed.add(name)
    return frozenset(changed)


def _picture(folder: Path, record: PictureRecord, changed: frozenset[str]) -> PictureView:
    def inside(name: str | None) -> Path | None:
        return None if name in changed else _there(folder, name)

    def samples(row: str) -> list[Sample]:
        return [
            Sample(
                run=sample.run,
                picture=inside(sample.picture),
                found=inside(sample.found),
                score=sample.score,
            )
            for sample in record.rows.get(row, ())
        ]

    return PictureView(
        key=record.key,
        text=record.text or "",
        why=record.why,
        number=record.number,
        real=inside(record.real),
        wanted=inside(record.wanted),
        models=samples("model"),
        floors=samples("floor"),
    )


def _there(folder: Path, name: str | None) -> Path | None:
    """A file of the evaluation; nothing else gets into a page that is passed on."""
    if name is None or "\0" in name:
        return None
    path = folder / name
    # Resolved: a link may lead out of the folder as well as a name with `..`.
    inside = path.resolve().is_relative_to(folder.resolve())
    return path if inside and path.is_file() else None


def _training(
    evaluation: Path, run: RunRecord, sizes: Sequence[tuple[int, int]], warnings: list[str]
) -> Training:
    """What a run's folder still says; what is damaged there is added to the warnings."""
    folder = evaluation.resolve() / run.path  # relative, so that both can be moved together
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
    # The names have leading zeros, so that their order is that of the steps.
    chosen = np.unique(np.linspace(0, len(files) - 1, min(_STRIPS, len(files))).round())
    strips = []
    for file in (files[number] for number in chosen.astype(int)):
        strip = read_rgb(file)
        if strip is None:
            continue  # the others still show how it went
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
