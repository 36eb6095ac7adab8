"""One process of a `torchrun --nproc-per-node 2`, which writes down the rows and noise it saw."""

import json
import os
import sys

import torch

from controlnet.trainer import train as training
from controlnet.trainer.config import TrainConfig


def run(config, environment, said):
    """Train as `torchrun` would have this process do.

    Args:
        config: of the training, as a dictionary.
        environment: what `torchrun` says: RANK, WORLD_SIZE and the rest.
        said: path of a file for what goes to the standard error.
    """
    with open(said, "w") as file:
        os.dup2(file.fileno(), 2)
    os.environ |= environment
    torch.set_num_threads(1)
    seen, inputs_of = [], training.inputs_of

    def watched(batch, *arguments, **options):
        inputs = inputs_of(batch, *arguments, **options)
        seen.append([batch.keys, inputs.noise_BCHW.flatten(1)[:, :3].tolist()])
        return inputs

    training.inputs_of = watched
    outcome = training.train(TrainConfig(**config))
    with open(f"{config['output']}-{environment['RANK']}.json", "w") as file:
        json.dump(seen, file)
    sys.exit(0 if outcome.stopped_by is None else 128 + outcome.stopped_by)
