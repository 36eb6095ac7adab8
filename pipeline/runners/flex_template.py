"""The flex template: its parameters are the options of `controlset generate`, and cannot drift.

`python -m pipeline.runners.flex_template` prints docker/flex/metadata.json; `arguments_of` turns
the parameters that Dataflow hands to the launcher back into a command line.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from annotators.options import helps_of
from annotators.registry import all_options, kind_of, others
from pipeline.config import GenerateConfig
from schemas.printable import say

_NOT_PARAMETERS = frozenset({"dry_run", "beam_args", "num_workers", "options"})
"""Of the terminal, of Beam, and of the job's environment (Dataflow's own numWorkers)."""

_DESCRIPTION = (
    "Turn images into sharded Parquet of images, captions and condition maps, to train ControlNets "
    "on. Launched again with the same parameters it goes on where it stopped."
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Parameter:
    """An option, of `generate` itself or of an annotator."""

    name: str
    kind: Any  # its type, without None
    default: Any  # MISSING where it must be given
    help: str = ""


def metadata() -> dict[str, Any]:
    """The template's metadata, as `google.cloud.dataflow_v1beta3.TemplateMetadata` in JSON."""
    return {
        "name": "controlset generate",
        "description": _DESCRIPTION,
        "streaming": False,
        "parameters": [_described(parameter) for parameter in _parameters()],
    }


def arguments_of(parameters: Sequence[str]) -> list[str]:
    """A command line of `controlset generate` from what the launcher passes to the main file.

    Args:
        parameters: `--name=value`, names as in the metadata; the others are Beam's options.

    Returns:
        The source first; lists as separate words, switches as flags; Beam's options as they came.
    """
    known = {parameter.name: parameter for parameter in _parameters()}
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


def _flags(parameter: _Parameter, value: str) -> list[str]:
    option = parameter.name.replace("_", "-")
    if parameter.kind is bool:
        return [f"--{option}"] if value.lower() == "true" else []  # all of them are off by default
    if typing.get_origin(parameter.kind) is tuple:
        return [f"--{option}", *value.replace(",", " ").split()]
    return [f"--{option}={value}"]


def _parameters() -> Iterator[_Parameter]:
    """Options in the order of importance: what must be given first, those of annotators last."""
    hints, helps = typing.get_type_hints(GenerateConfig), helps_of(GenerateConfig)
    own = [
        _Parameter(
            name=field.name,
            kind=_without_none(hints[field.name]),
            default=None if callable(field.default_factory) else field.default,
            help=helps[field.name],
        )
        for field in dataclasses.fields(GenerateConfig)
        if field.name not in _NOT_PARAMETERS
    ]
    yield from sorted(own, key=lambda parameter: parameter.default is not dataclasses.MISSING)
    elsewhere = set(others())  # what is installed here need not be in the template's image
    for model, options in all_options().items():
        helps = {} if model in elsewhere else helps_of(kind_of(model))
        for option in () if model in elsewhere else options:
            yield _Parameter(
                name=option.name,
                kind=_without_none(option.kind),
                default=option.default,
                help=helps[next(iter(option.parameters))],
            )


def _described(asked: _Parameter) -> dict[str, Any]:
    parameter: dict[str, Any] = {
        "name": asked.name,
        "label": asked.name.replace("_", " ").capitalize(),
        "helpText": asked.help,
        "isOptional": asked.default is not dataclasses.MISSING,
        "paramType": _type_of(asked.kind),
    }
    if typing.get_origin(asked.kind) is Literal:
        values = [str(value) for value in typing.get_args(asked.kind)]
        parameter["enumOptions"] = [{"value": value, "label": value} for value in values]
    if asked.name == "output":
        parameter |= {"paramType": "GCS_WRITE_FOLDER", "regexes": ["^gs://.+"]}
    if asked.default not in (dataclasses.MISSING, None, ()):
        plain = str(asked.default)
        parameter["defaultValue"] = plain.lower() if asked.kind is bool else plain
    return parameter


def _type_of(kind: object) -> str:
    if typing.get_origin(kind) is Literal:
        return "ENUM"
    names: Mapping[object, str] = {bool: "BOOLEAN", int: "NUMBER", float: "NUMBER"}
    return names.get(kind, "TEXT")


def _without_none(kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
    return kind


if __name__ == "__main__":
    say(*json.dumps(metadata(), indent=2, ensure_ascii=False).split("\n"))
