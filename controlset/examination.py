"""What `controlset doctor` finds out."""

import dataclasses
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console
from rich.table import Table

from annotators.options import EyeOptions
from annotators.runtime import resolve_device, resolve_precision
from controlset.inventory import Need, models_of, needs_of, print_needs

_PACKAGES = (
    "controlset", "torch", "transformers", "controlnet-aux", "apache-beam", "pyarrow",
    "opencv-python-headless", "pillow",
)  # fmt: skip
_RUNNERS = ("FnApiRunner", "PortableRunner", "DataflowRunner", "FlinkRunner", "SparkRunner")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """Versions, hardware, runners, annotators."""

    versions: Mapping[str, str]
    machine: Mapping[str, str]
    runners: Mapping[str, str]  # name -> "ready" or why not
    needs: Sequence[Need]

    def to_json(self) -> dict[str, Any]:
        annotators = [
            {
                "name": need.name,
                "weights": None if need.weights is None else need.weights.title,
                "state": need.state,
                "path": None if need.path is None else str(need.path),
                "sha256": need.sha256,
                "licence": need.licence,
            }
            for need in self.needs
        ]
        return {
            "versions": dict(self.versions),
            "machine": dict(self.machine),
            "runners": dict(self.runners),
            "annotators": annotators,
        }


def examine(options: EyeOptions, names: Sequence[str]) -> Examination:
    """Look at this environment.

    Args:
        options: of the annotators, e.g. where weights are.
        names: conditions to look at; none: all.

    Raises:
        ConfigError: an unknown name, or a device that was asked for and is not there.
    """
    return Examination(
        versions={"python": platform.python_version()} | {one: _version(one) for one in _PACKAGES},
        machine=_machine(options),
        runners={name: _runner(name) for name in _RUNNERS},
        needs=needs_of(models_of(names, options, all_if_none=True), options),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _machine(options: EyeOptions) -> dict[str, str]:
    import torch

    device = resolve_device(options.device)
    features = torch.cpu.get_capabilities()
    useful = [
        name for name in ("avx512_bf16", "amx_bf16", "avx512_f", "avx2") if features.get(name)
    ]
    gpus = [
        f"{torch.cuda.get_device_name(number)}, "
        f"{torch.cuda.get_device_properties(number).total_memory / 2**30:.0f} GiB"
        for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": f"{len(os.sched_getaffinity(0))} ({features.get('cpu_name', 'CPU')}: "
        f"{', '.join(useful) or 'no vector units that matter'})",
        "GPUs": "; ".join(gpus) or "none",
        f"--device {options.device}": device,
        f"--precision {options.precision}": resolve_precision(options.precision, device),
        "memory": f"{memory:.0f} GiB",
        "free disk here": f"{shutil.disk_usage('.').free / 2**30:.0f} GiB",
        "weights folder": options.weights or "none (--weights or CONTROLSET_WEIGHTS)",
    }


def _runner(name: str) -> str:
    from apache_beam.runners.runner import create_runner

    try:
        create_runner(name)
    except (ImportError, AttributeError, ValueError) as error:
        return " ".join(str(error).split())[:100]
    return "ready"


def print_examination(found: Examination, console: Console) -> None:
    """Tables that fit 80 columns."""
    for title, values in (
        ("Versions", found.versions),
        ("Machine", found.machine),
        ("Beam runners", found.runners),
    ):
        table = Table(title=title, title_justify="left", show_header=False)
        for name, value in values.items():
            table.add_row(name, value)
        console.print(table, markup=False)
    print_needs(found.needs, console)
