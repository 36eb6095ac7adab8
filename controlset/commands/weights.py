"""`controlset weights`."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import tyro

from annotators.options import AnnotateConfig
from controlset.interrupt import leaving_at_once
from controlset.parse import need, parse
from schemas.errors import ConfigError
from schemas.printable import say

if TYPE_CHECKING:
    from controlset.inventory import Entry

COMMAND = "controlset weights"

_HELP = f"""usage: {COMMAND} fetch|list [NAME ...] [OPTIONS]

Get the weights that annotators and captioners need, for machines without a
network and for container images, or say what is here.

actions:
  fetch NAME [NAME ...]  download what these need and is not here yet
  list [NAME ...]        annotator, weights, size, licence, here or not

options:
  -h, --help             this text; those of the actions have --weights DIR,
                         --offline, and the options that choose models

example:
  {COMMAND} fetch canny hed depth pose blip --weights weights/
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(AnnotateConfig):
    conditions: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME ...]")
    ] = ()
    """Conditions and captioners, e.g. `canny depth pose blip`."""


def run(arguments: Sequence[str]) -> int:
    """Fetch or list weights."""
    action = arguments[0] if arguments else None
    if action in {"-h", "--help"}:
        say(*_HELP.splitlines())
        raise SystemExit(0)
    actions = {"fetch": _fetch, "list": _list}
    if action not in actions:
        got = "nothing" if action is None else repr(action)
        raise ConfigError(f"need fetch or list, got {got}; see {COMMAND} --help")
    return actions[action](arguments[1:])


def _fetch(arguments: Sequence[str]) -> int:
    with leaving_at_once("weights"):
        options = parse(
            _Options,
            f"{COMMAND} fetch",
            arguments,
            description="Download what annotators and captioners need and is not here yet: into "
            "--weights DIR, or else into the hub's cache. Say the same options as to `generate`.",
            example=f"{COMMAND} fetch hed depth blip --weights weights/",
        )
        from annotators.runtime import Runtime
        from annotators.weights import fetch
        from controlset.inventory import entries, known, weights_for

    names = options.conditions
    need(bool(names), "fetch", "at least one NAME", "none")
    known(names)
    runtime = Runtime(weights=options.weights, offline=options.offline)
    fetch(weights_for(names, options), runtime)
    for entry in entries(names, options, models_too=True):
        say(*_described(entry))
    if options.weights:
        say(f"use them with --weights {options.weights} or CONTROLSET_WEIGHTS={options.weights}")
    return 0


def _described(entry: "Entry") -> list[str]:
    """Name, file, size, licence, hash and place, in a form that can be copied."""
    if entry.weights is None:
        return [f"{entry.name}: needs none"]
    same = {True: " (the released file)", False: " (not the released file)", None: ""}
    return [
        f"{entry.name}: {entry.weights.title}, {entry.size}",
        f"  licence {entry.weights.licence}",
        f"  sha256  {entry.sha256}{same[entry.released]}",
        f"  in      {entry.path}",
    ]


def _list(arguments: Sequence[str]) -> int:
    with leaving_at_once("weights"):
        options = parse(
            _Options,
            f"{COMMAND} list",
            arguments,
            description="Say which weights annotators and captioners need, under which licence, "
            "and whether they are here; without names, of all.",
            example=f"{COMMAND} list hed depth --weights weights/",
        )
        from controlset.console import results
        from controlset.inventory import entries, everything, known, print_entries

    known(options.conditions)
    names = options.conditions or tuple(everything())
    print_entries(entries(names, options, variants=True), results())
    return 0
