"""What all trainings of small annotators share: drawn scenes in memory, and the loop."""

import dataclasses
import functools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from controlnet.nano.world import CLASSES, draw, make_scene, mirrored, short_caption

MOST_PEOPLE = 3

TRAIN_SEED, UNSEEN_SEED = 1, 2
"""Of the scenes that are learned, and of those that accuracy is measured on."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scenes:
    """Drawn scenes with their truth, N of them at H x W px."""

    rgb_NHWC: np.ndarray  # uint8
    nearness_NHW: np.ndarray  # float32: 1 / metres
    classes_NHW: np.ndarray  # uint8: index of CLASSES
    boundaries_NHW: np.ndarray  # bool
    joints_NPJ3: np.ndarray  # float32: x, y (px), visibility 0 to 2; -1 where there is no person
    captions: tuple[str, ...]  # short ones
    mirrored_captions: tuple[str, ...]  # of the mirror images

    def __len__(self) -> int:
        return len(self.rgb_NHWC)

    def chosen(self, numbers: np.ndarray) -> "Scenes":
        """Those scenes alone, by their numbers, (M,) int64."""
        return Scenes(
            rgb_NHWC=self.rgb_NHWC[numbers],
            nearness_NHW=self.nearness_NHW[numbers],
            classes_NHW=self.classes_NHW[numbers],
            boundaries_NHW=self.boundaries_NHW[numbers],
            joints_NPJ3=self.joints_NPJ3[numbers],
            captions=tuple(self.captions[number] for number in numbers),
            mirrored_captions=tuple(self.mirrored_captions[number] for number in numbers),
        )


def drawn_scenes(count: int, *, seed: int, processes: int = 2) -> Scenes:
    """Draw scenes 0 to count - 1 of a seed."""
    one = functools.partial(_drawn, seed)
    if processes == 1:
        columns = list(zip(*map(one, range(count)), strict=True))
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            drawn = tqdm(pool.imap(one, range(count), chunksize=50), "drawing", count)
            columns = list(zip(*drawn, strict=True))
    *arrays, captions, mirrored_captions = columns
    rgb, nearness, classes, boundaries, joints = (np.stack(column) for column in arrays)
    return Scenes(
        rgb_NHWC=rgb,
        nearness_NHW=nearness,
        classes_NHW=classes,
        boundaries_NHW=boundaries,
        joints_NPJ3=joints,
        captions=tuple(captions),
        mirrored_captions=tuple(mirrored_captions),
    )


def _drawn(seed: int, number: int) -> tuple[object, ...]:
    scene = make_scene(seed, number)
    drawn = draw(scene)
    joints_PJ3 = np.full((MOST_PEOPLE, 18, 3), -1, np.float32)
    for place, person in enumerate(drawn.people):
        joints_PJ3[place] = person.joints
    return (
        drawn.rgb,
        (1 / drawn.depth_m).astype(np.float32),
        drawn.classes,
        drawn.boundaries,
        joints_PJ3,
        short_caption(scene),
        short_caption(mirrored(scene)),
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What suits one annotator."""

    steps: int  # of the optimiser, unless told otherwise
    batch: int  # scenes a step
    peak: float  # highest learning rate; it rises over a twentieth of the steps and then falls


def learn(
    network: nn.Module,
    loss_of: Callable[[np.ndarray], Tensor],
    scenes: Scenes,
    config: TrainConfig,
    recipe: Recipe,
) -> None:
    """Train, and leave the averaged weights in the network.

    Args:
        network: changed in place.
        loss_of: numbers of a batch's scenes, (B,) int64 -> the mean loss.
        scenes: to learn from.
        config: seed of the order, and steps if not the recipe's.
        recipe: of this annotator.
    """
    steps = config.steps or recipe.steps
    rng = np.random.default_rng([config.seed, 4])
    learnable = [part for part in network.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(learnable, lr=recipe.peak, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.peak, total_steps=steps, pct_start=min(0.5, max(0.05, 2 / steps))
    )
    average = EMAModel(learnable, decay=0.998, use_ema_warmup=True, power=0.75)
    network.train()
    lately: list[float] = []
    bar = tqdm(_batches(rng, len(scenes), recipe.batch, steps), "training", steps)
    for numbers in bar:
        loss = loss_of(numbers)
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


def class_weights(scenes: Scenes) -> np.ndarray:
    """(classes,) float32: of the pixels in a loss, so that those of small things count.

    By the root of how rare a class is, 1 on average over all pixels: a shape has 1 to 2 % of them.
    """
    shares = (
        np.bincount(scenes.classes_NHW.ravel(), minlength=len(CLASSES)) / scenes.classes_NHW.size
    )
    weights = 1 / np.sqrt(np.maximum(shares, 1e-4))
    return (weights / (weights * shares).sum()).astype(np.float32)


def maybe_mirrored(rng: np.random.Generator, *arrays_BHW: np.ndarray) -> tuple[np.ndarray, ...]:
    """Pictures and what belongs to their pixels, all mirrored by one toss for the batch."""
    step = -1 if rng.random() < 0.5 else 1
    return tuple(np.ascontiguousarray(array[:, :, ::step]) for array in arrays_BHW)


def initialise(network: nn.Module) -> None:
    """First weights that keep the size of what passes through them, however narrow a layer is.

    Transformers begins with a standard deviation of 0.02 (BLIP's vision: 1e-10), which suits layers
    of 2,000 inputs: what passes through ours would all but vanish.
    """
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
        if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def save_tensors(state: Mapping[str, Tensor], path: Path, *, within: str | None = None) -> Path:
    """Write a `.pth` of tensors alone, under a name of their own if given; returns its path."""
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    torch.save(tensors if within is None else {within: tensors}, path)
    return path
