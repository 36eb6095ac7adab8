"""What came out, as JSON has it: rows with intervals, comparisons, sweeps, pictures to look at."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from controlnet.evaluator.config import EvaluateConfig
from controlnet.evaluator.examples import JudgedRow, JudgedRows
from controlnet.evaluator.judge import JudgeAnnotator
from controlnet.evaluator.metrics.base import Estimate, Measure, Scored, difference
from controlnet.evaluator.models import RunPlace, Setting
from controlnet.evaluator.samples import SampleFolder
from schemas.dataset import open_dataset
from schemas.documents import with_digest
from schemas.errors import ConfigError
from schemas.files import file_digest, file_name, replacing, write_json, writing

RESULT, VERSION = "evaluation.json", 1
PICTURES = "pictures"
_ORDER = ("ceiling", "model", "shuffled", "floor")
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


def result_of(findings: Findings) -> dict[str, Any]:
    """The parts of the document that come from scores and rows."""
    rows = _rows(findings)
    return {
        "data": _data(findings),
        "measures": measure_records(findings.measures),
        "rows": rows,
        "comparisons": _comparisons(findings),
        "sweeps": _sweeps(findings),
        "curve": _curves(findings),
        "pictures": _pictures(findings),
        "warnings": [*_warnings(findings), *not_measured(rows, findings.measures)],
    }


def not_measured(rows: Sequence[dict[str, Any]], measures: Sequence[Measure]) -> list[str]:
    """Why a number is null in a row that has the measure."""
    labels = {one.name: one.label for one in measures}
    return [
        f"{labels[name]} of {' '.join(filter(None, [row['row'], row['run']]))} was not measured: "
        "none of its pictures has that number"
        for row in rows
        for name, value in row["values"].items()
        if value is None
    ]


def files_of(folder: Path, document: Mapping[str, Any], others: Sequence[str]) -> dict[str, str]:
    """Path -> sha256 of every file that a document names, so that a later change is seen."""
    names = set(others)
    for one in document["pictures"]:
        samples = [each for row in one["rows"].values() for each in row]
        names |= {one["real"], one["wanted"], *(each["picture"] for each in samples)}
        names |= {each["found"] for each in samples if each["found"]}
    return {name: file_digest(folder / name) for name in sorted(names)}


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
    manifest = open_dataset(findings.config.data).manifest
    rows = {split: sum(s.data.rows for s in shards) for split, shards in manifest.splits.items()}
    return {
        "path": _path_of_data(findings),
        "split": findings.config.split,
        "rows": findings.rows.found,
        "used": len(findings.rows),
        "null_maps": findings.rows.null_maps,
        "train_rows": rows.get("train", 0),
        "rejected_images": manifest.rejected_images,
        "reasons": manifest.reasons,
        "conditions": sorted(manifest.annotators),
    }


def _path_of_data(findings: Findings) -> str:
    """As seen from the evaluation's folder, which is passed on; or its address."""
    path = str(findings.config.data)
    return (
        path if "://" in path else os.path.relpath(Path(path).resolve(), findings.folder.resolve())
    )


def _rows(findings: Findings) -> list[dict[str, Any]]:
    """The four rows; those of a network once for each run."""
    runs = {setting.name for setting in findings.own}
    ranked = sorted(findings.scored.items(), key=lambda item: _ORDER.index(item[0][0]))
    records = []
    for (row, setting), scored in ranked:
        if row in {"model", "shuffled"} and setting not in runs:
            continue  # of a sweep or a saved step
        run = setting if row in {"model", "shuffled"} else None
        values = plain(scored.estimates(findings.measures))
        records.append({"row": row, "run": run, "cell": setting, "values": values})
    return records


def _comparisons(findings: Findings) -> list[dict[str, Any]]:
    """Every other run minus the first, paired by image."""
    first, *others = findings.own
    before = findings.scored["model", first.name]
    records = []
    for other in others:
        after = findings.scored["model", other.name]
        for measure in findings.measures:
            if measure.kind in _COMPARED and measure.name in before.counts:
                value = plain({"of": difference(before, after, measure)})["of"]
                pair = {"a": first.name, "b": other.name, "measure": measure.name}
                records.append({**pair, **(value or {"value": None})})
    return records


