"""Train a small annotator of the drawn world: `python -m controlnet.nano.eyes hed --output DIR`."""

import dataclasses
import time
from typing import Annotated, Literal

import torch
import tyro

from controlnet.nano.eyes import captions, depth, hed, pose, segmentation, softedge
from controlnet.nano.eyes.training import TRAIN_SEED, TrainConfig, drawn_scenes
from schemas.printable import say

_TRAININGS = {
    "depth": depth.train,
    "hed": hed.train,
    "pose": pose.train,
    "segmentation": segmentation.train,
    "softedge": softedge.train,
    "blip": captions.train,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Command:
    annotator: Annotated[
        Literal["depth", "hed", "pose", "segmentation", "softedge", "blip"], tyro.conf.Positional
    ]
    """Which one."""

    train: tyro.conf.OmitArgPrefixes[TrainConfig]


def main(command: _Command) -> None:
    """Draw, train, write; says how long it took."""
    torch.set_flush_denormal(True)
    started_s = time.monotonic()
    command.train.output.mkdir(parents=True, exist_ok=True)
    scenes = drawn_scenes(command.train.scenes, seed=TRAIN_SEED)
    path = _TRAININGS[command.annotator](scenes, command.train)
    say(f"done after {(time.monotonic() - started_s) / 60:.1f} min: {path}")


if __name__ == "__main__":
    main(tyro.cli(_Command, description=__doc__))
