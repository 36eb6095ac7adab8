"""Read what an evaluation and the runs that it judged left on disk."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controlnet.trainer.folder import CONFIG_NAME, SUMMARY_NAME
from controlnet.trainer.journal import METRICS, PROBES, SAMPLES, read_lines
from controlnet.trainer.probe import Bounds
from controlset.report.records import (
    Difference,
    Evaluation,
    MeasureView,
    PictureView,
    RowView,
    RunView,
    Sample,
    Series,
    Strip,
    Training,
    Value,
)
from schemas.dataset import filesystem_of, read_manifest
from schemas.errors import ConfigError, Rejected
from schemas.manifest import Manifest
from schemas.pixels import RgbU8, decode_stored_rgb

DOCUMENT, FORMAT, VERSION = "evaluation.json", "controlset-evaluation", 1

_STRIPS, _PICTURES = 7, 8  # probes, and pictures of each, that are shown


def gather(folder: Path) -> Evaluation:
    """Everything that a report shows.

    Args:
        folder: that `controlset evaluate` wrote.

    Raises:
        ConfigError: no evaluation there, or one that this release cannot read.
    """
    document = _document(folder)
    runs = [
        RunView(
            name=str(one["name"]),
            path=str(one["path"]),
            step=one.get("step"),
            base=one.get("base"),
        )
        for one in document.get("runs") or ()
    ]
    sizes = _sizes(document.get("protocol") or {})
    trainings = [_training(run, sizes) for run in runs]
    return Evaluation(
        folder=folder,
        protocol=document.get("protocol") or {},
        data=document.get("data") or {},
        runs=runs,
        measures=[_measure(one) for one in document["measures"]],
        rows=[
            RowView(
                row=one["row"],
                run=one.get("run"),
                cell=one.get("cell"),
                values=_values(one["values"]),
            )
            for one in document.get("rows") or ()
        ],
        missing=[(one["measure"], one["why"]) for one in document.get("missing") or ()],
        warnings=document.get("warnings") or (),
        comparisons=[_difference(one) for one in document.get("comparisons") or ()],
        sweeps=[
            _series(one, one["what"], "at")
            for one in document.get("sweeps") or ()
            if one.get("points")
        ],
        curves=[
            _series(one, "step", "step") for one in document.get("curve") or () if one.get("points")
        ],
        pictures=[_picture(folder, one) for one in document.get("pictures") or ()],
        software=document.get("software") or {},
        hardware=document.get("hardware"),
        seconds=document.get("seconds") or {},
        trainings=[one for one in trainings if one.metrics or one.probes],
        manifest=_manifest((document.get("data") or {}).get("path")),
    )


def _document(folder: Path) -> dict[str, Any]:
    path = folder / DOCUMENT
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder}: need an evaluation, found no {DOCUMENT}; run `controlset evaluate` (again, "
            "if it was interrupted)"
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"{path}: need JSON, got {error}; run `controlset evaluate` again"
        ) from error
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


def _measure(record: Mapping[str, Any]) -> MeasureView:
    return MeasureView(
        name=record["name"],
        label=record["label"],
        unit=record.get("unit") or "",
        higher_is_better=record.get("higher_is_better", True),
        kind=record.get("kind") or "adherence",
    )


def _values(record: Mapping[str, Any]) -> dict[str, Value | None]:
    return {name: _value(one) for name, one in record.items()}


def _value(record: Mapping[str, Any] | None) -> Value | None:
    value = _number((record or {}).get("value"))
    if record is None or value is None:
        return None
    return Value(
        value=value,
        low=_number(record.get("low")),
        high=_number(record.get("high")),
        count=record.get("count"),
    )


def _number(value: float | None) -> float | None:
    """Nothing where there is nothing to plot: null, or the NaN that Python's JSON writes."""
    return None if value is None or not math.isfinite(value) else float(value)


def _difference(record: Mapping[str, Any]) -> Difference:
    return Difference(a=record["a"], b=record["b"], measure=record["measure"], value=_value(record))


def _series(record: Mapping[str, Any], what: str, axis: str) -> Series:
    points = sorted(((one[axis], _values(one["values"])) for one in record["points"]), key=_place)
    return Series(what=what, run=record["run"], points=points)


def _place(point: tuple[float, Any]) -> float:
    return point[0]


def _picture(folder: Path, record: Mapping[str, Any]) -> PictureView:
    rows = record.get("rows") or {}

    def samples(row: str) -> list[Sample]:
        return [
            Sample(
                run=one.get("run"),
                picture=_inside(folder, one.get("picture")),
                found=_inside(folder, one.get("found")),
                score=_number(one.get("score")),
            )
            for one in rows.get(row) or ()
        ]

    return PictureView(
        key=record["key"],
        text=record.get("text") or "",
        why=record.get("why"),
        number=record.get("number", 0),
        real=_inside(folder, record.get("real")),
        wanted=_inside(folder, record.get("wanted")),
        models=samples("model"),
        floors=samples("floor"),
    )


def _inside(folder: Path, name: str | None) -> Path | None:
    """A file of the evaluation; nothing else gets into a page that is passed on."""
    if name is None or "\0" in name:
        return None
    path = folder / name
    inside = path.resolve().is_relative_to(folder.resolve())
    return path if inside and path.is_file() else None


def _training(run: RunView, sizes: Sequence[tuple[int, int]]) -> Training:
    folder = Path(run.path)
    summary, config = (_record(folder / name) for name in (SUMMARY_NAME, CONFIG_NAME))
    bounds = summary.get("bounds")
    return Training(
        run=run.name,
        metrics=read_lines(folder / METRICS),
        probes=read_lines(folder / PROBES),
        bounds=Bounds(**bounds) if bounds else None,
        snap=summary.get("snap"),
        summary=summary,
        config=config.get("config") or {},
        strips=_strips(folder / SAMPLES, sizes),
    )


def _record(path: Path) -> dict[str, Any]:
    """JSON that a run may lack: one of somebody else has none, one cut short a part of it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


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
    one = protocol.get("size")
    return [(width, height) for width, height in protocol.get("sizes") or ([one] if one else ())]


def read_rgb(path: Path) -> RgbU8 | None:
    """A picture; None where it cannot be read."""
    try:
        return decode_stored_rgb(path.read_bytes())
    except (OSError, Rejected):
        return None


def _manifest(path: str | None) -> Manifest | None:
    """Of a data set in a folder that is still there; remote ones are not asked."""
    if not path or "://" in path or "\0" in path:
        return None
    try:
        files, root = filesystem_of(path)
        return read_manifest(files, root, path)
    except (ConfigError, OSError):
        return None
