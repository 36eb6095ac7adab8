"""What a user can ask of annotators and captioners: run-wide, and each one's own options.

A spec's fields are its parameters and, by themselves, options: the field `mode` of `hed` is
`--hed-mode` on the command line, `hed_mode` in YAML and in Python, and the text below it the help.
Two fields belong to the run: `seed` and `precision`. Light to import.
"""

import dataclasses
import os
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from annotators.runtime import PrecisionAsked
from schemas.errors import ConfigError, flag_of, need

Config = TypeVar("Config", bound="AnnotateConfig")
Default = TypeVar("Default")

_OF_THE_RUN = frozenset({"seed", "precision"})
_OPTION = "option"  # in a field's metadata: the option's name, where it is another than usual


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AnnotateConfig:
    """Which conditions, drawn by what, and where the networks run."""

    conditions: tuple[str, ...]
    """Condition maps to extract, e.g. `canny depth pose hed`; `controlset doctor` lists them."""

    device: str = "auto"
    """Where networks run: auto (a GPU if there is one), cpu, cuda, cuda:N or mps."""

    precision: PrecisionAsked = "auto"
    """Number format of the networks. auto: bf16 or fp16 where the hardware has it, else fp32."""

    weights: str | None = dataclasses.field(
        default_factory=lambda: os.environ.get("CONTROLSET_WEIGHTS") or None
    )
    """Folder with weights of networks, searched before the hub's cache; `nano` is the small ones in
    this package, which know drawn scenes alone. Default: what the environment variable
    CONTROLSET_WEIGHTS says."""

    offline: bool = False
    """Never use the internet; weights must be on this machine."""

    compile: bool = False
    """Compile the networks with torch.compile: worth its minutes for large sets on a GPU."""

    seed: int = 0
    """Seed of everything that is drawn at random: thresholds, shuffling, sampled captions, and
    which images go to the validation split."""

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options of single annotators and captioners: name -> value, e.g. `hed_mode` -> `safe`."""

    def __post_init__(self) -> None:
        need(
            len(set(self.conditions)) == len(self.conditions),
            "--conditions",
            "each one once",
            self.conditions,
        )


def configured(kind: type[Config], **values: Any) -> Config:
    """A configuration out of one set of names: its own fields, and options of annotators.

    Args:
        kind: e.g. `GenerateConfig`.
        values: as on the command line; what is no field is an annotator's option, and is checked
            when its spec is made.
    """
    own = {field.name for field in dataclasses.fields(kind)}
    options = {name: value for name, value in values.items() if name not in own}
    fields: dict[str, Any] = {name: value for name, value in values.items() if name in own}
    if options:
        fields["options"] = options
    return kind(**fields)


def named(option: str, default: Default) -> Default:
    """A field of a spec whose option has another name than `<condition>_<field>`.

    Fields of the same name are written together, with commas: `--canny-thresholds LOW,HIGH`.
    """
    return dataclasses.field(default=default, metadata={_OPTION: option})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One option of an annotator or captioner, and the parameters of its spec that it sets."""

    name: str  # as YAML and Python have it
    kind: Any  # type of its value
    default: Any
    parameters: Mapping[str, Any]  # field of the spec -> its type

    @property
    def flag(self) -> str:
        """As it is typed."""
        return flag_of(self.name)

    def parameters_of(self, value: Any) -> dict[str, Any]:
        """What a value sets.

        Raises:
            ConfigError: several numbers that should stand in it do not.
        """
        if len(self.parameters) == 1:
            return dict.fromkeys(self.parameters, value)
        parts = str(value).replace(" ", "").split(",")
        try:
            return {
                name: _number_or_range(kind, part)
                for (name, kind), part in zip(self.parameters.items(), parts, strict=True)
            }
        except ValueError:
            raise ConfigError(
                f"{self.flag}: need {self._form()}, got {value!r}; e.g. {self.default}"
            ) from None

    def value_of(self, parameters: Mapping[str, Any]) -> Any:
        """The inverse: the value that gives a spec these parameters, as a record holds them."""
        values = [parameters[name] for name in self.parameters]
        if len(values) > 1:
            return ",".join(map(_written, values))
        return tuple(values[0]) if isinstance(values[0], list) else values[0]

    def typed(self, value: Any) -> str:
        """The flag with a value, as on a command line."""
        words = value if isinstance(value, tuple) else () if value is True else (value,)
        return " ".join([self.flag, *map(str, words)])

    def _form(self) -> str:
        names = [name.upper() for name in self.parameters]
        numbers = ",".join(names)
        if float in self.parameters.values():
            return numbers
        return f"{numbers} or {','.join(f'{name}-{name}' for name in names)}"


def options_of(kind: Any) -> tuple[Option, ...]:
    """Every option that a spec's class declares by its fields; none if it is no dataclass."""
    first = getattr(kind, "prefix", kind.name)
    if not dataclasses.is_dataclass(kind):
        return ()
    hints = typing.get_type_hints(kind)
    together: dict[str, dict[str, Any]] = {}
    for field in dataclasses.fields(kind):
        if field.name not in _OF_THE_RUN:
            name = field.metadata.get(_OPTION, f"{first}_{field.name}")
            together.setdefault(name, {})[field.name] = field.default
    return tuple(
        Option(
            name=name,
            kind=hints[next(iter(defaults))] if len(defaults) == 1 else str,
            default=next(iter(defaults.values()))
            if len(defaults) == 1
            else ",".join(map(_written, defaults.values())),
            parameters={parameter: hints[parameter] for parameter in defaults},
        )
        for name, defaults in together.items()
    )


def helps_of(kind: type) -> dict[str, str]:
    """Field of a dataclass -> the text below it, on one line."""
    import docstring_parser

    return {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for part in reversed(kind.__mro__[:-1])
        for parameter in docstring_parser.parse_from_object(part).params
    }


def _number_or_range(kind: Any, text: str) -> Any:
    if typing.get_origin(kind) is not tuple:
        return kind(text)
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def _written(value: Any) -> str:
    """A number, or a range whose ends may be the same."""
    if isinstance(value, list | tuple):
        first, last = value
        return str(first) if first == last else f"{first}-{last}"
    return str(value)
