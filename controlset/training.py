"""`controlset train` as a function: the judge is chosen here, since learning never annotates."""

import dataclasses

from annotators.runtime import Runtime
from controlnet import nano
from controlnet.trainer import train as training
from controlnet.trainer.config import TrainConfig
from controlset.judging import judge_of


def train(config: TrainConfig) -> training.Outcome:
    """Train a ControlNet; probes are judged by the annotator that drew the data set's maps.

    Args:
        config: everything; `nano` is the bundled base.

    Returns:
        How it ended. The result is in `output/controlnet`.

    Raises:
        ConfigError: something is wrong with data, base or output.
    """
    judge = None
    if config.probe_every:
        judge = judge_of(config.data, config.condition, Runtime(), trusted=config.trust_model)
    if config.base == nano.NAME:
        config = dataclasses.replace(config, base=str(nano.base_folder()))
    return training.train(config, judge=judge)
