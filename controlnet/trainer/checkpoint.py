"""Checkpoints: whole or not there at all; safetensors and a small JSON.

    RUN/checkpoints/step-00000500/
        controlnet/config.json, diffusion_pytorch_model.safetensors    what diffusers loads
        training.safetensors    optimizer state, and the weights themselves where they are averaged
        state.json              written last: step, place in the data, sha256 of the files and of it

The network of a run is the averaged one wherever it is looked at (probe, checkpoint, result), if
there are averages. A folder is written under a temporary name, synced and renamed. One whose files
do not have the hashes that its `state.json` names is passed over, and that is said. No random state
is stored: draws are a function of (seed, epoch, key).
"""

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from controlnet import nano
from controlnet.architecture.backbone import Base
from controlnet.architecture.control import ControlNet
from controlnet.architecture.model_folder import need_finite
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.index import Index
from schemas.documents import read_checked, with_digest
from schemas.errors import ConfigError
from schemas.files import UNFINISHED, file_digest, taking_place

WEIGHTS = "diffusion_pytorch_model.safetensors"
_STATE, _TRAINING = "state.json", "training.safetensors"


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
    with taking_place(folder) as temporary, _errors_of_disk():
        _write_control(control, temporary, metadata, weights)


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
    tensors, plain = _flattened(optimizer)
    if average is not None:
        tensors |= {
            f"own.{name}": parameter.detach().cpu()
            for name, parameter in control.named_parameters()
        }
    with taking_place(folder) as temporary, _errors_of_disk():
        _write_control(control, temporary / "controlnet", metadata, average)
        stored = {name: value.contiguous() for name, value in tensors.items()}
        save_file(stored, temporary / _TRAINING)
        # Hashed as they were written: what a disk made of them later is seen when they are read.
        files = [temporary / "controlnet" / WEIGHTS, temporary / _TRAINING]
        state = {
            **dataclasses.asdict(progress),
            "optimizer": plain,
            "files": {str(path.relative_to(temporary)): file_digest(path) for path in files},
        }
        text = json.dumps(with_digest(state), indent=1, allow_nan=False)
        (temporary / _STATE).write_text(f"{text}\n")
    for old in _folders(run)[:-keep_last]:  # after the new one is whole
        shutil.rmtree(old)
    return folder


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _State(Progress):
    """All of `state.json`."""

    optimizer: dict[str, Any]
    files: dict[str, str]  # path -> sha256


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a run can go on from."""

    newest: Path | None  # whole
    torn: tuple[tuple[Path, str], ...] = ()  # newer ones that are not, and what is wrong with each


def find_checkpoint(run: Path) -> Found:
    """The newest whole checkpoint, and those that had to be passed over."""
    torn: list[tuple[Path, str]] = []
    for folder in reversed(_folders(run)):
        wrong = _wrong_with(folder)
        if wrong is None:
            return Found(newest=folder, torn=tuple(torn))
        torn.append((folder, wrong))
    return Found(newest=None, torn=tuple(torn))


def last_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint."""
    return find_checkpoint(run).newest


def read_progress(folder: Path) -> Progress:
    """What a whole checkpoint says about where the run stood."""
    state = _state_of(folder)
    return Progress(
        **{field.name: getattr(state, field.name) for field in dataclasses.fields(Progress)}
    )


def load_checkpoint(
    folder: Path, control: ControlNet, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Restore weights and optimizer in place.

    Returns:
        Averaged weights by parameter name; empty if none were kept.

    Raises:
        ConfigError: it is not of this network, or holds values that are not finite.
    """
    groups: dict[str, dict[str, Tensor]] = {"average": {}, "own": {}, "optimizer": {}}
    with safe_open(folder / _TRAINING, framework="pt") as file:
        for name in file.keys():  # safe_open is no mapping
            kind, _, rest = name.partition(".")
            groups.setdefault(kind, {})[rest] = file.get_tensor(name)
    with safe_open(folder / "controlnet" / WEIGHTS, framework="pt") as file:
        looked_at = {name: file.get_tensor(name) for name in file.keys()}
    # Without averages, the weights themselves lie in controlnet/; older checkpoints with averages
    # held them there, too, and the averages as `average.*`.
    own = groups["own"] or looked_at
    average = looked_at if groups["own"] else groups["average"]
    parameters = dict(control.named_parameters())
    for values in (own, average):
        need_finite(values, str(folder))
        wrong = sorted(
            name
            for name in parameters.keys() | values.keys()
            if values
            and (
                name not in values
                or name not in parameters
                or values[name].shape != parameters[name].shape
            )
        )
        if wrong:
            raise ConfigError(
                f"{folder}: need a checkpoint of this network, got one that differs in {wrong[0]}; "
                "take another --output"
            )
    with torch.no_grad():
        for name, value in own.items():
            parameters[name].copy_(value)
    try:
        _restore(optimizer, groups["optimizer"], _state_of(folder).optimizer)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{folder / _STATE}: need the state of this run's optimizer, got {error}; take another "
            "--output"
        ) from error
    return average


def clear_temporary(run: Path) -> None:
    """Delete what a killed run was writing."""
    for place in (run, run / "checkpoints"):
        for leftover in place.glob(f"{UNFINISHED}*"):
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
    text = json.dumps(control.config, indent=2, sort_keys=True)
    (folder / "config.json").write_text(f"{text}\n")


def _order_header(path: Path) -> None:
    """Metadata by name: safetensors writes it in any order, but equal runs are equal files."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size  # safetensors pads with spaces, and so do we
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


def _state_of(folder: Path) -> _State:
    return read_checked(folder / _STATE, _State)


def _wrong_with(folder: Path) -> str | None:
    """Why a checkpoint is not whole; None: it is."""
    try:
        for name, expected in _state_of(folder).files.items():
            if file_digest(folder / name) != expected:
                return f"{name} was changed since it was written"
    except (OSError, ConfigError) as error:
        return str(error)
    return None


def _folders(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-????????"))


@contextlib.contextmanager
def _errors_of_disk() -> Iterator[None]:
    """What safetensors says of a full disk, as the OSError that it was."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error)) from error


def published(name: str) -> str:
    """A base's name for a file that is passed on: no folders of the machine that trained it."""
    if name in {nano.NAME, str(nano.base_folder())}:
        return nano.NAME
    path = Path(name)
    return path.resolve().name if path.is_absolute() or path.exists() else name


def metadata_of(
    config: TrainConfig, index: Index, base: Base, control: ControlNet
) -> dict[str, str]:
    """Safetensors metadata: which condition, in which range and colour order, drawn by what."""
    return {
        "controlset.condition": config.condition,
        "controlset.hint_range": "0..1",
        "controlset.color_order": "RGB",
        "controlset.annotator": json.dumps(dict(index.annotator), sort_keys=True),
        "controlset.base": published(config.base),
        **({"controlset.vae": Path(config.vae).name} if config.vae else {}),
        **({"controlset.base_lora": Path(config.base_lora).name} if config.base_lora else {}),
        "controlset.base_fingerprint": base.fingerprint,
        "controlset.global_pool": str(bool(control.config.get("global_pool_conditions"))).lower(),
        "controlset.zero_terminal_snr": str(config.zero_terminal_snr).lower(),
        "controlset.prediction_type": str(base.scheduler.get("prediction_type", "epsilon")),
        "controlset.resolution": "{}x{}".format(*next(iter(index.sizes))),
    }
