"""ControlNets in the forms that people have them: a run, a folder, one file, a name on the hub.

    RUN/controlnet/, RUN/checkpoints/step-N/controlnet/     ours
    FOLDER/config.json, diffusion_pytorch_model[.fp16].safetensors      diffusers', anybody's
    FILE.safetensors, FILE.pth      diffusers' names or the original ones (`control_model.…`)
    OWNER/NAME      on the hub, in diffusers' form

One file has no configuration: its network is that of the base it is used with, or it is refused.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from controlnet.architecture.control import OF_THIS_FAMILY, ControlNet
from controlnet.architecture.model_folder import (
    need_finite,
    refusing,
    weights_file,
    whole,
    without_bars,
)
from controlnet.original_keys import same_names, to_diffusers
from schemas.errors import ConfigError
from schemas.model_files import read_model_config

STEM = "diffusion_pytorch_model"
_TENSORS = ".safetensors"
_PICKLES = {".pth", ".pt", ".ckpt", ".bin"}  # read as tensors alone
_ORIGINAL = re.compile(r"(control_model\.)?input_hint_block\.(\d+)\.weight")
_OURS = re.compile(r"controlnet_cond_embedding\.(conv_in|conv_out|blocks\.(\d+))\.weight")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
POOLED_ENDS = ("_shuffle", "_shuffle_fp16")  # by which ComfyUI and A1111 know it


def find_control(given: str, option: str, *, offline: bool = False) -> Path:
    """Where a ControlNet lies: its folder, or its one file.

    Args:
        given: path, or name on the hub.
        option: by which it was given, for the error.
        offline: never ask the hub.

    Raises:
        ConfigError: nothing there; says what is there instead, e.g. the checkpoint of a killed run.
    """
    path = Path(given)
    if path.is_file():
        if path.suffix not in {_TENSORS, *_PICKLES}:
            raise ConfigError(
                f"{option} {given}: need a folder, or a file of weights (.safetensors, .pth), got "
                f"{path.name!r}"
            )
        return path
    for folder in (path / "controlnet", path):
        if (folder / "config.json").is_file() and weights_file(folder) is not None:
            return folder
    # A misspelt `runs/canny` looks like a name on the hub; that `runs` is here tells them apart.
    if not path.exists() and not path.parent.exists() and _HUB_NAME.fullmatch(given):
        return _from_hub(given, option, offline)
    checkpoints = sorted(path.glob("checkpoints/step-*/controlnet"))
    whole_ones = [folder.parent for folder in checkpoints if weights_file(folder) is not None]
    if whole_ones:
        raise ConfigError(
            f"{option} {given}: this run was stopped before its result was written; "
            f"take its last checkpoint: {option} {whole_ones[-1]}"
        )
    control = path / "controlnet" if (path / "controlnet").is_dir() else path
    pickled = "pickled weights alone and " if (control / f"{STEM}.bin").is_file() else ""
    raise ConfigError(
        f"{option} {given}: need the folder of a run or a ControlNetModel folder, found "
        f"{pickled}no {control / STEM}{_TENSORS}; `controlset train` writes it at the end and when "
        "it is stopped"
    )


def weights_of(control: Path) -> Path:
    """The file of weights of what `find_control` found."""
    if control.is_file():
        return control
    return weights_file(control) or control / f"{STEM}{_TENSORS}"


def metadata_of_file(control: Path) -> dict[str, str]:
    """What the file of a ControlNet says about itself; nothing, if it is none of ours.

    Raises:
        ConfigError: it is torn.
    """
    path = weights_of(control)
    if path.suffix != _TENSORS:
        return {}
    torn = f"{path}: need a whole safetensors file, got "
    advice = "; train again, or take a checkpoint of the run"
    with refusing(lambda said: torn + said + advice), safe_open(path, framework="pt") as opened:
        return opened.metadata() or {}


@without_bars()
def load_control(control: Path, unet: Any = None) -> ControlNet:
    """Read a ControlNet, ours or anybody's, in float32.

    Args:
        control: from `find_control`, or any `ControlNetModel` folder.
        unet: of the base, whose shape a network in one file has.

    Returns:
        Its maps are in RGB: one that was trained on BGR has its first convolution turned round,
        which says the same.

    Raises:
        ConfigError: it is not there, torn, pickled, of another kind (a union ControlNet, one for
            maps of 1 or 6 channels, one without a middle block), or for another base.
    """
    form = "ControlNet's weights" if control.is_file() else "diffusers ControlNetModel folder"
    with refusing(lambda said: f"{control}: need a {form}, got {said}"):
        found = _of_file(control, unet) if control.is_file() else _of_folder(control)
    need_finite(found.state_dict(), str(control))
    return found


def _of_folder(folder: Path) -> ControlNet:
    config = read_model_config(folder / "config.json")
    _need_our_kind(config)
    model = whole(diffusers.ControlNetModel, str(folder), "", offline=True)
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    control = ControlNet({"_class_name": "ControlNetModel", **config}, model)
    control.load_state_dict(model.state_dict())
    return _for_rgb_maps(control.float())


def _need_our_kind(config: Mapping[str, Any]) -> None:
    """Refuse a configuration that diffusers builds, perhaps with parts left out, and we do not."""
    kind = config.get("_class_name")
    if kind not in {None, "ControlNetModel"}:
        raise ValueError(f"a {kind}; only plain ControlNets are supported")
    for name, allowed in {
        "conditioning_channels": (3,),
        "controlnet_conditioning_channel_order": ("rgb", "bgr"),
        **OF_THIS_FAMILY,
    }.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(
                f"one with {name} {config[name]!r}; need {' or '.join(map(str, allowed))}"
            )


def _of_file(path: Path, unet: Any) -> ControlNet:
    if unet is None:
        raise ValueError("one file without its configuration; give a folder")
    state = _tensors(path)
    widths, original = _hint_block(state)
    # Nobody else's file says it, so the name decides as in the tools that read it.
    told = metadata_of_file(path).get("controlset.global_pool")
    pools = told == "true" if told is not None else path.stem.endswith(POOLED_ENDS)
    control = ControlNet.from_unet(unet, hint_widths=widths, global_pool=pools)
    if original:
        state = to_diffusers(state, control.config)
    same_names(state, control.state_dict())
    control.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return control


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == _TENSORS:
        return load_file(path)
    # `weights_only`: a pickle may run anything.
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(tensor, Tensor) for tensor in state.values()
    ):
        raise ValueError("a file of other things than tensors")
    return state


def _hint_block(state: Mapping[str, Tensor]) -> tuple[tuple[int, ...], bool]:
    """Widths of a network's hint block, and whether its names are the original ones.

    Raises:
        ValueError: no hint block, or one for maps of other than three channels.
    """
    original = {int(m[2]): state[m[0]] for name in state if (m := _ORIGINAL.fullmatch(name))}
    places = {"conv_in": -1, "conv_out": len(state)}  # before and behind the numbered ones
    ours = {
        places.get(m[1], int(m[2] or 0)): state[m[0]]
        for name in state
        if (m := _OURS.fullmatch(name))
    }
    convolutions = [weight for _, weight in sorted((original or ours).items())]
    if len(convolutions) < 2:
        some = ", ".join(sorted(state)[:2])
        raise ValueError(f"{len(state)} tensors without a ControlNet's hint block ({some}, …)")
    if convolutions[0].shape[1] != 3:
        raise ValueError(f"one for maps of {convolutions[0].shape[1]} channels; need 3")
    return tuple(weight.shape[0] for weight in (convolutions[0], *convolutions[2:-1:2])), bool(
        original
    )


def _for_rgb_maps(control: ControlNet) -> ControlNet:
    if control.config.get("controlnet_conditioning_channel_order") == "bgr":
        with torch.no_grad():
            weight = control.controlnet_cond_embedding.conv_in.weight
            weight.copy_(weight.flip(1))  # axis 1: the map's channels
        control.config["controlnet_conditioning_channel_order"] = "rgb"
    return control


def _from_hub(name: str, option: str, offline: bool) -> Path:
    """The folder of a repository in the hub's cache, its files downloaded where they are absent."""
    from huggingface_hub import snapshot_download

    files = ["config.json", f"{STEM}{_TENSORS}", f"{STEM}.fp16{_TENSORS}"]
    nothing = f"{option} {name}: no folder here, and from the hub: "
    advice = "; give the folder of a run, of a ControlNetModel, or one file of weights"
    with refusing(lambda said: nothing + said + advice):
        folder = Path(snapshot_download(name, allow_patterns=files, local_files_only=offline))
        if weights_file(folder) is None:
            raise FileNotFoundError(f"no {STEM}{_TENSORS}")
    return folder
