"""What came out of an evaluation: its document, the pictures that are shown, every score."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from controlnet.evaluator.config import EvaluateConfig
from controlnet.evaluator.examples import JudgedRow, JudgedRows
from controlnet.evaluator.judge import JudgeAnnotator
from controlnet.evaluator.metrics.base import (
    NO_ROOM,
    Estimate,
    Measure,
    Scored,
    difference,
    estimate_way,
    has_room,
)
from controlnet.evaluator.models import RunPlace, Setting, told_by
from controlnet.evaluator.records import (
    JUDGE,
    RESULT,
    ComparisonRecord,
    CurvePoint,
    CurveRecord,
    EvaluationRecord,
    MeasureRecord,
    NumberRecord,
    Numbers,
    ObedienceRecord,
    PictureRecord,
    RowRecord,
    RunRecord,
    SampleRecord,
    SweepPoint,
    SweepRecord,
)
from controlnet.evaluator.samples import SampleFolder
from controlnet.trainer.checkpoint import published
from controlnet.trainer.run_folder import SUMMARY_NAME, read_record
from schemas.dataset import open_dataset
from schemas.documents import with_digest
from schemas.errors import ConfigError
from schemas.files import file_digest, file_name, replacing, write_json, writing

PICTURES, SCORES = "pictures", "scores.parquet"
TRUTH = "the drawn truth"
_ORDER = (JUDGE, "ceiling", "model", "shuffled", "floor")
_COMPARED = {"adherence", "text"}
_FEW = 30
_FIRST, _EACH = 12, 4  # pictures that are shown: by key; best, median and worst


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Everything that a result is made of."""

    config: EvaluateConfig
    folder: Path
    places: Sequence[RunPlace]
    settings: Sequence[Setting]
    floors: Mapping[str, str]  # run -> cell of its base's floor
    rows: JudgedRows
    measures: Sequence[Measure]
    scored: dict[tuple[str, str], Scored]  # (row, setting)
    annotator: JudgeAnnotator
    condition: str
    same_judge: bool
    samples_of: Callable[[str], SampleFolder]  # of a setting
    said: Sequence[str]  # of the runs and their bases
    foreign: int  # pictures that were there, but something else

    @property
    def own(self) -> list[Setting]:
        """Each run with the evaluation's own setting."""
        return [
            setting for setting in self.settings if setting.swept is None and setting.step is None
        ]

    def numbers(self, row: str, setting: str) -> Numbers:
        """Of every measure that this row has with a setting."""
        return plain(self.scored[row, setting].estimates(self.measures))


def result_of(findings: Findings, **others: Any) -> EvaluationRecord:
    """The document: what comes from scores and rows, and the `others` fields as they are given."""
    rows = _rows(findings)
    document = EvaluationRecord(
        data=_data(findings),
        measures=[
            msgspec.convert(measure, MeasureRecord, from_attributes=True)
            for measure in findings.measures
        ],
        rows=rows,
        obedience=[
            obedience_of(
                findings.scored, findings.measures[0], run.name, floor=findings.floors[run.name]
            )
            for run in findings.own
        ],
        comparisons=_comparisons(findings),
        sweeps=_sweeps(findings),
        curve=_curves(findings),
        pictures=_pictures(findings),
        warnings=[*_warnings(findings), *not_measured(rows, findings.measures)],
        **others,
    )
    return dataclasses.replace(document, files=_files_of(findings.folder, document))


def record_of_run(place: RunPlace, base: str, folder: Path) -> RunRecord:
    """What the document says of a run.

    Args:
        place: of the run.
        base: that it is judged on.
        folder: of the evaluation.
    """
    summary = read_record(place.path / SUMMARY_NAME) if place.is_run else {}
    return RunRecord(
        name=place.name,
        path=os.path.relpath(place.path.resolve(), folder.resolve()),
        step=summary.get("step"),
        base=published(base),
        condition=told_by(place, "condition"),
        zero_terminal_snr=told_by(place, "zero_terminal_snr") == "true",
        snap=summary.get("snap"),
    )


