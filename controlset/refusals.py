"""Refusals that need no torch, no Beam and no diffusers: what is missing is said within a second.

Importing those takes 5 to 14 seconds of a core. Only what is certain is refused here, before them;
everything is checked again, and more closely, by whoever uses it.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from annotators.options import AnnotateConfig
from controlnet import nano
from pipeline.config import GenerateConfig
from schemas.errors import ConfigError, need

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


def is_local(place: str) -> bool:
    """Whether it can only be a path of this machine: no bucket, no name on the hub."""
    if "://" in place:
        return False
    return _HUB_NAME.fullmatch(place) is None or os.path.isdir(place.split("/")[0])


def need_source(source: str) -> None:
    """Refuse pictures that are not there; globs and brace lists are left to who reads them.

    Raises:
        ConfigError: no such path, or a folder that may not be read.
    """
    path = source.removeprefix("file://")
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"{path}: need a folder that may be read, got permission denied")
    if "://" in path or _NOT_LITERAL.search(path) or not path or os.path.lexists(path):
        return
    raise ConfigError(f"{path}: need a path that exists, got none")


def need_conditions(options: AnnotateConfig) -> None:
    """Refuse names of conditions, and options of theirs, that no annotator has.

    Raises:
        ConfigError: as `specs_of`.
    """
    from annotators.registry import specs_of

    specs_of(options)


def need_output(output: str) -> None:
    """Refuse a folder for a data set in which something else lies.

    Raises:
        ConfigError: names what lies there.
    """
    folder = Path(output.removeprefix("file://"))
    if "://" in str(folder) or not folder.is_dir() or (folder / ".controlset").exists():
        return
    others = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if others:
        raise ConfigError(
            f"{output}: need an empty folder or a data set of controlset, "
            f"found {', '.join(others[:3])}; choose another --output"
        )


def need_recipe(config: GenerateConfig) -> None:
    """Refuse a finished data set that was made with other options; the rest is left to the run.

    Raises:
        ConfigError: names the options.
    """
    from schemas.documents import read_json
    from schemas.manifest import ADDING_DIR, MANIFEST_NAME, RECORDS_DIR

    folder = Path(config.output.removeprefix("file://"))
    identity = folder / RECORDS_DIR / "run.json"
    whole = (folder / MANIFEST_NAME).is_file() and identity.is_file()
    if config.overwrite or not whole or (folder / ADDING_DIR).exists():
        return
    theirs = read_json(identity, _MadeWith, advice="use --overwrite")["recipe"]
    ours = json.loads(json.dumps(config.recipe()))
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
    """Refuse what is no data set, or has not the condition.

    Raises:
        ConfigError: names what it has.
    """
    if "://" in place:
        return
    from schemas.dataset import open_dataset

    found = open_dataset(place).manifest.annotators
    if condition is not None and condition not in found:
        raise ConfigError(
            f"{place}: need the condition {condition!r}, found {', '.join(found)}; "
            f"run `controlset add {place} --conditions {condition}`"
        )


def need_paths(flag: str, places: Iterable[str | os.PathLike[str] | None], what: str) -> None:
    """Refuse paths that do not exist; a name on the hub, or a bucket, may.

    Args:
        flag: e.g. `--run`.
        places: None is an option that was not given.
        what: e.g. "the folder of a run".

    Raises:
        ConfigError: names the first.
    """
    for place in filter(None, places):
        if is_local(str(place)) and not os.path.exists(place):
            raise ConfigError(f"{flag} {place}: need {what}, got no such file or folder")


def need_models(options: Any) -> None:
    """Refuse models and files that a command names and that are not there.

    Args:
        options: of any command; what it does not have is not looked for.

    Raises:
        ConfigError: names the first.
    """
    for name, what in _MODELS.items():
        place = getattr(options, name, None)
        if isinstance(place, str) and place != nano.NAME:  # `--clip` of `train` is a number
            need_paths(f"--{name.replace('_', '-')}", [place], what)


def need_runs(runs: Sequence[str]) -> None:
    """Refuse runs that are not there."""
    need_paths("--run", runs, "the folder of a run or a ControlNetModel folder")


def need_workers(number: int | None) -> None:
    """Refuse a `--num-workers` that several commands have.

    Raises:
        ConfigError: less than one.
    """
    need(number is None or number >= 1, "--num-workers", "1 or more", number)


def need_new(output: Path) -> None:
    """Refuse to make what exists.

    Raises:
        ConfigError: it does, or its folder does not.
    """
    if not output.parent.is_dir():
        raise ConfigError(f"{output}: need a place in a folder that exists; make {output.parent}")
    if output.exists() or output.is_symlink():
        raise ConfigError(f"{output}: exists already; take another --output, or delete it")
