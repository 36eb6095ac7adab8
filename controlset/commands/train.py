"""`controlset train`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from controlnet import nano
from controlnet.trainer.config import TrainConfig
from controlset import early
from controlset.configuration import as_flags, read_yaml, value_of
from controlset.interrupt import leaving_at_once
from controlset.parse import parse
from schemas.printable import say, say_json

COMMAND = "controlset train"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(TrainConfig):
    config: str | None = None
    """YAML file of these options, or the config.json of a run; the command line wins."""


def run(arguments: Sequence[str]) -> int:
    """Train a ControlNet, or print what would be trained."""
    with leaving_at_once("train"):
        config = _config(arguments)
        if config.dry_run:
            from controlnet.trainer.inputs import check_inputs

            say_json({**dataclasses.asdict(config), "found": check_inputs(config)})
            return 0
        early.need_run_output(config.output, resume=config.resume)
        early.need_dataset(config.data, config.condition)
        if config.base != nano.NAME:
            early.need_paths("--base", [config.base], "a base in diffusers' format")
        from controlset.training import train
    outcome = train(config)
    say(*_told(config, outcome))
    return 0 if outcome.stopped_by is None else 128 + outcome.stopped_by


def _config(arguments: Sequence[str]) -> TrainConfig:
    path = value_of("--config", arguments)
    from_file = {} if path is None else read_yaml(path, TrainConfig)
    given = [*arguments, *as_flags(from_file, but=arguments, kind=TrainConfig)]
    options = parse(
        _Options,
        COMMAND,
        [*given, *_recipe(given)],
        description="Train a ControlNet on the shards of a data set. The base stays locked; a copy "
        "of its first half learns to obey the condition. Probes of validation rows say when it "
        "does. Ctrl-C saves; --resume goes on exactly there.",
        example=f"{COMMAND} --data canny-set --condition canny --base nano --output run",
    )
    values: dict[str, Any] = {
        field.name: getattr(options, field.name) for field in dataclasses.fields(TrainConfig)
    }
    return TrainConfig(**values)


def _recipe(given: Sequence[str]) -> list[str]:
    """Flags of the recipe for the bundled base, without those that were given."""
    if value_of("--base", given) != "nano":
        return []
    from controlnet.trainer import recipes

    recipe = recipes.nano(data="", condition="", output="-")
    changed = {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(TrainConfig)
        if field.default is not dataclasses.MISSING and getattr(recipe, field.name) != field.default
    }
    return as_flags(changed, but=given, kind=TrainConfig)


def _told(config: TrainConfig, outcome: Any) -> list[str]:
    """What came out, and what to do next."""
    lines = [
        f"{outcome.step} steps in {outcome.seconds / 60:.1f} min "
        f"({outcome.samples_per_s:.3g} samples/s): {config.output}/controlnet"
    ]
    if outcome.adherence is not None and outcome.bounds is not None:
        floor, ceiling = outcome.bounds.floor, outcome.bounds.ceiling
        snap = (
            "has not snapped in yet"
            if outcome.snap is None
            else (f"snapped in by step {outcome.snap}")
        )
        lines.append(
            f"adherence {outcome.adherence:.2f} (floor {floor:.2f}, ceiling {ceiling:.2f}); "
            f"control {snap}"
        )
    if config.probe_every:
        lines.append(f"look: {config.output}/curves.png {config.output}/strips.png")
    if outcome.stopped_by is not None:
        lines.append("stopped by a signal; go on with the same command and --resume")
    return lines
