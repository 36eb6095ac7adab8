"""Several evaluations as one table over conditions: Markdown, JSON, a page and a figure."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from controlnet.evaluator.records import JUDGE, RESULT, MeasureRecord, NumberRecord
from controlnet.evaluator.result import ceiling_of
from controlset.report.figures import DrawnFigure, draw_conditions
from controlset.report.numbers import (
    decimals,
    direction,
    interval,
    places_of,
    plain,
)
from controlset.report.page import page_templates
from controlset.report.records import Evaluation, PictureView, gather
from pipeline.output.pages import markdown_cell
from schemas.documents import with_digest
from schemas.errors import ConfigError
from schemas.files import write_json, write_text, writing

NAME, FORMAT, VERSION = "conditions", "controlset-conditions", 1
HEADLINE = "normalised obedience"
HEAD = (
    *("condition", "rows", "measure", "floor", "shuffled", "model", "ceiling"),
    *(HEADLINE, "snap step"),
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ConditionRow:
    """One run of one evaluation."""

    condition: str
    run: str
    evaluation: str  # its folder, as it was given
    protocol: str | None
    measure: MeasureRecord  # the headline
    images: int | None
    floor: NumberRecord | None
    shuffled: NumberRecord | None
    model: NumberRecord | None
    ceiling: NumberRecord | None
    obedience: NumberRecord | None
    specificity: NumberRecord | None
    judge: NumberRecord | None  # the judge itself, where pictures are held to the truth
    why: str | None  # there is no obedience
    snap: int | None  # step at which control snapped in; None: it did not, or nobody knows


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What was written."""

    rows: Sequence[ConditionRow]
    cells: Sequence[Sequence[str]]  # HEAD, then a line of texts for each row
    notes: Sequence[str]  # why there is no obedience
    page: Path


def write_conditions(given: Sequence[str], output: str | Path) -> Conditions:
    """Write `conditions.md`, `.json`, `.html` and `figures/conditions.png`.

    Args:
        given: folders of evaluations, or folders that hold some.
        output: folder; is made.

    Raises:
        ConfigError: no evaluation there, or one without normalised obedience.
    """
    folder = Path(output)
    found = [gather(place) for path in given for place in _evaluations(Path(path))]
    of_each = [(evaluation, row) for evaluation in found for row in _rows_of(evaluation)]
    rows = [row for _, row in of_each]
    kinds = Counter(map(_kind, rows))
    cells = [_cells(evaluation, row, kinds) for evaluation, row in of_each]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    named = [(name, *shown) for (name, *_), shown in zip(cells, _shown(found), strict=True)]
    figure = draw_conditions(folder, named)
    notes = [f"{row.condition}, {row.run}: {row.why}" for row in rows if row.why]
    document = {"format": FORMAT, "version": VERSION, "rows": msgspec.to_builtins(rows)}
    write_json(folder / f"{NAME}.json", with_digest(document))
    write_text(folder / f"{NAME}.md", _markdown(cells, notes, figure))
    template = page_templates().get_template("conditions.html.j2")
    html = template.render(
        head=HEAD, headline=HEAD.index(HEADLINE), rows=rows, cells=cells, notes=notes, figure=figure
    )
    write_text(folder / f"{NAME}.html", html)
    page = folder / f"{NAME}.html"
    return Conditions(rows=rows, cells=[HEAD, *cells], notes=notes, page=page)


def _evaluations(folder: Path) -> list[Path]:
    """The folder, or those in it."""
    places = [folder] if (folder / RESULT).is_file() else []
    places = places or sorted(path.parent for path in folder.glob(f"*/{RESULT}"))
    if not places:
        raise ConfigError(
            f"--all {folder}: need the folder of an evaluation, or one that holds some, found no "
            f"{RESULT}; run `controlset evaluate --run … --output {folder}` before"
        )
    return places


def _rows_of(found: Evaluation) -> list[ConditionRow]:
    document = found.document
    if not document.obedience:
        raise ConfigError(
            f"{found.folder / RESULT}: need normalised obedience, got an evaluation of an older "
            "release; run the same `controlset evaluate` again, its pictures are kept"
        )
    by_cell = {(row.row, row.run or row.cell or row.row): row.values for row in document.rows}
    snaps = {run.name: run.snap for run in document.runs}
    rows = []
    for share in document.obedience:
        cells = {"floor": share.floor, "ceiling": ceiling_of(share.floor)}
        four = {
            row: by_cell.get((row, cells.get(row, share.run)), {}).get(share.measure)
            for row in ("floor", "shuffled", "model", "ceiling")
        }
        rows.append(
            ConditionRow(
                condition=str(document.protocol.get("condition") or "unknown"),
                run=share.run,
                evaluation=str(found.folder),
                protocol=document.protocol.get("id"),
                measure=found.headline,
                images=document.data.get("used"),
                obedience=share.obedience,
                specificity=share.specificity,
                judge=by_cell.get((JUDGE, JUDGE), {}).get(share.measure),
                why=share.why,
                snap=snaps.get(share.run),
                **four,
            )
        )
    return rows


def _kind(row: ConditionRow) -> tuple[str, bool]:
    """Rows of one kind are told apart by their runs."""
    return row.condition, row.judge is None


def _cells(found: Evaluation, row: ConditionRow, kinds: Counter[tuple[str, bool]]) -> list[str]:
    """Texts of a row, in the order of HEAD."""
    places = places_of(found, row.measure)
    values = (row.floor, row.shuffled, row.model, row.ceiling)
    share = "no number"
    if row.obedience is not None:
        digits = decimals([row.obedience])
        share = f"{plain(row.obedience.value, digits)} ({interval(row.obedience, digits)})"
    elif row.why:
        share = row.why.split(":")[0]  # "no room"; the whole of it stands below
    by_truth = "" if row.judge is None else ", by truth"
    return [
        f"{row.condition}{by_truth}{f', {row.run}' if kinds[_kind(row)] > 1 else ''}",
        "-" if row.images is None else f"{row.images:,}",
        " ".join(filter(None, [row.measure.label, row.measure.unit, direction(row.measure)[0]])),
        *("-" if value is None else plain(value.value, places) for value in values),
        share,
        "-" if row.snap is None else f"{row.snap:,}",
    ]


def _shown(found: Sequence[Evaluation]) -> list[tuple[PictureView | None, int]]:
    """Of each row a picture, and which of its models; the same image for all where they share one.

    The first by key, chosen by nobody.
    """
    by_key = [
        {picture.key: picture for picture in evaluation.pictures if picture.number == 0}
        for evaluation in found
    ]
    firsts = [
        {key for key, picture in keys.items() if picture.why in {"first", None}} for keys in by_key
    ]
    common = min(set.intersection(*firsts), default=None)
    shown: list[tuple[PictureView | None, int]] = []
    for evaluation, keys in zip(found, by_key, strict=True):
        key = common or min(keys, default=None)
        picture = None if key is None else keys[key]
        shown += [(picture, number) for number in range(len(evaluation.document.obedience))]
    return shown


def _markdown(
    cells: Sequence[Sequence[str]], notes: Sequence[str], figure: DrawnFigure | None
) -> str:
    rows = [HEAD, ["---"] * len(HEAD), *(map(markdown_cell, row) for row in cells)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    words = "Normalised obedience: (model - floor) / (ceiling - floor). Brackets: 95 % bootstrap, "
    lines += ["", f"{words}images drawn once for all rows of a draw."]
    lines += [f"\n{markdown_cell(note)}" for note in notes]
    if figure is not None:
        lines += ["", f"![condition, sample, seen in it, original]({figure.file})"]
    return "\n".join(lines) + "\n"
