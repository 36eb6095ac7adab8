"""Random weights of controlnet-aux's networks, in the files and formats of the released ones.

Scaled so that every layer keeps the size of what passes through it: maps are then neither flat nor
saturated, and a difference anywhere in a network reaches its map.
"""

import functools
import types
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from annotators.conditions.lineart import LINEART, LINEART_ANIME, LINEART_COARSE
from annotators.conditions.mlsd import MLSD
from annotators.conditions.normal import NORMAL
from annotators.conditions.pose.openpose import OPENPOSE_BODY, OPENPOSE_FACE, OPENPOSE_HAND
from annotators.conditions.soft_edges import HED, PIDINET
from annotators.network import reference
from annotators.weights import Weights
from controlnet.nano.eyes.pose import BodyPose

State = Mapping[str, Any]


def write(folder: Path, *conditions: str, seed: int = 0) -> Path:
    """Write random weights for conditions, and return the folder.

    Args:
        folder: for `Runtime(weights=...)` and the detectors' `from_pretrained`.
        conditions: e.g. "hed"; none: all.
        seed: of the weights.
    """
    import torch

    for condition in conditions or tuple(FILES):
        for weights, make in FILES[condition]:
            assert weights.file is not None
            torch.manual_seed(seed)
            torch.save(make(), folder / weights.file)
    return folder


def randomised(network: Any, gain: float = 1.0) -> State:
    """A network's state: He-initialised, with living biases and running statistics."""
    import torch
    from torch import nn

    convolutions = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    for module in network.modules():
        if isinstance(module, convolutions) or type(module).__name__ == "Conv2d":
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            module.weight.data.mul_(gain)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.05)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.state_dict()


def hed() -> State:
    import torch

    network = reference("hed").ControlNetHED_Apache2()
    state = dict(randomised(network))
    state["norm"] = torch.tensor([120.0, 115.0, 105.0]).view(1, 3, 1, 1)
    for name in state:
        if "projection.weight" in name:
            state[name] = state[name] * 0.02  # logits of a few units, out of pixels of hundreds
    return state


def pidinet() -> State:
    state = dict(randomised(reference("pidi.model").pidinet(), gain=0.7))
    state["classifier.weight"] = state["classifier.weight"] * 8
    return {"state_dict": {f"module.{name}": one for name, one in state.items()}}


def lineart() -> State:
    return randomised(reference("lineart").Generator(3, 1, 3), gain=0.5)


def lineart_coarse() -> State:
    import torch

    torch.manual_seed(torch.initial_seed() + 1)
    return lineart()


def lineart_anime() -> State:
    from torch.nn import InstanceNorm2d

    norm = functools.partial(InstanceNorm2d, affine=False, track_running_stats=False)
    network = reference("lineart_anime").UnetGenerator(3, 1, 8, 64, norm_layer=norm)
    return {f"module.{name}": one for name, one in randomised(network, gain=0.3).items()}


def mlsd() -> State:
    state = dict(randomised(reference("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()))
    # Of 16 channels 7 is the centre, 8 to 11 are displacements. Without a mean, as what comes in is
    # not negative, or every line would lie to the right and below.
    last = state["block23.conv3.weight"]
    last -= last.mean(dim=1, keepdim=True)
    last[7] *= 0.5
    state["block23.conv3.bias"][7] = 3
    return state


def normal() -> State:
    decoder = types.SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its EfficientNet is a copy of an old package
        return {"model": randomised(reference("normalbae.nets.NNET").NNET(decoder))}


def openpose_body() -> State:
    return _without_blocks(_openpose("open_pose.model").bodypose_model())


def narrow_pose() -> BodyPose:
    """A body network an eighth as wide: a look takes 50 ms and not a second."""
    import torch

    torch.manual_seed(0)
    network = BodyPose()
    randomised(network, gain=0.7)
    return network


def write_narrow_pose(folder: Path) -> Path:
    """Write `narrow_pose` in the released file's form, and return the folder."""
    import torch

    torch.save(narrow_pose().released_state(), folder / str(OPENPOSE_BODY.file))
    return folder


def openpose_hand() -> State:
    return _without_blocks(_openpose("open_pose.model").handpose_model())


def openpose_face() -> State:
    return randomised(_openpose("open_pose.face").FaceNet())


def _openpose(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy moved what it imports
        return reference(module)


def _without_blocks(network: Any) -> State:
    """The released files name tensors without the block that they stand in."""
    state = randomised(network, gain=0.8)
    return {name.split(".", 1)[1]: one for name, one in state.items()}


# Condition -> its weights and who makes them.
FILES: Mapping[str, tuple[tuple[Weights, Callable[[], State]], ...]] = {
    "hed": ((HED, hed),),
    "softedge": ((PIDINET, pidinet),),
    "lineart": ((LINEART, lineart), (LINEART_COARSE, lineart_coarse)),
    "lineart_anime": ((LINEART_ANIME, lineart_anime),),
    "mlsd": ((MLSD, mlsd),),
    "normal": ((NORMAL, normal),),
    "pose": (
        (OPENPOSE_BODY, openpose_body),
        (OPENPOSE_HAND, openpose_hand),
        (OPENPOSE_FACE, openpose_face),
    ),
}
