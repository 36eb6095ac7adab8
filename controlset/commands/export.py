"""`controlset export`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from controlset import refusals
from controlset.commands import leaving_at_once
from controlset.parse import Command
from schemas.printable import say


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a run, of one of its checkpoints, or a diffusers ControlNetModel folder."""

    format: Literal["diffusers", "original"]
    """Form of what is written. diffusers: a folder, for any base. original: one file, for Stable
    Diffusion 1.x and 2.x."""

    output: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """Where to write: a folder, or a file that ends in .safetensors."""

    dtype: Annotated[
        Literal["fp32", "fp16", "bf16"] | None, tyro.conf.arg(metavar="{fp32,fp16,bf16}")
    ] = None
    """Number format of the weights. Default: as they are stored."""


COMMAND = Command(
    name="export",
    kind=_Options,
    description="Write a trained ControlNet for ComfyUI, A1111 and diffusers. Condition, hint "
    "range, colour order and annotator travel in the file's metadata.",
    example="run --format original --output canny.safetensors",
)


def run(arguments: Sequence[str]) -> int:
    """Write a trained ControlNet for other tools."""
    options = COMMAND.parse(arguments)
    refusals.check_export(options.run, options.output)
    with leaving_at_once("export"):
        from controlnet.export import export
    exported = export(options.run, options.output, layout=options.format, precision=options.dtype)
    size = f"{exported.size_bytes / 1e6:,.1f} MB"
    say(f"{exported.path}: {exported.tensors} tensors, {size}; {exported.readers}")
    return 0
