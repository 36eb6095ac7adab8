"""The flex template: its parameters are the options of `controlset generate`, and cannot drift.

`python -m pipeline.flex` prints docker/flex/metadata.json; `arguments_of` turns the parameters that
Dataflow hands to the launcher back into a command line.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pipeline.options import GenerateConfig
from schemas.printable import say

_NOT_PARAMETERS = frozenset({"dry_run", "beam_args", "num_workers"})
"""Of the terminal, of Beam, and of the job's environment (Dataflow's own numWorkers)."""

_DESCRIPTION = (
    "Turn images into sharded Parquet of images, captions and condition maps, to train ControlNets "
    "on. Launched again with the same parameters it goes on where it stopped."
)


def metadata() -> dict[str, Any]:
    """The template's metadata, as `google.cloud.dataflow_v1beta3.TemplateMetadata` in JSON."""
    return {
        "name": "controlset generate",
        "description": _DESCRIPTION,
        "streaming": False,
        "parameters": [_parameter(field) for field in _fields()],
    }


def arguments_of(parameters: Sequence[str]) -> list[str]:
    """A command line of `controlset generate` from what the launcher passes to the main file.

    Args:
        parameters: `--name=value`, names as in the metadata; the others are Beam's options.

    Returns:
        The source first; lists as separate words, switches as flags; Beam's options as they came.
    """
    known = {field.name: field for field in _fields()}
    source, arguments = [], []
    for parameter in parameters:
        name, _, value = parameter.removeprefix("--").partition("=")
        if name not in known:
            arguments.append(parameter)
        elif name == "source":
            source.append(value)
        elif value:
            arguments += _flags(known[name], value)
    return [*source, *arguments]


def _flags(field: "dataclasses.Field[Any]", value: str) -> list[str]:
    option = field.name.replace("_", "-")
    kind = _kind(field)
    if kind is bool:
        return [f"--{option}"] if value.lower() == "true" else []  # all of them are off by default
    if typing.get_origin(kind) is tuple:
        return [f"--{option}", *value.replace(",", " ").split()]
    return [f"--{option}={value}"]


def _fields() -> Iterator["dataclasses.Field[Any]"]:
    """Options in the order of importance: what must be given first."""
    fields = [one for one in dataclasses.fields(GenerateConfig) if one.name not in _NOT_PARAMETERS]
    yield from sorted(fields, key=lambda field: not _is_required(field))


def _parameter(field: "dataclasses.Field[Any]") -> dict[str, Any]:
    kind = _kind(field)
    parameter: dict[str, Any] = {
        "name": field.name,
        "label": field.name.replace("_", " ").capitalize(),
        "helpText": _help()[field.name],
        "isOptional": not _is_required(field),
        "paramType": _type_of(kind),
    }
    if typing.get_origin(kind) is Literal:
        values = [str(value) for value in typing.get_args(kind)]
        parameter["enumOptions"] = [{"value": value, "label": value} for value in values]
    if field.name == "output":
        parameter |= {"paramType": "GCS_WRITE_FOLDER", "regexes": ["^gs://.+"]}
    if field.default not in (dataclasses.MISSING, None, ()):
        plain = field.default
        parameter["defaultValue"] = str(plain).lower() if kind is bool else str(plain)
    return parameter


def _type_of(kind: object) -> str:
    if typing.get_origin(kind) is Literal:
        return "ENUM"
    names: Mapping[object, str] = {bool: "BOOLEAN", int: "NUMBER", float: "NUMBER"}
    return names.get(kind, "TEXT")


def _kind(field: "dataclasses.Field[Any]") -> Any:
    """The field's type without `None`."""
    kind = typing.get_type_hints(GenerateConfig)[field.name]
    if isinstance(kind, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not types.NoneType)
    return kind


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _help() -> dict[str, str]:
    """Option -> its docstring, on one line."""
    import docstring_parser  # of the development environment

    return {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for kind in reversed(GenerateConfig.__mro__[:-1])
        for parameter in docstring_parser.parse_from_object(kind).params
    }


if __name__ == "__main__":
    say(*json.dumps(metadata(), indent=2, ensure_ascii=False).split("\n"))
