"""`controlset evaluate`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from controlnet.evaluator.config import EvaluateConfig
from controlset import early
from controlset.interrupt import leaving_at_once, load_arrow
from controlset.parse import parse, plain
from schemas.printable import say

COMMAND = "controlset evaluate"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(EvaluateConfig):
    run: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DIR"), tyro.conf.UseAppendAction]
    """Folder of a run, or a ControlNetModel folder. Given again, runs are compared with the
    first."""


def run(arguments: Sequence[str]) -> int:
    """Judge ControlNets; status 1 where `--expect` is not met."""
    with leaving_at_once("evaluate"):
        config = _config(arguments)
        early.need_runs(config.run)
        early.need_models(config)
        early.need_dataset(config.data, config.condition)
        from controlset.evaluation import run_evaluation

        load_arrow()
    document, report = run_evaluation(config)
    if not document:
        return 0  # a helper process of `accelerate launch`
    from controlset.verdict import table, unmet

    say(*table(document), "")
    say(f"look: {report or f'{config.output}/evaluation.json'}")
    problem = unmet(document, config.expect)
    if problem:
        say(problem)
    return 1 if problem else 0


def _config(arguments: Sequence[str]) -> EvaluateConfig:
    options = parse(
        _Options,
        COMMAND,
        arguments,
        description="Say with numbers whether a ControlNet obeys: sample the validation rows, look "
        "at the pictures with the annotator, and compare. Four rows, always: ceiling, model, "
        "shuffled condition, floor. Run again, it goes on where it stopped.",
        example=f"{COMMAND} --run run --data canny-set --output evaluation",
        has_file=True,
    )
    return plain(options, EvaluateConfig)
