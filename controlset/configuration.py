"""Options from a YAML file, as values of the types that the options have."""

import difflib
import os
import reprlib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from annotators.options import AnnotateConfig
from schemas.errors import ConfigError

_MOST_BYTES = 1_000_000
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_NOT_TYPED = frozenset({"beam_args", "options"})  # fields that are no options
_RULES = {int: "a whole number", float: "a number", bool: "true or false"}


def option_kinds(kind: type) -> dict[str, Any]:
    """Option -> type of its value, of everything that a command can be asked.

    Args:
        kind: dataclass of the command's configuration; where annotators work, theirs come along.
    """
    hints = typing.get_type_hints(kind)
    kinds = {name: hints[name] for name in kind.__dataclass_fields__ if name not in _NOT_TYPED}
    if issubclass(kind, AnnotateConfig):
        from annotators.registry import all_options

        kinds |= {
            option.name: option.kind for options in all_options().values() for option in options
        }
    return kinds


def read_yaml(path: str, kind: type) -> dict[str, Any]:
    """Options of a file: name -> value.

    Args:
        path: YAML, a mapping of options; or the `config.json` of a run.
        kind: dataclass of the command's configuration.

    Raises:
        ConfigError: it cannot be read, or holds something that is no option, or no such value.
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
        document = {name: value for name, value in document.items() if value != []}
    kinds, values = option_kinds(kind), {}
    for said, value in document.items():
        name = str(said).replace("-", "_")
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"--config {path}: unknown option {name}{hint}")
        if value is None:
            continue  # as if it were not there
        try:
            values[name] = typed(kinds[name], value)
        except ValueError as rule:  # a value may be made of aliases, and endless if written out
            raise ConfigError(
                f"--config {path}: {name}: need {rule}, got {_SHORT.repr(value)}"
            ) from None
    return values


def typed(kind: Any, value: Any) -> Any:
    """A value out of YAML, or a word, as an option's type has it.

    Args:
        kind: of the option; `X | None` is taken as X.
        value: what was written.

    Raises:
        ValueError: it is none of that type; the text says what is needed.
    """
    if isinstance(kind, types.UnionType):
        (kind,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    origin = typing.get_origin(kind)
    if origin is tuple:
        return _several(typing.get_args(kind)[0], value)
    if isinstance(value, list | dict | tuple | set):
        raise ValueError("true or false" if kind is bool else "one value")
    if origin is Literal:
        choices = {str(choice): choice for choice in typing.get_args(kind)}
        if isinstance(value, bool) or str(value) not in choices:
            raise ValueError(choices_text(choices))
        return choices[str(value)]
    if kind is bool or isinstance(value, bool):
        words = {"true": True, "false": False}
        if kind is not bool or str(value).lower() not in words:
            raise ValueError(_RULES[bool] if kind is bool else _RULES.get(kind, "one value"))
        return words[str(value).lower()]
    try:
        return kind(str(value))
    except ValueError:
        raise ValueError(_RULES.get(kind, "another value")) from None


def choices_text(choices: Mapping[str, Any] | typing.Collection[str]) -> str:
    """Words as a list for reading: `crop, pad or stretch`."""
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last


def _several(kind: Any, value: Any) -> tuple[Any, ...]:
    values = [value] if isinstance(value, str | int | float) else value
    nested = isinstance(values, list) and any(isinstance(part, list | dict) for part in values)
    if isinstance(value, bool) or not isinstance(values, list) or nested:
        raise ValueError("names")
    return tuple(typed(kind, part) for part in values)