def not_measured(rows: Sequence[RowRecord], measures: Sequence[Measure]) -> list[str]:
    """Why a number is null in a row that has the measure."""
    labels = {measure.name: measure.label for measure in measures}
    return [
        f"{labels[name]} of {' '.join(filter(None, [row.row, row.run]))} was not measured: "
        "none of its pictures has that number"
        for row in rows
        for name, value in row.values.items()
        if value is None
    ]


def _files_of(folder: Path, document: EvaluationRecord) -> dict[str, str]:
    """Path -> sha256 of every file that a document names, so that a later change is seen."""
    names: set[str | None] = {SCORES}
    for shown in document.pictures:
        samples = [sample for row in shown.rows.values() for sample in row]
        names |= {shown.real, shown.wanted}
        names |= {name for sample in samples for name in (sample.picture, sample.found)}
    return {name: file_digest(folder / name) for name in sorted(filter(None, names))}


def _warnings(findings: Findings) -> list[str]:
    """What a reader should know before believing the numbers."""
    warnings = [*findings.said]
    if findings.same_judge:
        warnings.append(
            "the judge is the annotator that drew the data set's maps, so a model may have learnt "
            "its quirks; --judge takes another"
        )
    if len(findings.rows) < _FEW:
        warnings.append(f"{len(findings.rows)} rows are few: look at the intervals")
    if findings.rows.null_maps:
        warnings.append(
            f"{findings.rows.null_maps} of {findings.rows.found} rows have no {findings.condition} "
            "and are left out"
        )
    if findings.foreign:
        warnings.append(
            f"{findings.foreign} pictures in the folder were not those that had been sampled for "
            "their rows; these were sampled again"
        )
    if findings.config.split == "train":
        warnings.append("these rows were trained on; another split says more")
    return warnings


def _data(findings: Findings) -> dict[str, Any]:
    path, folder = str(findings.config.data), findings.folder
    if "://" not in path:  # as seen from the evaluation's folder, which is passed on
        path = os.path.relpath(Path(path).resolve(), folder.resolve())
    manifest = open_dataset(findings.config.data).manifest
    rows = manifest.rows_of_splits
    return {
        "path": path,
        "split": findings.config.split,
        "rows": findings.rows.found,
        "used": len(findings.rows),
        "null_maps": findings.rows.null_maps,
        "train_rows": rows.get("train", 0),
        "rejected_images": manifest.rejected_images,
        "reasons": manifest.reasons,
        "conditions": sorted(manifest.annotators),
    }


def _rows(findings: Findings) -> list[RowRecord]:
    """The four rows; those of a network once for each run."""
    runs = {setting.name for setting in findings.own}
    # Stable: inside of a row the runs stay as they were given, the first one first.
    ranked = sorted(findings.scored, key=lambda place: _ORDER.index(place[0]))
    records = []
    for row, setting in ranked:
        is_of_run = row in {"model", "shuffled"}
        if is_of_run and setting not in runs:
            continue  # of a sweep or a saved step
        run, values = setting if is_of_run else None, findings.numbers(row, setting)
        records.append(RowRecord(row=row, run=run, cell=setting, values=values))
    return records


