"""`controlset evaluate`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from controlnet.evaluator.settings import EvaluateConfig
from controlset import early
from controlset.configuration import as_flags, read_yaml, value_of
from controlset.interrupt import leaving_at_once, load_arrow
from controlset.parse import parse
from schemas.printable import say

COMMAND = "controlset evaluate"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(EvaluateConfig):
    run: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DIR"), tyro.conf.UseAppendAction]
    """Folder of a run, or a ControlNetModel folder. Given again, runs are compared with the
    first."""

    config: str | None = None
    """YAML file of these options; the command line wins."""


def run(arguments: Sequence[str]) -> int:
    """Judge ControlNets; status 1 where `--expect` is not met."""
    with leaving_at_once("evaluate"):
        config = _config(arguments)
        early.need_runs(config.run)
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
    path = value_of("--config", arguments)
    from_file = {} if path is None else read_yaml(path, EvaluateConfig)
    given = [*arguments, *as_flags(from_file, but=arguments, kind=EvaluateConfig)]
    options = parse(
        _Options,
        COMMAND,
        given,
        description="Say with numbers whether a ControlNet obeys: sample the validation rows, look "
        "at the pictures with the annotator, and compare. Four rows, always: ceiling, model, "
        "shuffled condition, floor. Run again, it goes on where it stopped.",
        example=f"{COMMAND} --run run --data canny-set --output evaluation",
    )
    values: dict[str, Any] = {
        field.name: getattr(options, field.name) for field in dataclasses.fields(EvaluateConfig)
    }
    return EvaluateConfig(**values)
