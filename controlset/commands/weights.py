"""`controlset weights`: what annotators need, where it lies, and getting it."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from annotators.options import EyeOptions
from controlset.interrupt import leaving_at_once
from controlset.parse import parse

COMMAND = "controlset weights"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(EyeOptions):
    action: Annotated[
        tyro.conf.Positional[Literal["list", "fetch"]], tyro.conf.arg(metavar="list|fetch")
    ]
    """list: a table of what annotators need, with licences, and what is here. fetch: download
    what is missing, into --weights DIR if it is given, else into the hub's cache."""

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME ...]")
    ] = ()
    """Conditions, and blip for the captioner. Default with list: all."""

    conditions: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()


def run(arguments: Sequence[str]) -> int:
    """Print or fetch weights; status 2 if some cannot be had."""
    with leaving_at_once("weights"):
        options = parse(
            _Options,
            COMMAND,
            arguments,
            description="List or download the weights of annotators and captioner. The options "
            "are those of generate, e.g. --depth-model and --pose hands face.",
            example=f"{COMMAND} fetch depth pose hed blip --weights weights/",
        )
        from controlset.console import results
        from controlset.inventory import fetch_all, models_of, needs_of, print_needs

    models = models_of(options.names, options, all_if_none=options.action == "list")
    if options.action == "fetch":
        fetch_all(models, options)
    print_needs(needs_of(models, options), results())
    return 0
