"""What this machine has: versions, processor, GPUs, Beam runners, room."""

import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from annotators.options import AnnotateConfig
from annotators.runtime import resolve_device, resolve_precision
from schemas.machine import cores, memory_bytes

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
_FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16")


def versions() -> dict[str, str]:
    """Of controlset, Python and what the maps depend on."""
    from controlset import __version__

    found = {"controlset": __version__, "Python": platform.python_version()}
    return found | {package: _version(package) or "not installed" for package in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def hardware(options: AnnotateConfig) -> dict[str, Any]:
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
        "processor": _processor(),
        "cores": cores(),
        "features": {name: bool(has.get(name)) for name in _FEATURES},
        "gpus": gpus,
        "device": device,
        "precision": resolve_precision(options.precision, device),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def room(options: AnnotateConfig) -> dict[str, Any]:
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
    try:
        group = Path("/sys/fs/cgroup")
        total = min(total, int((group / "memory.max").read_text()))
        free = min(free, total - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no Linux, no container, or one without a limit
    return {"total_gb": round(total / 1e9, 1), "free_gb": round(max(0, free) / 1e9, 1)}


def runners() -> dict[str, str]:
    """Beam runner -> `can be made`, or what it lacks. Whether its cluster answers is not asked."""
    from apache_beam.runners.runner import create_runner

    found = {}
    for name in _RUNNERS:
        try:
            create_runner(name)
            found[name] = _lacks(name) or "can be made"
        except (ImportError, AttributeError, ValueError) as error:
            found[name] = " ".join(str(error).split())[:100]
    return found


def _lacks(runner: str) -> str | None:
    """What a runner would only miss when it is handed a job."""
    if runner == "DataflowRunner" and _version("google-cloud-dataflow-client") is None:
        return "needs Google's clients: pip install 'controlset[gcp]'"
    if runner in {"FlinkRunner", "SparkRunner"} and shutil.which("java") is None:
        return "needs java, or a job server that runs elsewhere"
    return None


def third_parties() -> dict[str, str]:
    """Condition -> package and class, of annotators that other packages bring."""
    from annotators.registry import installed, others

    entries = installed()
    packages = {name: entries[name].dist for name in others()}
    return {
        name: f"{package.name if package else 'unknown package'}: {entries[name].value}"
        for name, package in packages.items()
    }
