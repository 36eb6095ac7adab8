"""`controlset draw`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from controlset.commands import leaving_at_once
from controlset.parse import Command
from schemas.errors import ConfigError, need
from schemas.files import machine_limits, taking_place
from schemas.printable import say

_LEAST_PX, _MOST_PX = 32, 512


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder to make; if it is there already, it has to be empty."""

    scenes: int = 4000
    """How many scenes to draw."""

    size: int = 64
    """Side of the pictures, px."""

    seed: int = 0
    """Of the world: the same seed has the same scenes at every size."""


COMMAND = Command(
    name="draw",
    kind=_Options,
    description="Draw pictures of things and people whose depth, normals, outlines, joints and "
    "captions are known exactly, and write all of it: to test a pipeline or an annotator with.",
    example="drawn --scenes 200",
)


def run(arguments: Sequence[str]) -> int:
    """Scenes -> pictures, captions and truth."""
    options = COMMAND.parse(arguments)
    need(options.scenes >= 1, "--scenes", "1 or more", options.scenes)
    sizes = f"{_LEAST_PX} to {_MOST_PX}"
    need(_LEAST_PX <= options.size <= _MOST_PX, "--size", sizes, options.size)
    need(options.seed >= 0, "--seed", "0 or more", options.seed)
    _need_room(options.output)
    with leaving_at_once("draw"):
        from controlnet.nano.world.folder import PICTURES, SHEET, write_scenes
        from schemas.terminal import counting
    with (
        machine_limits(options.output),
        taking_place(options.output.absolute()) as unfinished,
        counting("drawing") as advance,
    ):
        write_scenes(
            unfinished,
            options.scenes,
            size_px=options.size,
            seed=options.seed,
            on_progress=advance,
        )
    say(
        f"drawn: {options.scenes:,} scenes of {options.size} px in {options.output}",
        f"look:  {options.output / SHEET}; README.md says what each file holds",
        f"then:  controlset generate {options.output / PICTURES} --output set "
        f"--conditions canny --resolution {options.size} --min-side {options.size}",
    )
    return 0


def _need_room(folder: Path) -> None:
    """Refuse a place where something lies.

    Raises:
        ConfigError: names what lies there.
    """
    if folder.is_dir():
        found = sorted(path.name for path in folder.iterdir())
        if found:
            raise ConfigError(
                f"{folder}: need an empty folder, found {', '.join(found[:3])}; choose another"
            )
    elif folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder}: need a folder, got a file; choose another")