def obedience_of(
    scored: Mapping[tuple[str, str], Scored], headline: Measure, run: str, *, floor: str
) -> ObedienceRecord:
    """How far a run gets on the way from its floor, and from another map, to its ceiling.

    Args:
        scored: (row, cell) -> scores; of `shuffled` there may be none.
        headline: what is measured by.
        run: its name.
        floor: cell of its base's floor.
    """
    cells = {"ceiling": ceiling_of(floor), "model": run, "shuffled": run, "floor": floor}
    there = {row: scored.get((row, cell)) for row, cell in cells.items()}
    rows = {row: found for row, found in there.items() if found is not None}
    at = {
        row: headline.aggregate(np.concatenate(found.groups(headline.name)))
        for row, found in rows.items()
    }

    def way(low: str) -> NumberRecord | None:
        if low not in rows or not has_room(at[low], at["ceiling"], headline):
            return None
        found = estimate_way(rows[low], rows["model"], rows["ceiling"], headline)
        return _plain("obedience", found)

    obedience, why = way("floor"), None
    if obedience is None:
        why = (
            f"no room: {headline.label} {at['ceiling']:.3f} of the real pictures is not better "
            f"than {at['floor']:.3f} without control by {NO_ROOM * 100:g} % of its range"
        )
        if math.isnan(at["ceiling"] + at["floor"] + at["model"]):
            why = f"not computed: a row has no {headline.label}"
    return ObedienceRecord(
        run=run,
        measure=headline.name,
        floor=floor,
        obedience=obedience,
        specificity=way("shuffled"),
        why=why,
    )


def ceiling_of(floor: str) -> str:
    """Cell of the ceiling on the same base: `ceiling-2` of `floor-2`."""
    return floor.replace("floor", "ceiling", 1)


def _comparisons(findings: Findings) -> list[ComparisonRecord]:
    """Every other run minus the first, paired by image."""
    first, *others = findings.own
    before = findings.scored["model", first.name]
    records = []
    for other in others:
        after = findings.scored["model", other.name]
        for measure in findings.measures:
            if measure.kind in _COMPARED and measure.name in before.counts:
                number = _plain(measure.name, difference(before, after, measure))
                values = {"value": None} if number is None else dataclasses.asdict(number)
                records.append(
                    ComparisonRecord(a=first.name, b=other.name, measure=measure.name, **values)
                )
    return records


def _sweeps(findings: Findings) -> list[SweepRecord]:
    sweeps: dict[tuple[str, str], list[SweepPoint]] = {}
    for setting in findings.settings:
        if setting.swept is not None:
            what, at = setting.swept
            point = SweepPoint(at=at, values=findings.numbers("model", setting.name))
            sweeps.setdefault((what, setting.run.name), []).append(point)
    return [
        SweepRecord(what=what, run=run, points=sorted(points, key=lambda point: point.at))
        for (what, run), points in sweeps.items()
    ]


def _curves(findings: Findings) -> list[CurveRecord]:
    curves: dict[str, list[CurvePoint]] = {}
    for setting in findings.settings:
        if setting.step is not None:
            values = findings.numbers("model", setting.name)
            point = CurvePoint(step=setting.step, values=values)
            curves.setdefault(setting.run.name, []).append(point)
    return [CurveRecord(run=run, points=points) for run, points in curves.items()]


def _pictures(findings: Findings) -> list[PictureRecord]:
    """Records of the pictures that are shown; what is not on disk yet is written."""
    headline, first = findings.measures[0], findings.scored["model", findings.own[0].name]
    by_key = {row.key: row for row in findings.rows.rows}
    records = []
    for place, why in chosen_places(first, headline).items():
        row, number = by_key[first.keys[place]], first.numbers[place]
        own = [
            _shown(findings, findings.scored["model", setting.name], row, number, setting.name)
            for setting in findings.own
        ]
        floors = [
            _shown(findings, scored, row, number, None)
            for (kind, _), scored in findings.scored.items()
            if kind == "floor"
        ]
        records.append(
            PictureRecord(
                key=row.key,
                number=number,
                text=row.text,
                why=why,
                real=_written(findings, "real", row.key, row.image),
                wanted=_written(findings, "wanted", row.key, _eight_bits(row.wanted.pixels)),
                rows={"model": own, "floor": floors},
            )
        )
    return records


def _shown(
    findings: Findings, scored: Scored, row: JudgedRow, number: int, run: str | None
) -> SampleRecord:
    """One sample with what the judge sees in it."""
    folder = findings.samples_of(scored.setting)
    place = list(zip(scored.keys, scored.numbers, strict=True)).index((row.key, number))
    headline = findings.measures[0]
    score = headline.of_one(scored.counts[headline.name][place])
    (seen,) = findings.annotator.annotate([folder.read(row.key, number)], [row.key])
    found = None
    if seen is not None:
        name = f"{row.key}-{number}-{findings.condition}"
        found = _written(findings, scored.setting, name, _eight_bits(seen.pixels))
    return SampleRecord(
        run=run,
        picture=_relative(findings, folder.path(row.key, number)),
        found=found,
        score=None if np.isnan(score) else float(score),
    )


