"""Checkpoints: whole or not there at all; safetensors and a small JSON.

    RUN/checkpoints/step-00000500/
        controlnet/config.json, diffusion_pytorch_model.safetensors    what diffusers loads
        training.safetensors    optimizer state and averaged weights
        state.json              written last: step, place in the data, sha256 of the files

A folder is written under a temporary name, synced and renamed. One whose files do not have the
sizes and hashes that its `state.json` names is skipped. No random state is stored: draws are a
function of (seed, epoch, key).
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from controlnet.architecture.control import ControlNet

WEIGHTS = "diffusion_pytorch_model.safetensors"
_STATE, _TRAINING = "state.json", "training.safetensors"
_TEMPORARY = ".writing-"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands."""

    step: int  # optimizer steps done
    epoch: int
    batch: int  # batches of that epoch that are done
    identity: Mapping[str, Any]  # what a run that goes on must share
    extra: Mapping[str, Any]  # JSON-able state of others: gradient scaler, probe


def save_control(
    control: ControlNet,
    folder: Path,
    *,
    metadata: Mapping[str, str],
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a diffusers `ControlNetModel` folder, atomically; an older one is replaced.

    Args:
        control: config, and weights unless given.
        folder: its place.
        metadata: goes into the safetensors header.
        weights: averaged ones, by parameter name.
    """
    temporary = _temporary(folder)
    _write_control(control, temporary, metadata, weights)
    _swap(temporary, folder)


def save_checkpoint(
    run: Path,
    control: ControlNet,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    *,
    metadata: Mapping[str, str],
    average: Mapping[str, Tensor] | None,
    keep_last: int,
) -> Path:
    """Write a checkpoint and delete the oldest ones.

    Args:
        run: folder of the run.
        control: trainable weights.
        optimizer: its state is stored, whatever its kind.
        progress: stored beside it.
        metadata: of the ControlNet's file.
        average: averaged weights by parameter name, if there are any.
        keep_last: whole checkpoints that stay, this one included.
    """
    folder = run / "checkpoints" / f"step-{progress.step:08d}"
    temporary = _temporary(folder)
    _write_control(control, temporary / "controlnet", metadata, None)
    tensors, plain = _flattened(optimizer)
    tensors |= {f"average.{name}": value for name, value in (average or {}).items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, temporary / _TRAINING)
    files = [temporary / "controlnet" / WEIGHTS, temporary / _TRAINING]
    state = {
        **dataclasses.asdict(progress),
        "optimizer": plain,
        "files": {str(one.relative_to(temporary)): _digest(one) for one in files},
    }
    _write_text(temporary / _STATE, json.dumps(state, indent=1) + "\n")
    _swap(temporary, folder)
    for old in _folders(run)[:-keep_last]:
        shutil.rmtree(old)
    return folder


def last_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint; torn ones are passed over."""
    return next((one for one in reversed(_folders(run)) if _is_whole(one)), None)


def read_progress(folder: Path) -> Progress:
    """What a whole checkpoint says about where the run stood."""
    state = json.loads((folder / _STATE).read_text())
    return Progress(**{field.name: state[field.name] for field in dataclasses.fields(Progress)})


def load_checkpoint(
    folder: Path, control: ControlNet, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Restore weights and optimizer in place.

    Returns:
        Averaged weights by parameter name; empty if none were kept.
    """
    with safe_open(folder / "controlnet" / WEIGHTS, framework="pt") as file:
        own = dict(control.named_parameters())
        with torch.no_grad():
            for name in file.keys():  # safe_open is no mapping
                own[name].copy_(file.get_tensor(name))
    average: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    with safe_open(folder / _TRAINING, framework="pt") as file:
        for name in file.keys():
            kind, _, rest = name.partition(".")
            (average if kind == "average" else tensors)[rest] = file.get_tensor(name)
    plain = json.loads((folder / _STATE).read_text())["optimizer"]
    _restore(optimizer, tensors, plain)
    return average


def clear_temporary(run: Path) -> None:
    """Delete what a killed run was writing."""
    for place in (run, run / "checkpoints"):
        for leftover in place.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover)


def _write_control(
    control: ControlNet,
    folder: Path,
    metadata: Mapping[str, str],
    weights: Mapping[str, Tensor] | None,
) -> None:
    folder.mkdir(parents=True)
    state = {name: value.detach() for name, value in control.state_dict().items()}
    state |= weights or {}
    plain = {name: value.cpu().contiguous() for name, value in state.items()}
    # "format" is what transformers and diffusers want to read there
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt", **metadata})
    _order_header(folder / WEIGHTS)
    _write_text(folder / "config.json", json.dumps(control.config, indent=2, sort_keys=True) + "\n")


def _order_header(path: Path) -> None:
    """Metadata by name: safetensors writes it in any order, but equal runs are equal files."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))


def _flattened(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and plain values."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{name}"] = value.detach().cpu().clone()
            else:
                plain[f"{number}.{name}"] = value
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def _restore(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    state: dict[int, dict[str, Any]] = {}
    for place, value in [*tensors.items(), *plain["state"].items()]:
        number, _, name = place.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": plain["param_groups"]})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # In the parameter's memory layout: fused kernels walk both as flat memory, so a
                # contiguous moment of a channels-last weight would be applied to other elements.
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _is_whole(folder: Path) -> bool:
    try:
        files = json.loads((folder / _STATE).read_text())["files"]
        return all(_digest(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _folders(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-????????"))


def _temporary(folder: Path) -> Path:
    temporary = folder.with_name(f"{_TEMPORARY}{folder.name}")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    return temporary


def _swap(temporary: Path, folder: Path) -> None:
    """Sync and rename; a folder cannot be renamed over a full one, so that one steps aside."""
    for path in [*temporary.rglob("*"), temporary]:
        if path.is_file():
            path.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner reads
        _sync(path)
    aside = folder.with_name(f"{_TEMPORARY}old-{folder.name}")
    if folder.exists():
        folder.rename(aside)
    temporary.rename(folder)
    if aside.exists():
        shutil.rmtree(aside)
    _sync(folder.parent)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
