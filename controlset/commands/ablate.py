"""`controlset ablate`."""

import functools
from collections.abc import Sequence
from pathlib import Path

from controlnet.ablations.config import AblationConfig
from controlset import refusals
from controlset.commands import leaving_at_once
from controlset.parse import Command
from schemas.errors import ConfigError
from schemas.printable import say

COMMAND = Command(
    name="ablate",
    kind=AblationConfig,
    description="The paper's ablations on the nano base in one table: zero convolutions, "
    "Gaussian ones, ControlNet-lite, no prompt dropout, the base fine-tuned without a lock. "
    "Run it again to go on where it stopped.",
    example="--data shapes-set --output ablation",
)


def run(arguments: Sequence[str]) -> int:
    """Make the paper's ablation table on the nano base."""
    config = COMMAND.parse(arguments)
    refusals.need_dataset(config.data, config.condition)
    with leaving_at_once("ablate"):
        from annotators.runtime import Runtime
        from controlnet.ablations.table import ablate
        from controlnet.nano import base_folder
        from controlnet.trainer.index import scan
        from controlset.judge import pixel_judge
    # Before any training: rows to judge by are there, and maps that can be compared.
    scan(config.data, split="validation", condition=config.condition, wants_latents=False)
    judge = pixel_judge(config.data, config.condition, Runtime())
    if judge is None:
        raise ConfigError(
            f"--condition: need maps that are compared pixel by pixel, got {config.condition}; "
            "take canny"
        )
    tell = functools.partial(say, error=True)

    stopped_by = ablate(config, *judge, base=str(base_folder()), tell=tell)
    if isinstance(stopped_by, int):  # a signal's number
        tell("stopped by a signal; the same command goes on")
        return 128 + stopped_by
    folder = Path(config.output)
    say(*(folder / "ablation.md").read_text(encoding="utf-8").splitlines())
    tell(f"look: {folder}/ablation.png {folder}/ablation.json")
    return 0
