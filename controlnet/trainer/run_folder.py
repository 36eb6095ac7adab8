"""The folder of a run: whose it is, and what stands in it.

RUN/config.json       resolved configuration, written before the first step
RUN/controlnet/       the result, a diffusers `ControlNetModel` folder
RUN/checkpoints/      see `checkpoint`
RUN/metrics.jsonl, probe.jsonl, samples/, curves.png, strips.png, summary.json
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from controlnet import nano
from controlnet.trainer import checkpoint
from controlnet.trainer.checkpoint import Found
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.devices import is_first_process
from controlnet.trainer.inputs import need_output
from controlnet.trainer.probe import Bounds
from schemas.documents import as_record, read_checked, with_digest
from schemas.errors import ConfigError
from schemas.files import clear_temporary, file_digest, held, write_json

CONFIG_NAME, SUMMARY_NAME, CONTROL_DIR = "config.json", "summary.json", "controlnet"
RESULT_FILES = (f"{CONTROL_DIR}/config.json", f"{CONTROL_DIR}/{checkpoint.WEIGHTS}")


@contextlib.contextmanager
def held_output(config: TrainConfig) -> Iterator[Found]:
    """Hold the folder for one training; its first process locks it for all of them.

    Yields:
        What `found_in_output` gives.

    Raises:
        ConfigError: as there; or another training writes there.
    """
    folder = Path(config.output)
    found = found_in_output(config)  # a folder that is somebody else's is left alone
    if not is_first_process():
        yield found
        return
    with held(folder):  # looked at again: whoever held it may have trained meanwhile
        yield found_in_output(config)


def found_in_output(config: TrainConfig) -> Found:
    """Refuse a folder that holds something else; find what to go on from.

    Returns:
        The checkpoint to resume from, or none: then the run starts anew.
    """
    begun = need_output(config)
    return checkpoint.find_checkpoint(Path(config.output)) if begun else Found(newest=None)


def write_config(
    config: TrainConfig, identity: Mapping[str, Any], changes: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write what the run is, before its first step; what a killed run was writing goes.

    Args:
        config: of the command.
        identity: see `same_run`.
        changes: what is other than when the run was started, and since which step.
    """
    folder = Path(config.output)
    clear_temporary(folder)
    checkpoint.clear_temporary(folder)
    document = {
        "config": _placed(config),
        "identity": dict(identity),
        "changes": [*read_record(folder / CONFIG_NAME).get("changes", ()), *changes],
    }
    write_json(folder / CONFIG_NAME, with_digest(document))


def _placed(config: TrainConfig) -> dict[str, Any]:
    """The configuration with paths that mean the same from any folder."""
    values = dataclasses.asdict(config)
    for name in ("data", "output", "init", "exclude_keys", "base"):
        value = values[name]
        here = value is not None and "://" not in value
        if here and (name != "base" or os.path.exists(value)):
            values[name] = os.path.abspath(value)
    if config.base in {nano.NAME, str(nano.base_folder())}:
        values["base"] = nano.NAME
    return values


class Record(TypedDict, total=False):
    """What others read of `config.json` and `summary.json`; more may stand there."""

    config: dict[str, Any]
    changes: list[dict[str, Any]]
    step: int
    stopped_by: int | None
    seconds: float
    samples_per_s: float
    loss: float | None
    adherence: float | None
    bounds: Bounds | None
    snap: int | None
    files: dict[str, str]


def read_record(path: Path) -> dict[str, Any]:
    """A run's `config.json` or `summary.json`; nothing where there is none.

    Raises:
        ConfigError: it is damaged, of something else, or cannot be read.
    """
    try:
        path.lstat()  # a link that leads nowhere is no missing file
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: need a file that can be read, got {error}") from error
    document: dict[str, Any] = read_checked(path, dict)
    as_record(document, cast("type[Any]", Record), where=str(path))
    if path.name == SUMMARY_NAME and "step" not in document:
        raise ConfigError(
            f"{path}: need the summary of a run, got something else; go on with --resume"
        )
    # All others are only shown; by this one a model is loaded.
    base = document.get("config", {}).get("base")
    if not isinstance(base, str | None):
        raise ConfigError(f"{path}: need the name of a base, got {base!r}")
    return document


def result_files(folder: Path) -> dict[str, str]:
    """Path -> sha256 of the files that are a run's result, for its summary."""
    return {name: file_digest(folder / name) for name in RESULT_FILES}


def check_result(folder: Path) -> None:
    """Refuse a run whose network is not the one that training wrote.

    Args:
        folder: of a run; without a summary, or with one of an older release, it is taken as it is.

    Raises:
        ConfigError: the network was changed, or the summary is damaged.
    """
    expected = read_record(folder / SUMMARY_NAME).get("files", {})
    for name in RESULT_FILES:
        path = folder / name
        whole = path.is_file() and file_digest(path) == expected.get(name)
        if name in expected and not whole:  # older summaries name no files
            raise ConfigError(
                f"{path}: need the file that training wrote, got one that was changed since; go on "
                f"with --resume, take a checkpoint, or name {path.parent} to use it as it is"
            )


def same_run(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Refuse to go on with options that would change the run.

    Rows may be left out, and the learning rate may fall: what a run needs whose loss is not finite.

    Args:
        before: identity in the checkpoint.
        now: identity of the present command.
        folder: for the error.

    Returns:
        What is other, and may be: name -> [before, now].

    Raises:
        ConfigError: names every difference that may not be.
    """
    # Through JSON, as the checkpoint's was: a tuple comes back as a list.
    others = {
        name: [before.get(name), value]
        for name, value in json.loads(json.dumps(now)).items()
        if before.get(name) != value
    }
    allowed = {name: pair for name, pair in others.items() if _may_change(name, *pair)}
    # Runs of an older release name no excluded rows, and bases and initial weights otherwise.
    if "excluded" not in before and others.keys() & {"base", "init"}:
        raise ConfigError(
            f"{folder}: need a run that names its base and initial weights as this release does, "
            "got one of an older release; if --base and --init are its own, take another --output "
            f"and begin with --init {folder}"
        )
    changed = sorted(
        f"{name} {was!r} -> {value!r}"
        for name, (was, value) in others.items()
        if name not in allowed
    )
    if changed:
        raise ConfigError(
            f"{folder}: need the options that the run was started with, got "
            f"{'; '.join(changed)}; use those, or another --output"
        )
    return allowed


def _may_change(name: str, before: Any, now: Any) -> bool:
    if name == "learning_rate":
        return isinstance(before, int | float) and now < before
    return name == "excluded"
