"""Poses: the body network of OpenPose, an eighth as wide."""

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from controlnet.nano.eyes.training import (
    Recipe,
    Scenes,
    TrainConfig,
    initialise,
    learn,
    save_tensors,
)
from controlnet.nano.world.people import SKELETON

RECIPE = Recipe(steps=3_600, batch=16, peak=2e-3)
STAGES = 6
_UNROLLED = ((2, 0.75), (3, 0.15), (STAGES, 0.1))  # stages, and the part of all steps
_EMPTY = 0.25  # part of the scenes without people that is learned from: they teach little
SEEN_PX = 184  # side of what the network sees, whatever the picture's size
_STRIDE = 8  # px of one cell of its answer
_SIGMA_PX = 7.0
_CELLS = SEEN_PX // _STRIDE

# Of each limb of the skeleton, its field's channel across; the next one is down.
_FIELDS = (12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36, 18, 26)

_FIELD_CHANNELS, _HEAT_CHANNELS = 38, 19
_SEEN = 16  # channels of what all stages see of the picture
# Of the first layers: name, channels out; None is a halving.
_TRUNK = (
    ("conv1_1", 8), ("conv1_2", 8), ("pool1_stage1", None),
    ("conv2_1", 16), ("conv2_2", 16), ("pool2_stage1", None),
    ("conv3_1", 32), ("conv3_2", 32), ("conv3_3", 32), ("conv3_4", 32), ("pool3_stage1", None),
    ("conv4_1", 64), ("conv4_2", 64), ("conv4_3_CPM", 32), ("conv4_4_CPM", _SEEN),
)  # fmt: skip


