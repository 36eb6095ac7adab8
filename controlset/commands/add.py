"""`controlset add`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from controlset import refusals
from controlset.commands import leaving_at_once, load_arrow
from controlset.parse import Command
from pipeline.config import AddConfig
from schemas.printable import say


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(AddConfig):
    # Said again for their metavars, which are the command line's; explained in `AddConfig`.
    output: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """Folder of a complete data set."""

    conditions: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()

    import_condition: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=WHERE [...]")] = ()

    latents: Annotated[str | None, tyro.conf.arg(metavar="BASE")] = None


COMMAND = Command(
    name="add",
    kind=_Options,
    description="Add condition maps (drawn, or files of yours), captions where there are "
    "none, or cached latents to a "
    "complete data set; nothing else is made again. Run again, it goes on where it "
    "stopped; until all is there, the data set stays as it was.",
    example="canny-set --conditions grey",
)


def run(arguments: Sequence[str]) -> int:
    """Add conditions, captions or latents to a data set, or print what would be added."""
    with leaving_at_once("add"):
        config = refusals.checked_add(COMMAND.parse(arguments))
        from pipeline.add import add

        load_arrow()
    if config.dry_run:
        say(*add.dry_run(config).split("\n"))
    else:
        add.add(config, show=True)
    return 0
