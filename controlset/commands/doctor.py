"""`controlset doctor`: what this machine and this environment can do."""

import dataclasses
import json
from collections.abc import Sequence

from annotators.options import EyeOptions
from controlset.interrupt import leaving_at_once
from controlset.parse import parse

COMMAND = "controlset doctor"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(EyeOptions):
    conditions: tuple[str, ...] = ()
    """Conditions that must be ready (blip for captions); status 1 if one is not."""

    json: bool = False
    """Print one JSON document instead of tables."""


def run(arguments: Sequence[str]) -> int:
    """Print what is here; status 1 if something that was asked for is not ready."""
    with leaving_at_once("doctor"):
        options = parse(
            _Options,
            COMMAND,
            arguments,
            description="Show versions, devices, Beam runners, and which annotators are ready, "
            "with the licences of their weights.",
            example=f"{COMMAND} --conditions depth pose hed blip",
        )
        from controlset.console import results
        from controlset.examination import examine, print_examination

    asked = dataclasses.replace(options, conditions=())
    found = examine(asked, options.conditions)
    if options.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print_examination(found, results())
    return 0 if all(need.ready for need in found.needs if need.name in options.conditions) else 1