class BodyPose(nn.Module):
    """The arithmetic of controlnet-aux's `bodypose_model`, whose stages 2 to 6 are here one.

    They have the same form, and what makes an answer better once can do so again: there is a third
    as much to learn, and a training need not unroll all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for name, width in _TRUNK:
            if width is None:
                layers[name] = nn.MaxPool2d(2, 2)
                continue
            layers[name] = nn.Conv2d(channels, width, 3, padding=1)
            layers[f"relu_{name}"] = nn.ReLU()
            channels = width
        self.trunk = nn.Sequential(layers)
        answers = (_FIELD_CHANNELS, _HEAT_CHANNELS)
        self.first = nn.ModuleList(_first_stage(channels) for channels in answers)
        self.again = nn.ModuleList(_further_stage(channels) for channels in answers)

    def forward(self, bgr_BCHW: Tensor, stages: int = STAGES) -> list[tuple[Tensor, Tensor]]:
        """Fields and heat of the first stages, each (B, C, H / 8, W / 8).

        Args:
            bgr_BCHW: pictures in -0.5..0.5.
            stages: how many; the heat of the sixth is never below zero.
        """
        seen = self.trunk(bgr_BCHW)
        told, answers = seen, []
        for stage in range(1, stages + 1):
            fields, heat = (branch(told) for branch in (self.again if stage > 1 else self.first))
            if stage == STAGES:
                heat = functional.relu(heat)
            answers.append((fields, heat))
            told = torch.cat([fields, heat, seen], 1)
        return answers

    def released_state(self) -> dict[str, Tensor]:
        """All six stages, by the names of the released file."""
        state = dict(self.trunk.state_dict())
        for branch, (first, again) in enumerate(zip(self.first, self.again, strict=True), start=1):
            for name, value in first.state_dict().items():
                number, kind = name.split(".")
                state[f"conv5_{number}_CPM_L{branch}.{kind}"] = value
            # Made contiguous here, once: torch writes a tensor that has five names once.
            tensors = {name: value.contiguous() for name, value in again.state_dict().items()}
            for stage, (name, value) in itertools.product(range(2, STAGES + 1), tensors.items()):
                number, kind = name.split(".")
                state[f"Mconv{number}_stage{stage}_L{branch}.{kind}"] = value
        return state


def _first_stage(answers: int) -> nn.Sequential:
    return _stage(_SEEN, (_SEEN, _SEEN, _SEEN, 4 * _SEEN, answers), (3, 3, 3, 1, 1))


def _further_stage(answers: int) -> nn.Sequential:
    told = _FIELD_CHANNELS + _HEAT_CHANNELS + _SEEN
    return _stage(told, (*(_SEEN,) * 6, answers), (7, 7, 7, 7, 7, 1, 1))


def _stage(channels: int, widths: Sequence[int], sides_px: Sequence[int]) -> nn.Sequential:
    """Convolutions with a ReLU between each two."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (width, side_px) in enumerate(zip(widths, sides_px, strict=True), start=1):
        if number > 1:
            layers[f"relu{number}"] = nn.ReLU()
        layers[str(number)] = nn.Conv2d(channels, width, side_px, padding=side_px // 2)
        channels = width
    return nn.Sequential(layers)


def train(scenes: Scenes, config: TrainConfig) -> Path:
    """Train and write `body_pose_model.pth`; returns its path."""
    torch.manual_seed(config.seed)
    network = BodyPose().to(memory_format=torch.channels_last)
    initialise(network)
    for branch in (*network.first, *network.again):
        last = branch.get_submodule(str(len(branch) // 2 + 1))
        nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(last.bias, 0.02)  # the ReLU behind the last heat must be open
    scenes = scenes.chosen(_worth_learning(scenes))
    stages = _unrolled(config.steps or RECIPE.steps)

    def loss(numbers: np.ndarray) -> Tensor:
        fields, heat = _wanted(scenes, numbers)
        answers = network(_fed(scenes.rgb_NHWC[numbers]), next(stages))
        errors = [
            (field - fields).square().mean() + (warm - heat).square().mean()
            for field, warm in answers
        ]
        return 600 * torch.stack(errors).mean()  # of numbers that are nearly all zero

    learn(network, loss, scenes, config, RECIPE)
    return save_tensors(network.released_state(), config.output / "body_pose_model.pth")


def _worth_learning(scenes: Scenes) -> np.ndarray:
    """Numbers of all scenes with people, and of a part of the others."""
    peopled_N = (scenes.joints_NPJ3[..., 2] > 0).any(axis=(1, 2))
    empty = np.flatnonzero(~peopled_N)
    return np.concatenate([np.flatnonzero(peopled_N), empty[: round(_EMPTY * len(empty))]])


def _unrolled(steps: int) -> Iterator[int]:
    """How many stages each step trains: few, which is quick, and all six in the end."""
    for stages, part in _UNROLLED:
        yield from itertools.repeat(stages, round(part * steps))
    yield from itertools.repeat(STAGES)


def _fed(rgb_BHWC: np.ndarray) -> Tensor:
    """(B, 3, 184, 184) float32, BGR, -0.5..0.5: as controlnet-aux feeds it."""
    large = [
        cv2.resize(rgb[..., ::-1].copy(), (SEEN_PX, SEEN_PX), interpolation=cv2.INTER_LANCZOS4)
        for rgb in rgb_BHWC
    ]
    bgr_BCHW = torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2).float() / 256 - 0.5
    return bgr_BCHW.contiguous(memory_format=torch.channels_last)


def _wanted(scenes: Scenes, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
    """Fields (B, 38, 23, 23) and heat (B, 19, 23, 23) of the joints that are in the pictures."""
    scale = SEEN_PX / scenes.rgb_NHWC.shape[1]
    fields = np.zeros((len(numbers), _FIELD_CHANNELS, _CELLS, _CELLS), np.float32)
    heat = np.zeros((len(numbers), _HEAT_CHANNELS, _CELLS, _CELLS), np.float32)
    middle = (np.arange(_CELLS, dtype=np.float32) + 0.5) * _STRIDE - 0.5  # px of a cell
    for place, number in enumerate(numbers):
        limbs = np.zeros((len(SKELETON), _CELLS, _CELLS), np.float32)
        for person in scenes.joints_NPJ3[number]:
            there = person[:, 2] > 0
            at = (person[:, :2] + 0.5) * scale - 0.5
            for joint in np.flatnonzero(there):
                across = np.exp(-((middle - at[joint, 0]) ** 2) / (2 * _SIGMA_PX**2))
                down = np.exp(-((middle - at[joint, 1]) ** 2) / (2 * _SIGMA_PX**2))
                spot = heat[place, joint]
                np.maximum(spot, down[:, None] * across, out=spot)
            for limb, (start, end) in enumerate(SKELETON):
                if there[start] and there[end]:
                    _add_limb(fields[place], limbs[limb], _FIELDS[limb], at[start], at[end], middle)
        for limb, channel in enumerate(_FIELDS):
            fields[place, channel : channel + 2] /= np.maximum(limbs[limb], 1)
    heat[:, -1] = 1 - heat[:, :-1].max(axis=1)
    return torch.from_numpy(fields), torch.from_numpy(heat)


def _add_limb(
    fields: np.ndarray,
    people: np.ndarray,
    channel: int,
    start: np.ndarray,
    end: np.ndarray,
    middle: np.ndarray,
) -> None:
    """Add a limb's direction to the cells within one cell of it, and one to their number."""
    along = end - start
    length = float(np.hypot(*along))
    if length < 1e-3:
        return
    unit = along / length
    x, y = middle[None] - start[0], middle[:, None] - start[1]
    far = x * unit[0] + y * unit[1]
    aside = np.abs(x * unit[1] - y * unit[0])
    near = (far >= -_STRIDE / 2) & (far <= length + _STRIDE / 2) & (aside <= _STRIDE)
    fields[channel][near] += unit[0]
    fields[channel + 1][near] += unit[1]
    people[near] += 1
