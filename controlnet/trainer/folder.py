"""The folder of a run: whose it is, and what stands in it.

RUN/config.json       resolved configuration, written before the first step
RUN/controlnet/       the result, a diffusers `ControlNetModel` folder
RUN/checkpoints/      see `checkpoint`
RUN/metrics.jsonl, probe.jsonl, samples/, curves.png, strips.png, summary.json
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from controlnet.trainer import checkpoint
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.devices import is_first_process
from schemas.documents import with_digest
from schemas.errors import ConfigError
from schemas.folder_lock import locked
from schemas.writing import clear_temporary, is_temporary, write_json, writing

CONFIG_NAME, SUMMARY_NAME, CONTROL_DIR = "config.json", "summary.json", "controlnet"


@contextlib.contextmanager
def claimed_output(config: TrainConfig) -> Iterator[Path | None]:
    """Hold the folder for one training; its first process locks it for all of them.

    Yields:
        What `claim_output` gives.

    Raises:
        ConfigError: as there; or another training writes there.
    """
    folder = Path(config.output)
    found = claim_output(config)  # a folder that is somebody else's is left alone
    if not is_first_process():
        yield found
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        yield claim_output(config)


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
    return folder.is_file() or any(not is_temporary(path.name) for path in folder.iterdir())


def write_config(config: TrainConfig, identity: Mapping[str, Any]) -> None:
    """Write what the run is, before its first step; what a killed run was writing goes."""
    folder = Path(config.output)
    clear_temporary(folder)
    checkpoint.clear_temporary(folder)
    document = {"config": dataclasses.asdict(config), "identity": dict(identity)}
    write_json(folder / CONFIG_NAME, with_digest(document))


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
