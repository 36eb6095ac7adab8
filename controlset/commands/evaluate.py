"""`controlset evaluate`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro

from controlnet.evaluator.config import EvaluateConfig
from controlset import refusals
from controlset.commands import leaving_at_once, load_arrow
from controlset.parse import Command, plain
from schemas.files import machine_limits
from schemas.printable import say

_COLUMNS = 5  # measures that fit a terminal; evaluation.json has all


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(EvaluateConfig):
    run: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DIR"), tyro.conf.UseAppendAction]
    """Folder of a run, or a ControlNetModel folder. Given again, runs are compared with the
    first."""

    all: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DIR [DIR ...]")] = ()
    """Judge nothing: put finished evaluations, one a condition, into one table with one figure.
    Their folders, or folders that hold them. Goes with --output alone."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _All:
    all: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DIR [DIR ...]")]
    """Folders of evaluations, or folders that hold some."""

    output: str
    """Folder that the table (conditions.md, .json, .html) and its figure are written to."""


COMMAND = Command(
    name="evaluate",
    kind=_Options,
    description="Say with numbers whether a ControlNet obeys: sample the validation rows, look "
    "at the pictures with the annotator, and compare. Four rows, always: ceiling, model, "
    "shuffled condition, floor. Run again, it goes on where it stopped.",
    example="--run run --data canny-set --output evaluation",
    has_file=True,
)
_TABLE = Command(
    name="evaluate",
    kind=_All,
    description="Put finished evaluations into one table over conditions, with a picture of each.",
    example="--all evaluations --output table",
)


def run(arguments: Sequence[str]) -> int:
    """Judge ControlNets; status 1 where `--expect` is not met."""
    if any(word.split("=")[0] == "--all" for word in arguments):
        return _tabled(_TABLE.parse(arguments))
    options = COMMAND.parse(arguments)
    if options.all:  # said by a file of options
        return _tabled(_All(all=options.all, output=options.output))
    with leaving_at_once("evaluate"):
        config = plain(options, EvaluateConfig)
        refusals.check_evaluate(config)
        from controlset.judge import run_evaluation

        load_arrow()
    document, report = run_evaluation(config)
    if not document:
        return 0  # a helper process of `accelerate launch`
    say(*table(document), "")
    say(f"look: {report or f'{config.output}/evaluation.json'}")
    problem = unmet(document, config.expect)  # after the table: a script's log has both
    if problem:
        say(problem)
    return 1 if problem else 0


def _tabled(options: _All) -> int:
    """One table of several evaluations."""
    with leaving_at_once("evaluate"):
        refusals.need_paths("--all", options.all, "the folder of an evaluation")
        from controlset.report.conditions import write_conditions

        load_arrow()
    with machine_limits(options.output):
        written = write_conditions(options.all, options.output)
    say(*_aligned(written.cells), "", *written.notes)
    say(f"look: {written.page}; conditions.md and conditions.json beside it")
    return 0


def table(document: Mapping[str, Any]) -> list[str]:
    """Lines: rows and measures, 95 % intervals of the headline; then differences between runs."""
    measures = document["measures"][:_COLUMNS]
    headline = measures[0]
    # The first measure is the one that runs are judged by; the others have no room for intervals.
    names = [_name(row) for row in document["rows"]]
    values = [
        [_value(row["values"].get(measure["name"]), measure is headline) for measure in measures]
        for row in document["rows"]
    ]
    grid = [["", *(measure["label"] for measure in measures)]]
    grid += [[name, *row] for name, row in zip(names, values, strict=True)]
    lines = _aligned(grid)
    lines += [
        f"normalised obedience of {share['run']}: {_way(share)}" for share in document["obedience"]
    ]
    lines += [
        f"{compared['b']} minus {compared['a']}: {compared['value']:+.3f} "
        f"({compared['low']:+.3f} to {compared['high']:+.3f})"
        for compared in document["comparisons"]
        if compared["measure"] == headline["name"] and compared.get("value") is not None
    ]
    lines += [f"warning: {text}" for text in document["warnings"]]
    lines += [
        f"not measured: {missing['measure']}: {missing['why']}" for missing in document["missing"]
    ]
    return lines


def unmet(document: Mapping[str, Any], expected: float | None) -> str | None:
    """What `--expect` finds wrong, if anything."""
    if expected is None:
        return None
    headline = document["measures"][0]
    # Of the first run, which the others are compared with.
    row = next(row for row in document["rows"] if row["row"] == "model")
    value = row["values"][headline["name"]]
    if value is None:
        return f"--expect {expected:g}: {headline['label']} could not be computed"
    good = (
        value["value"] >= expected if headline["higher_is_better"] else value["value"] <= expected
    )
    word = "at least" if headline["higher_is_better"] else "at most"
    got = f"got {value['value']:.3f}"
    return None if good else f"--expect: need {headline['label']} {word} {expected:g}, {got}"


def _aligned(grid: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    first, *others = (max(map(len, column)) for column in zip(*grid, strict=True))
    return ["  ".join([f"{name:<{first}}", *map(str.rjust, row, others)]) for name, *row in grid]


def _way(one: Mapping[str, Any]) -> str:
    obedience = one["why"] or _value(one["obedience"], True)
    return f"{obedience}; specificity {_value(one['specificity'], True)}"


def _name(row: Mapping[str, Any]) -> str:
    return row["row"] if row["run"] is None else f"{row['row']} {row['run']}"


def _value(value: Mapping[str, Any] | None, whole: bool) -> str:
    if value is None:
        return "-"
    number = f"{value['value']:.3f}"
    if not whole or value["low"] is None:
        return number
    return f"{number} ({value['low']:.2f}-{value['high']:.2f})"
