"""`controlset doctor`."""

import dataclasses
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import tyro

from annotators.options import AnnotateConfig
from annotators.runtime import resolve_device, resolve_precision
from controlset.commands import leaving_at_once
from controlset.commands.weights import Entry, entries, everything, need_known, print_entries
from controlset.parse import Command
from schemas.machine import cores, memory_bytes, processor
from schemas.printable import say, say_json
from schemas.terminal import Terminal

_PACKAGES = (
    "torch",
    "transformers",
    "controlnet-aux",
    "apache-beam",
    "pyarrow",
    "opencv-python-headless",
    "pillow",
    "huggingface-hub",
)
_RUNNERS = ("FnApiRunner", "PortableRunner", "DataflowRunner", "FlinkRunner", "SparkRunner")
# Of a processor: what decides how fast networks run, and in which precision.
_FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(AnnotateConfig):
    conditions: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Conditions and captioners that have to be ready, else the exit status is 1. Default: all are
    listed, none has to be."""

    json: bool = False
    """Print JSON instead of tables."""


COMMAND = Command(
    name="doctor",
    kind=_Options,
    description="Versions, processor, GPUs, Beam runners, room, and every annotator with "
    "its weights and their licence. Say the same options as to `generate`.",
    example="--conditions canny depth pose blip",
)


def run(arguments: Sequence[str]) -> int:
    """Say what this machine has; status 1 if something asked for is not ready."""
    with leaving_at_once("doctor"):
        options = COMMAND.parse(arguments)

        need_known(options.conditions)
        facts = {
            "versions": _versions(),
            "hardware": _hardware(options),
            "runners": _runners(),
            "third_party": _third_parties(),
            "room": _room(options),
        }
    names = options.conditions or tuple(everything())
    found = entries(names, options, variants=not options.conditions)
    unready = [entry for entry in found if not entry.ready] if options.conditions else []
    if options.json:
        say_json({**facts, "annotators": [_plain(entry) for entry in found]})
    else:
        _show(facts, found, Terminal())
        for entry in unready:
            missing = f"{entry.weights.title} is missing" if entry.weights else ""
            say(f"not ready: {entry.name}: {entry.problem or missing}")
    return 1 if unready else 0


def _plain(entry: Entry) -> dict[str, Any]:
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


def _show(facts: Mapping[str, Any], found: Sequence[Entry], console: Terminal) -> None:
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
        "third parties": ", ".join(
            f"{name} ({origin})" for name, origin in facts["third_party"].items()
        )
        or "none",
    }
    width = max(map(len, lines))
    for name, text in lines.items():
        console.tell(f"{name:<{width}}  {text}")
    console.tell("")
    print_entries(found, console)
    for entry in found:
        if entry.path is not None:
            console.tell(f"{entry.name}: {entry.path}")


def _versions() -> dict[str, str]:
    """Of controlset, Python and what the maps depend on."""
    from controlset import __version__

    found = {"controlset": __version__, "Python": platform.python_version()}
    return found | {package: _version(package) or "not installed" for package in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hardware(options: AnnotateConfig) -> dict[str, Any]:
    """Processor, GPUs, and what `--device` and `--precision` mean here.

    Raises:
        ConfigError: the device that is asked for is not here.
    """
    import torch

    device = resolve_device(options.device)
    has = torch.cpu.get_capabilities()
    gpus = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        gpus.append({"name": properties.name, "memory_gb": round(properties.total_memory / 1e9, 1)})
    return {
        "processor": processor(),
        "cores": cores(),
        "features": {name: bool(has.get(name)) for name in _FEATURES},
        "gpus": gpus,
        "device": device,
        "precision": resolve_precision(options.precision, device),
    }


def _room(options: AnnotateConfig) -> dict[str, Any]:
    """Free memory, and free disk where weights and, by default, data sets go."""
    from huggingface_hub.constants import HF_HUB_CACHE

    places = {"here": ".", "the hub's cache": HF_HUB_CACHE}
    if options.weights:
        places["--weights"] = options.weights
    disk = {
        name: {"path": str(Path(place).absolute()), "free_gb": _free_gb(Path(place))}
        for name, place in places.items()
    }
    return {"memory": _memory(), "disk": disk}


def _free_gb(place: Path) -> float:
    place = place.absolute()
    while not place.exists():  # it will be made there
        place = place.parent
    return round(shutil.disk_usage(place).free / 1e9, 1)


def _memory() -> Mapping[str, float]:
    """In GB; a container's own limit where it has one."""
    total, free = memory_bytes()
    try:  # psutil tells of the machine, and a container is ended by its own limit
        group = Path("/sys/fs/cgroup")
        total = min(total, int((group / "memory.max").read_text()))
        free = min(free, total - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no Linux, no container, or one without a limit
    return {"total_gb": round(total / 1e9, 1), "free_gb": round(max(0, free) / 1e9, 1)}


def _runners() -> dict[str, str]:
    """Beam runner -> `can be made`, or what it lacks. Whether its cluster answers is not asked."""
    from apache_beam.runners.runner import create_runner

    found = {}
    for name in _RUNNERS:
        try:
            create_runner(name)
            found[name] = _lacks(name) or "can be made"
        except (ImportError, AttributeError, ValueError) as error:
            found[name] = " ".join(str(error).split())[:100]  # one line, however it is told
    return found


def _lacks(runner: str) -> str | None:
    """What a runner would only miss when it is handed a job."""
    if runner == "DataflowRunner" and _version("google-cloud-dataflow-client") is None:
        return "needs Google's clients: pip install 'controlset[gcp]'"
    if runner in {"FlinkRunner", "SparkRunner"} and shutil.which("java") is None:
        return "needs java, or a job server that runs elsewhere"
    return None


def _third_parties() -> dict[str, str]:
    """Condition -> package and class, of annotators that other packages bring."""
    from annotators.registry import installed, others

    entries = installed()
    packages = {name: entries[name].dist for name in others()}
    return {
        name: f"{package.name if package else 'unknown package'}: {entries[name].value}"
        for name, package in packages.items()
    }
