"""`controlset doctor`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from annotators.options import AnnotateConfig
from controlset.interrupt import leaving_at_once
from controlset.parse import parse
from schemas.printable import say, say_json

if TYPE_CHECKING:
    from controlset.inventory import Entry
    from schemas.terminal import Terminal

COMMAND = "controlset doctor"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(AnnotateConfig):
    conditions: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Conditions and captioners that have to be ready, else the exit status is 1. Default: all are
    listed, none has to be."""

    json: bool = False
    """Print JSON instead of tables."""


def run(arguments: Sequence[str]) -> int:
    """Say what this machine has; status 1 if something asked for is not ready."""
    with leaving_at_once("doctor"):
        options = parse(
            _Options,
            COMMAND,
            arguments,
            description="Versions, processor, GPUs, Beam runners, room, and every annotator with "
            "its weights and their licence. Say the same options as to `generate`.",
            example=f"{COMMAND} --conditions canny depth pose blip",
        )
        from controlset import examination
        from controlset.console import results
        from controlset.inventory import entries, everything, known

        known(options.conditions)
        facts = {
            "versions": examination.versions(),
            "hardware": examination.hardware(options),
            "runners": examination.runners(),
            "third_party": examination.third_parties(),
            "room": examination.room(options),
        }
    names = options.conditions or tuple(everything())
    found = entries(names, options, variants=not options.conditions)
    unready = [entry for entry in found if not entry.ready] if options.conditions else []
    if options.json:
        say_json({**facts, "annotators": [_plain(entry) for entry in found]})
    else:
        _show(facts, found, results())
        for entry in unready:
            say(f"not ready: {entry.name}: {entry.problem or f'{_title(entry)} is missing'}")
    return 1 if unready else 0


def _title(entry: "Entry") -> str:
    return entry.weights.title if entry.weights else ""


def _plain(entry: "Entry") -> dict[str, Any]:
    weights = dataclasses.asdict(entry.weights) if entry.weights else None
    return {
        "name": entry.name,
        "option": entry.option or None,
        "weights": weights,
        "path": str(entry.path) if entry.path else None,
        "sha256": entry.sha256,
        "released": entry.released,
        "ready": entry.ready,
        "state": entry.state,
        "problem": entry.problem,
    }


def _show(facts: Mapping[str, Any], found: Sequence["Entry"], console: "Terminal") -> None:
    from controlset.inventory import print_entries

    hardware, room = facts["hardware"], facts["room"]
    has = [name for name, there in hardware["features"].items() if there]
    lines = {
        **facts["versions"],
        "processor": f"{hardware['processor']}, {hardware['cores']} cores here",
        "of its features": ", ".join(has) or "none of those that matter",
        "GPUs": ", ".join(f"{gpu['name']}, {gpu['memory_gb']} GB" for gpu in hardware["gpus"])
        or "none",
        "networks run": f"on {hardware['device']} in {hardware['precision']}",
        "memory": f"{room['memory']['free_gb']} of {room['memory']['total_gb']} GB free",
        **{
            f"disk, {name}": f"{place['free_gb']} GB free: {place['path']}"
            for name, place in room["disk"].items()
        },
        **{f"Beam, {name}": text for name, text in facts["runners"].items()},
        "third parties": ", ".join(f"{n} ({w})" for n, w in facts["third_party"].items()) or "none",
    }
    width = max(map(len, lines))
    for name, text in lines.items():
        console.tell(f"{name:<{width}}  {text}")
    console.tell("")
    print_entries(found, console)
    for entry in found:
        if entry.path is not None:
            console.tell(f"{entry.name}: {entry.path}")