def _sweeps(findings: Findings) -> list[dict[str, Any]]:
    sweeps: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for setting in findings.settings:
        if setting.swept is not None:
            what, at = setting.swept
            values = plain(findings.scored["model", setting.name].estimates(findings.measures))
            sweeps.setdefault((what, setting.run.name), []).append({"at": at, "values": values})
    return [
        {"what": what, "run": run, "points": sorted(points, key=lambda one: one["at"])}
        for (what, run), points in sweeps.items()
    ]


def _curves(findings: Findings) -> list[dict[str, Any]]:
    curves: dict[str, list[dict[str, Any]]] = {}
    for setting in findings.settings:
        if setting.step is not None:
            values = plain(findings.scored["model", setting.name].estimates(findings.measures))
            curves.setdefault(setting.run.name, []).append({"step": setting.step, "values": values})
    return [{"run": run, "points": points} for run, points in curves.items()]


def _pictures(findings: Findings) -> list[dict[str, Any]]:
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
            {
                "key": row.key,
                "number": number,
                "text": row.text,
                "why": why,
                "real": _written(findings, "real", row.key, row.image),
                "wanted": _written(findings, "wanted", row.key, _eight_bits(row.wanted.pixels)),
                "rows": {"model": own, "floor": floors},
            }
        )
    return records


def _shown(
    findings: Findings, scored: Scored, row: JudgedRow, number: int, run: str | None
) -> dict[str, Any]:
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
    return {
        "run": run,
        "picture": _relative(findings, folder.path(row.key, number)),
        "found": found,
        "score": None if np.isnan(score) else score,
    }


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


def write_document(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write `evaluation.json`, whole or not at all, with a hash of what it says."""
    stamped = {"format": "controlset-evaluation", "version": VERSION, **document}
    write_json(folder / RESULT, with_digest(stamped))
    return folder / RESULT


def measure_records(measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """What the document says about measures; the headline first."""
    names = ("name", "label", "unit", "higher_is_better", "kind")
    return [{name: getattr(one, name) for name in names} for one in measures]


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
    chosen = {int(place): "first" for place in firsts[:_FIRST]}
    chosen |= {int(place): "median" for place in ranked[middle : middle + _EACH]}
    chosen |= {int(place): "worst" for place in ranked[:_EACH]}
    chosen |= {int(place): "best" for place in ranked[-_EACH:]}
    return dict(sorted(chosen.items()))


def write_scores(path: Path, scored: Sequence[Scored], measures: Sequence[Measure]) -> None:
    """One row a picture: row, cell, key, number and every measure; null where there is none."""
    columns: dict[str, list] = {name: [] for name in ("row", "cell", "key", "number")}
    columns |= {one.name: [] for one in measures}
    for each in scored:
        count = len(each.keys)
        columns["row"] += [each.row] * count
        columns["cell"] += [each.setting] * count
        columns["key"] += each.keys
        columns["number"] += each.numbers
        for one in measures:
            has = one.name in each.counts and one.resampled
            columns[one.name] += each.of_pictures(one) if has else [float("nan")] * count
    texts = {name: pa.array(columns[name], pa.string()) for name in ("row", "cell", "key")}
    numbers = {"number": pa.array(columns["number"], pa.int32())}
    values = {
        one.name: pa.array(columns[one.name], pa.float64(), from_pandas=True) for one in measures
    }
    with replacing(path) as temporary:
        pq.write_table(pa.table(texts | numbers | values), temporary)


def plain(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """Estimates as JSON has them: NaN, which JSON lacks, is null.

    Raises:
        ConfigError: a number is infinite.
    """
    return {name: _plain(name, one) for name, one in estimates.items()}


def _plain(name: str, one: Estimate) -> dict[str, Any] | None:
    if math.isnan(one.value):
        return None
    if math.isinf(one.value):
        raise ConfigError(f"{name}: need a finite number, got {one.value}; look at the pictures")
    low, high = (None if not math.isfinite(end) else end for end in (one.low, one.high))
    return {"value": one.value, "low": low, "high": high, "count": one.count}
