"""`controlset demo`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from controlset import early
from controlset.interrupt import leaving_at_once, load_arrow
from controlset.parse import need, parse

COMMAND = "controlset demo"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("demo-output")
    """Folder that pictures, data set, run, evaluation and report are written to."""

    source: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Pictures of your own instead of drawn ones. They are shrunk to 64 px, and the bundled base
    knows coloured shapes only: control will work better than the pictures look."""

    pictures: int = 4000
    """How many pictures of shapes to draw."""

    steps: int = 1100
    """How many training steps to take, of 32 samples each."""

    rows: int = 128
    """How many validation rows the ControlNet is judged by."""

    seed: int = 0
    """Seed of everything that is drawn at random; the same seed gives the same numbers."""

    def __post_init__(self) -> None:
        for name in ("pictures", "steps", "rows"):
            value = getattr(self, name)
            need(value >= 1, f"--{name}", "1 or more", value)


def run(arguments: Sequence[str]) -> int:
    """Pictures -> data set -> ControlNet -> numbers -> report."""
    options = parse(
        _Options,
        COMMAND,
        arguments,
        description="The whole story on two cores, with nothing to download: draw pictures of "
        "shapes, turn them into a set of Canny triples, train a ControlNet on the bundled base, "
        "measure whether it obeys, and write a report. Run again, it goes on where it stopped.",
        example=f"{COMMAND} --output demo-output",
    )
    if options.source is not None:
        early.need_source(options.source)
    with leaving_at_once("demo"):
        from controlset.demo import Demo, demo

        load_arrow()
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(_Options)}
    return demo(Demo(**values))
