"""Refusals that need no torch, no Beam and no diffusers: what is missing is said within a second.

Importing those takes 5 to 14 seconds of a core. Only what is certain is refused here, before them,
with a ConfigError; everything is checked again, and more closely, by whoever uses it. Functions
that check all of a command come first; the command line and Python's functions both call them.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from annotators.options import AnnotateConfig
from controlnet import nano
from controlnet.evaluator.config import EvaluateConfig
from controlnet.trainer.config import TrainConfig
from pipeline.config import AddConfig, GenerateConfig
from schemas.errors import ConfigError, flag_of, need

if TYPE_CHECKING:
    from controlset.commands.sample import SampleConfig

_NOT_LITERAL = re.compile(r"[*?\[{]")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

_MODELS = {
    "base": "a base in diffusers' format",
    "vae": "a VAE in diffusers' format",
    "base_lora": "a .safetensors file with a LoRA",
    "init": "a run or a ControlNet",
    "exclude_keys": "a text file of keys",
    "inception": "a file with Inception weights",
    "clip": "a CLIP model in transformers' format",
    "lpips": "a folder with LPIPS weights",
}
"""Options that name models or files, in whichever command has them, and what they name."""


class _MadeWith(TypedDict):
    recipe: dict[str, Any]


def check_generate(config: GenerateConfig) -> None:
    """Refuse conditions, a source, an output, or a data set made with other options."""
    need_conditions(config)
    need_source(config.source)
    _need_output(config.output)
    _need_recipe(config)


def checked_add(config: AddConfig) -> AddConfig:
    """Refuse a data set, conditions or a base; the same configuration comes back."""
    # With the bundled base as a folder: `pipeline` knows nothing of it.
    if config.latents == nano.NAME:
        config = dataclasses.replace(config, latents=str(nano.base_folder()))
    need_dataset(config.output)
    need_conditions(config.with_seed_of({}))
    need_paths("--latents", [config.latents], "a base in diffusers' format")
    return config


def check_train(config: TrainConfig) -> None:
    """Refuse a data set, or a model or file."""
    need_dataset(config.data, config.condition)
    _need_models(config)


def check_evaluate(config: EvaluateConfig) -> None:
    """Refuse a run, a model or file, or a data set."""
    _need_runs(config.run)
    _need_models(config)
    need_dataset(config.data, config.condition)


def check_sample(config: "SampleConfig") -> None:
    """Refuse a run, a model, or a picture."""
    _need_runs(config.run)
    _need_models(config)
    need_paths("--hint", config.hint, "a picture")
    need_paths("--init-image", [config.init_image], "a picture")
    need_paths("--mask", [config.mask], "a picture")


def check_export(run: str | os.PathLike[str], output: Path) -> None:
    """Refuse a run, an output that exists, or one in a folder that does not."""
    if not output.parent.is_dir():
        raise ConfigError(f"{output}: need a place in a folder that exists; make {output.parent}")
    if output.exists() or output.is_symlink():
        raise ConfigError(f"{output}: exists already; take another --output, or delete it")
    need_paths("RUN", [run], "a run or a ControlNetModel folder")


def check_inspect(data: str, sample: int | None, workers: int | None) -> None:
    """Refuse a number of images or threads, or a data set."""
    need(sample is None or sample >= 1, "--sample", "1 or more", sample)
    _need_workers(workers)
    need_dataset(data)


def check_verify(data: str, audit: float, workers: int | None) -> None:
    """Refuse a share of rows, a number of threads, or a data set."""
    need(0 <= audit <= 1, "--audit", "a fraction from 0 to 1", audit)
    _need_workers(workers)
    need_dataset(data)


def _is_local(place: str) -> bool:
    """Whether it can only be a path of this machine: no bucket, no name on the hub."""
    if "://" in place:
        return False
    # `runs/first` may be a name on the hub, too; but not where there is a folder `runs`.
    return _HUB_NAME.fullmatch(place) is None or os.path.isdir(place.split("/")[0])


def need_own_files() -> None:
    """Refuse a umask under which not even the owner could use what is made.

    The command line changes its own (`controlset.cli`); that of a Python process is its user's.
    """
    os.umask(umask := os.umask(0o077))  # there is no other way to read it
    if umask & 0o700:
        raise ConfigError(
            f"umask {umask:03o}: need one that lets you use the files that you make, e.g. 022; "
            "call os.umask(0o022) before"
        )


def need_source(source: str) -> None:
    """Refuse pictures that are not there; globs and brace lists are left to who reads them."""
    path = source.removeprefix("file://")
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"{path}: need a folder that may be read, got permission denied")
    # Only what is taken literally; of a broken link there is a path, too, and it is told later.
    if "://" in path or _NOT_LITERAL.search(path) or not path or os.path.lexists(path):
        return
    raise ConfigError(f"{path}: need a path that exists, got none")


def need_conditions(options: AnnotateConfig) -> None:
    """Refuse names of conditions, and options of theirs, that no annotator has."""
    from annotators.registry import specs_of

    specs_of(options)


def _need_output(output: str) -> None:
    """Refuse a folder for a data set in which something else lies."""
    folder = Path(output.removeprefix("file://"))
    if "://" in str(folder) or not folder.is_dir() or (folder / ".controlset").exists():
        return
    # A hidden file alone (.DS_Store, .gitkeep) is no work of anybody.
    others = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if others:
        raise ConfigError(
            f"{output}: need an empty folder or a data set of controlset, "
            f"found {', '.join(others[:3])}; choose another --output"
        )


def _need_recipe(config: GenerateConfig) -> None:
    """Refuse a finished data set that was made with other options; the rest is left to the run."""
    from schemas.documents import read_json
    from schemas.manifest import ADDING_DIR, MANIFEST_NAME, RECORDS_DIR

    folder = Path(config.output.removeprefix("file://"))
    identity = folder / RECORDS_DIR / "run.json"
    whole = (folder / MANIFEST_NAME).is_file() and identity.is_file()
    if config.overwrite or not whole or (folder / ADDING_DIR).exists():
        return
    theirs = read_json(identity, _MadeWith, advice="use --overwrite")["recipe"]
    ours = json.loads(json.dumps(config.recipe()))  # as JSON has it: lists for tuples
    other = [
        f"{name}={value} (now {ours[name]})"
        for name, value in sorted(theirs.items())
        if name in ours and ours[name] != value
    ]
    if other:
        raise ConfigError(
            f"{config.output}: holds a data set made with {'; '.join(other)}; "
            "choose another --output, or delete it with --overwrite"
        )


def need_dataset(place: str, condition: str | None = None) -> None:
    """Refuse what is no data set, or has not the condition."""
    if "://" in place:
        return  # a store may take seconds to answer
    from schemas.dataset import open_dataset

    found = open_dataset(place).manifest.annotators
    if condition is not None and condition not in found:
        raise no_condition(place, condition, found)


def no_condition(place: str, condition: str, found: Iterable[str]) -> ConfigError:
    """The error for a condition that a data set has not."""
    return ConfigError(
        f"{place}: need the condition {condition!r}, found {', '.join(found) or 'none'}; "
        f"run `controlset add {place} --conditions {condition}`"
    )


def need_paths(flag: str, places: Iterable[str | os.PathLike[str] | None], what: str) -> None:
    """Refuse paths that do not exist; a name on the hub, or a bucket, may.

    Args:
        flag: e.g. `--run`.
        places: None is an option that was not given.
        what: e.g. "the folder of a run".
    """
    for place in filter(None, places):
        if _is_local(str(place)) and not os.path.exists(place):
            raise ConfigError(f"{flag} {place}: need {what}, got no such file or folder")


def _need_models(options: Any) -> None:
    """Refuse models and files that are not there; `options` may be those of any command."""
    for name, what in _MODELS.items():
        place = getattr(options, name, None)
        if isinstance(place, str) and place != nano.NAME:  # `--clip` of `train` is a number
            need_paths(flag_of(name), [place], what)


def _need_runs(runs: Sequence[str]) -> None:
    need_paths("--run", runs, "the folder of a run or a ControlNetModel folder")


def _need_workers(number: int | None) -> None:
    need(number is None or number >= 1, "--num-workers", "1 or more", number)