def _written(findings: Findings, folder: str, name: str, pixels: np.ndarray) -> str:
    path = findings.folder / PICTURES / file_name(folder) / f"{file_name(name)}.png"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as temporary:
        Image.fromarray(pixels).save(temporary)
    return _relative(findings, path)


def _relative(findings: Findings, path: Path) -> str:
    return path.relative_to(findings.folder).as_posix()


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def write_document(folder: Path, document: EvaluationRecord) -> dict[str, Any]:
    """Write `evaluation.json`, whole or not at all, with a hash of what it says.

    Returns:
        It as plain JSON, without the hash.
    """
    plain_document = msgspec.to_builtins(document)
    write_json(folder / RESULT, with_digest(plain_document))
    return plain_document


def chosen_places(model: Scored, headline: Measure) -> dict[int, str]:
    """Which pictures are shown, and why: the first by key, the best, the middle and the worst.

    Args:
        model: of the first run.
        headline: what is ranked by.

    Returns:
        Place of a picture among the run's -> why, in the order of the places.
    """
    scores = np.array(model.of_pictures(headline))
    ranked = np.argsort(scores if headline.higher_is_better else -scores, kind="stable")
    ranked = ranked[~np.isnan(scores[ranked])]
    firsts = [place for place, number in enumerate(model.numbers) if number == 0]
    middle = max(0, (len(ranked) - _EACH) // 2)
    # The later reason wins: a best picture among the first ones is called best.
    chosen = {int(place): "first" for place in firsts[:_FIRST]}
    chosen |= {int(place): "median" for place in ranked[middle : middle + _EACH]}
    chosen |= {int(place): "worst" for place in ranked[:_EACH]}
    chosen |= {int(place): "best" for place in ranked[-_EACH:]}
    return dict(sorted(chosen.items()))


def write_scores(path: Path, scored: Sequence[Scored], measures: Sequence[Measure]) -> None:
    """One row a picture: row, cell, key, number and every measure; null where there is none."""
    columns: dict[str, list] = {name: [] for name in ("row", "cell", "key", "number")}
    columns |= {measure.name: [] for measure in measures}
    for each in scored:
        count = len(each.keys)
        columns["row"] += [each.row] * count
        columns["cell"] += [each.setting] * count
        columns["key"] += each.keys
        columns["number"] += each.numbers
        for measure in measures:
            # One picture has no FID of its own: what it contributed are features.
            has = measure.name in each.counts and measure.resampled
            columns[measure.name] += each.of_pictures(measure) if has else [float("nan")] * count
    texts = {name: pa.array(columns[name], pa.string()) for name in ("row", "cell", "key")}
    numbers = {"number": pa.array(columns["number"], pa.int32())}
    values = {
        measure.name: pa.array(columns[measure.name], pa.float64(), from_pandas=True)
        for measure in measures
    }
    with replacing(path) as temporary:
        pq.write_table(pa.table(texts | numbers | values), temporary)


def plain(estimates: Mapping[str, Estimate]) -> Numbers:
    """Estimates as JSON has them: NaN, which JSON lacks, is null.

    Raises:
        ConfigError: a number is infinite.
    """
    return {name: _plain(name, estimate) for name, estimate in estimates.items()}


def _plain(name: str, estimate: Estimate) -> NumberRecord | None:
    value = float(estimate.value)
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise ConfigError(f"{name}: need a finite number, got {value}; look at the pictures")
    low, high = (end if math.isfinite(end) else None for end in (estimate.low, estimate.high))
    return NumberRecord(value=value, low=low, high=high, count=estimate.count)
