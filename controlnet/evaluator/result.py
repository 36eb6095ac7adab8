"""What came out, as JSON has it: rows with intervals, comparisons, sweeps, pictures to look at."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from controlnet.evaluator.config import EvaluateConfig
from controlnet.evaluator.document import chosen_places, measure_records
from controlnet.evaluator.examples import Row, Rows
from controlnet.evaluator.judge import Eye
from controlnet.evaluator.metrics.base import Measure
from controlnet.evaluator.protocol import plain
from controlnet.evaluator.runs import Cell, RunPlace
from controlnet.evaluator.samples import Gallery
from controlnet.evaluator.score_table import Scored, difference
from schemas.dataset import open_dataset
from schemas.file_names import file_name
from schemas.plain_files import file_digest
from schemas.writing import replacing, writing

PICTURES = "pictures"
_ORDER = ("ceiling", "model", "shuffled", "floor")
_COMPARED = {"adherence", "text"}
_FEW = 30


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Everything that a result is made of."""

    config: EvaluateConfig
    folder: Path
    places: Sequence[RunPlace]
    cells: Sequence[Cell]
    rows: Rows
    measures: Sequence[Measure]
    scored: dict[tuple[str, str], Scored]  # (row, cell)
    eye: Eye
    condition: str
    same_judge: bool
    gallery_of: Callable[[str], Gallery]  # of a cell
    said: Sequence[str]  # of the runs and their bases
    foreign: int  # pictures that were there, but something else

    @property
    def own(self) -> list[Cell]:
        """Each run with the evaluation's own setting."""
        return [cell for cell in self.cells if cell.swept is None and cell.step is None]


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
    runs = {cell.name for cell in findings.own}
    ranked = sorted(findings.scored.items(), key=lambda item: _ORDER.index(item[0][0]))
    records = []
    for (row, cell), scored in ranked:
        if row in {"model", "shuffled"} and cell not in runs:
            continue  # of a sweep or a saved step
        run = cell if row in {"model", "shuffled"} else None
        values = plain(scored.estimates(findings.measures))
        records.append({"row": row, "run": run, "cell": cell, "values": values})
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
    for cell in findings.cells:
        if cell.swept is not None:
            what, at = cell.swept
            values = plain(findings.scored["model", cell.name].estimates(findings.measures))
            sweeps.setdefault((what, cell.run.name), []).append({"at": at, "values": values})
    return [
        {"what": what, "run": run, "points": sorted(points, key=lambda one: one["at"])}
        for (what, run), points in sweeps.items()
    ]


def _curves(findings: Findings) -> list[dict[str, Any]]:
    curves: dict[str, list[dict[str, Any]]] = {}
    for cell in findings.cells:
        if cell.step is not None:
            values = plain(findings.scored["model", cell.name].estimates(findings.measures))
            curves.setdefault(cell.run.name, []).append({"step": cell.step, "values": values})
    return [{"run": run, "points": points} for run, points in curves.items()]


def _pictures(findings: Findings) -> list[dict[str, Any]]:
    """Records of the pictures that are shown; what is not on disk yet is written."""
    headline, first = findings.measures[0], findings.scored["model", findings.own[0].name]
    by_key = {row.key: row for row in findings.rows.rows}
    records = []
    for place, why in chosen_places(first, headline).items():
        row, number = by_key[first.keys[place]], first.numbers[place]
        own = [
            _shown(findings, findings.scored["model", cell.name], row, number, cell.name)
            for cell in findings.own
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
    findings: Findings, scored: Scored, row: Row, number: int, run: str | None
) -> dict[str, Any]:
    """One sample with what the judge sees in it."""
    gallery = findings.gallery_of(scored.cell)
    place = list(zip(scored.keys, scored.numbers, strict=True)).index((row.key, number))
    headline = findings.measures[0]
    score = headline.of_one(scored.counts[headline.name][place])
    (seen,) = findings.eye.look([gallery.read(row.key, number)], [row.key])
    found = None
    if seen is not None:
        name = f"{row.key}-{number}-{findings.condition}"
        found = _written(findings, scored.cell, name, _eight_bits(seen.pixels))
    return {
        "run": run,
        "picture": _relative(findings, gallery.path(row.key, number)),
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


def headline_of(rows: Iterable[dict[str, Any]], row: str, measure: str) -> dict[str, Any] | None:
    """The first value of a kind of row, e.g. the model's F1."""
    return next((one["values"].get(measure) for one in rows if one["row"] == row), None)
