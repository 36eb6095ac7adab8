"""The folder of a run: whose it is, and what stands in it.

RUN/config.json       resolved configuration, written before the first step
RUN/controlnet/       the result, a diffusers `ControlNetModel` folder
RUN/checkpoints/      see `checkpoint`
RUN/metrics.jsonl, probe.jsonl, samples/, curves.png, strips.png, summary.json
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controlnet.trainer import checkpoint
from controlnet.trainer.config import TrainConfig
from schemas.errors import ConfigError

CONFIG_NAME, SUMMARY_NAME, CONTROL_DIR = "config.json", "summary.json", "controlnet"
_CONFIG_TEMPORARY = f".{CONFIG_NAME}.tmp"


def claim_output(config: TrainConfig) -> Path | None:
    """Refuse a folder that holds something else; find what to go on from.

    Returns:
        The checkpoint to resume from; None starts anew.
    """
    folder = Path(config.output)
    if not _holds_something(folder):
        if config.resume:
            raise ConfigError(
                f"{folder}: need a run to resume, found none; leave --resume out to start one"
            )
        return None
    if not (folder / CONFIG_NAME).is_file():
        raise ConfigError(
            f"{folder}: need an empty folder or a run, got something else; take another --output"
        )
    if not config.resume:
        raise ConfigError(
            f"{folder}: holds a run already; go on with --resume, or take another --output"
        )
    return checkpoint.last_checkpoint(folder)


def _holds_something(folder: Path) -> bool:
    """Whether more stands there than what a run leaves that was killed before its first file."""
    if not folder.exists():
        return False
    return folder.is_file() or any(path.name != _CONFIG_TEMPORARY for path in folder.iterdir())


def write_config(config: TrainConfig, identity: Mapping[str, Any]) -> None:
    """Write what the run is, before its first step; what a killed run was writing goes."""
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.clear_temporary(folder)
    document = {"config": dataclasses.asdict(config), "identity": dict(identity)}
    temporary = folder / _CONFIG_TEMPORARY
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(temporary, folder / CONFIG_NAME)


def same_run(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with options that would change the run.

    Args:
        before: identity in the checkpoint.
        now: identity of the present command.
        folder: for the error.

    Raises:
        ConfigError: names every difference.
    """
    changed = sorted(
        f"{name} {before.get(name)!r} -> {value!r}"
        for name, value in json.loads(json.dumps(now)).items()
        if before.get(name) != value
    )
    if changed:
        raise ConfigError(
            f"{folder}: need the options that the run was started with, got "
            f"{'; '.join(changed)}; use those, or another --output"
        )
