"""`controlset demo`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from controlset.interrupt import leaving_at_once, load_arrow
from controlset.parse import parse
from schemas.errors import ConfigError

COMMAND = "controlset demo"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("demo-output")
    """Folder for the photographs and the data set."""


def run(arguments: Sequence[str]) -> int:
    """Photographs -> data set -> verification."""
    options = parse(
        _Options,
        COMMAND,
        arguments,
        description="Write crops of the photographs that scikit-image installs, turn them into a "
        "set of Canny triples, verify it, and say where its preview lies.",
        example=f"{COMMAND} --output demo-output",
    )
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output: need a folder to write to, got {error}") from error
    with leaving_at_once("demo"):
        from controlset.demo import demo

        load_arrow()
    return demo(options.output)
