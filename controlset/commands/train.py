"""`controlset train`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from controlnet import nano
from controlnet.trainer.config import TrainConfig, nano_recipe
from controlset import refusals
from controlset.commands import leaving_at_once
from controlset.parse import Command
from schemas.printable import say, say_json

COMMAND = Command(
    name="train",
    kind=TrainConfig,
    description="Train a ControlNet on the shards of a data set. The base stays locked; a "
    "copy of its first half learns to obey the condition. Probes of validation rows say "
    "when it does. Ctrl-C saves; --resume goes on exactly there.",
    example="--data canny-set --condition canny --base nano --output run",
    has_file=True,
)


def run(arguments: Sequence[str]) -> int:
    """Train a ControlNet, or print what would be trained."""
    with leaving_at_once("train"):
        config = _config(arguments)
        from controlnet.trainer.inputs import check_inputs, need_output

        need_output(config)
        refusals.check_train(config)
        if config.dry_run:
            say_json({**dataclasses.asdict(config), "found": check_inputs(config)})
            return 0
        from controlset.judge import train
    outcome = train(config)
    say(*_told(config, outcome))
    # As a shell says it of a process that a signal ended: what starts again knows that it may.
    return 0 if outcome.stopped_by is None else 128 + outcome.stopped_by


def _config(arguments: Sequence[str]) -> TrainConfig:
    config = COMMAND.parse(arguments)
    # Parsed again: what is typed or stands in the file wins over the recipe.
    return COMMAND.parse(arguments, **_recipe()) if config.base == nano.NAME else config


def _recipe() -> dict[str, Any]:
    """What the recipe for the bundled base changes."""
    recipe = nano_recipe(data="", condition="", output="-")  # what these are is not looked at
    return {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(TrainConfig)
        if field.default is not dataclasses.MISSING and getattr(recipe, field.name) != field.default
    }


def _told(config: TrainConfig, outcome: Any) -> list[str]:
    """What came out, and what to do next."""
    lines = [
        f"{outcome.step} steps in {outcome.seconds / 60:.1f} min "
        f"({outcome.samples_per_s:.3g} samples/s): {config.output}/controlnet"
    ]
    if outcome.adherence is not None and outcome.bounds is not None:
        floor, ceiling = outcome.bounds.floor, outcome.bounds.ceiling
        by = outcome.snap
        snap = "has not snapped in yet" if by is None else f"snapped in by step {by}"
        lines.append(
            f"adherence {outcome.adherence:.2f} (floor {floor:.2f}, ceiling {ceiling:.2f}); "
            f"control {snap}"
        )
    if config.probe_every:
        lines.append(f"look: {config.output}/curves.png {config.output}/strips.png")
    if outcome.stopped_by is not None:
        lines.append("stopped by a signal; go on with the same command and --resume")
    return lines
