"""Options from a YAML file: read, checked, and handed on as if they had been typed."""

import dataclasses
import difflib
import os
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError

_MOST_BYTES = 1_000_000
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2


def as_flags(values: Mapping[str, Any], *, but: Sequence[str], kind: type) -> list[str]:
    """Options of a file as a command line would give them, without those that it does give.

    Args:
        values: option name -> value.
        but: a command line; what it gives is left out.
        kind: dataclass of the options: a switch that is on by default has a `--no-` flag.
    """
    on = {field.name for field in dataclasses.fields(kind) if field.default is True}
    given = {argument.split("=")[0].replace("_", "-") for argument in but}
    given |= {f"--{flag[5:]}" for flag in given if flag.startswith("--no-")}
    flags: list[str] = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "source" or flag in given or value is None:
            continue
        if isinstance(value, list):
            flags += [flag, *map(str, value)]
        elif isinstance(value, bool):
            if value != (name in on):
                flags.append(flag if value else f"--no-{flag[2:]}")
        else:
            flags.append(f"{flag}={value}")
    return flags


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """What a command line gives as a flag's value; None: it does not have the flag."""
    for number, argument in enumerate(arguments):
        if argument == flag and number + 1 < len(arguments):
            return arguments[number + 1]
        if argument.startswith(f"{flag}="):
            return argument.split("=", 1)[1]
    return None


def read_yaml(path: str, kind: type) -> Mapping[str, Any]:
    """Options of a file, checked as far as a file alone can be wrong.

    Args:
        path: YAML, a mapping of options; or the `config.json` of a run.
        kind: dataclass of the options.

    Raises:
        ConfigError: it cannot be read, or holds something that is no option.
    """
    import yaml

    try:
        size_bytes = os.stat(path).st_size
        if size_bytes > _MOST_BYTES:
            raise ConfigError(
                f"--config {path}: need YAML of 1 MB or less, got {size_bytes:,} bytes"
            )
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: need a file that can be read, got {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--config {path}: need YAML, got {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(
            f"--config {path}: need a mapping of options, got {_SHORT.repr(document)}"
        )
    if isinstance(document.get("config"), dict):
        document = document["config"]  # the config.json of a run
        document = {name: value for name, value in document.items() if value not in (None, [])}
    values = {str(name).replace("-", "_"): value for name, value in document.items()}
    kinds = {field.name: field.type for field in dataclasses.fields(kind)}
    for name, value in values.items():
        if name not in kinds or name == "beam_args":
            near = difflib.get_close_matches(name, kinds.keys() - {"beam_args"}, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"--config {path}: unknown option {name}{hint}")
        rule = _misfit(kinds[name], value, several=name in {"conditions", "pose", "trust_model"})
        if rule is not None:  # a value may be made of aliases, and endless if it is written out
            raise ConfigError(f"--config {path}: {name}: need {rule}, got {_SHORT.repr(value)}")
    return values


def _misfit(kind: object, value: object, *, several: bool) -> str | None:
    """What a value of a file should be, if its very form is wrong; the rest is checked as typed."""
    if kind is bool:
        return None if isinstance(value, bool | None) else "true or false"
    nested = isinstance(value, list) and any(isinstance(one, list | dict) for one in value)
    if isinstance(value, bool | dict) or nested or (isinstance(value, list) and not several):
        return "names" if several else "one value"
    return None
