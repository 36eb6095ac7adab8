"""What all trainings of small annotators share: drawn scenes in memory, and the loop."""

import dataclasses
import functools
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from controlnet.nano.world import WORDINGS, caption, draw, make_scene

MOST_PEOPLE = 3

TRAIN_SEED, UNSEEN_SEED = 1, 2
"""Of the scenes that are learned, and of those that accuracy is measured on."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scenes:
    """Drawn scenes with their truth, N of them at H x W px."""

    rgb_NHWC: np.ndarray  # uint8
    nearness_NHW: np.ndarray  # float32: 1 / metres; 0 = the sky
    instances_NHW: np.ndarray  # uint8; 0 = nothing that stands
    classes_NHW: np.ndarray  # uint8: index of CLASSES
    normals_NHWC: np.ndarray  # int8: -127..127
    boundaries_NHW: np.ndarray  # bool
    joints_NPJ3: np.ndarray  # float32: x, y (px), visibility 0 to 2; -1 where there is no person
    captions: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.rgb_NHWC)


def drawn_scenes(count: int, *, seed: int, size_px: int = 64, processes: int = 2) -> Scenes:
    """Draw scenes 0 to count - 1 of a seed."""
    one = functools.partial(_drawn, seed, size_px)
    if processes == 1:
        columns = list(zip(*map(one, range(count)), strict=True))
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            drawn = tqdm(pool.imap(one, range(count), chunksize=50), "drawing", count)
            columns = list(zip(*drawn, strict=True))
    return Scenes(
        rgb_NHWC=np.stack(columns[0]),
        nearness_NHW=np.stack(columns[1]),
        instances_NHW=np.stack(columns[2]),
        classes_NHW=np.stack(columns[3]),
        normals_NHWC=np.stack(columns[4]),
        boundaries_NHW=np.stack(columns[5]),
        joints_NPJ3=np.stack(columns[6]),
        captions=tuple(columns[7]),
    )


def _drawn(seed: int, size_px: int, number: int) -> tuple[object, ...]:
    scene = make_scene(seed, number)
    drawn = draw(scene, size_px)
    joints_PJ3 = np.full((MOST_PEOPLE, 18, 3), -1, np.float32)
    for place, person in enumerate(drawn.people):
        joints_PJ3[place] = person.joints
    return (
        drawn.rgb,
        (1 / drawn.depth_m).astype(np.float32),
        drawn.instances,
        drawn.classes,
        np.rint(drawn.normals * 127).astype(np.int8),
        drawn.boundaries,
        joints_PJ3,
        tuple(caption(scene, wording) for wording in range(WORDINGS)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How one annotator is trained."""

    output: Path
    """Folder that gets the weights, beside those of the other annotators."""

    steps: int | None = None
    """Optimiser steps; by default the annotator's own number."""

    scenes: int = 20_000
    """Scenes to learn from."""

    seed: int = 0
    """Seed of weights and order."""


def learn(
    network: nn.Module,
    losses: Callable[[np.ndarray], Tensor],
    *,
    scenes: int,
    steps: int,
    batch: int,
    peak: float,
    seed: int,
) -> None:
    """Train, and leave the averaged weights in the network.

    Args:
        network: changed in place.
        losses: numbers of a batch's scenes, (B,) int64 -> the mean loss.
        scenes: how many there are.
        steps: of the optimiser.
        batch: scenes a step.
        peak: highest learning rate; it rises over a twentieth of the steps and then falls.
        seed: of the order.
    """
    rng = np.random.default_rng([seed, 4])
    learnable = [part for part in network.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(learnable, lr=peak, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak, total_steps=steps, pct_start=max(0.05, 2 / steps)
    )
    average = EMAModel(learnable, decay=0.998, use_ema_warmup=True, power=0.75)
    network.train()
    lately: list[float] = []
    bar = tqdm(_batches(rng, scenes, batch, steps), "training", steps)
    for numbers in bar:
        loss = losses(numbers)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learnable, 1.0)
        optimizer.step()
        schedule.step()
        average.step(learnable)
        lately.append(loss.item())
        if len(lately) == 50:
            bar.set_postfix(loss=f"{np.mean(lately):.4f}")
            lately.clear()
    average.copy_to(learnable)
    network.eval()


def _batches(rng: np.random.Generator, scenes: int, batch: int, steps: int) -> Iterator[np.ndarray]:
    order = np.zeros(0, np.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(scenes)])
        yield order[:batch]
        order = order[batch:]


def as_input(rgb_BHWC: np.ndarray) -> Tensor:
    """(B, 3, H, W) float32, 0..255, channels last."""
    return torch.from_numpy(np.ascontiguousarray(rgb_BHWC)).permute(0, 3, 1, 2).float()
