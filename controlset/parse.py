"""Options of commands, from words and YAML files: flags from dataclasses, mistakes in one line.

What is typed goes through tyro; what any of them says becomes a value of its option's type here.
"""

import contextlib
import dataclasses
import difflib
import io
import os
import reprlib
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar

import tyro
from tyro import _errors as rejections  # structured; tyro's public alternative is to read its boxes
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from annotators.options import AnnotateConfig, Option, helps_of
from schemas.errors import ConfigError, flag_of
from schemas.printable import say

Config = TypeVar("Config")

_MOST_BYTES = 1_000_000  # of a YAML file
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2  # aliases of YAML would be endless if written out
_NOT_TYPED = frozenset({"beam_args", "options"})  # fields that are no options
_RULES = {int: "a whole number", float: "a number", bool: "true or false"}
_COLUMNS = 80
_NUMBERS = {int, float}
_VALUES = ConstructorRegistry()
# Options whose texts are words of people, in which a ~ is no home.
_NO_PATHS = {"prompt", "negative_prompt", "caption_text", "caption_prompt"}
_CONFIG = "YAML file of these options, names as here with _ for -; the command line wins."


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Command(Generic[Config]):
    """What a command can be asked, and what its help says of it."""

    name: str  # as typed after `controlset`
    kind: type[Config]
    """Dataclass; a flag for each field, its docstring is the help. Fields that are marked
    `tyro.conf.Suppress` have none. Where annotators work, their options come along."""

    description: str  # first paragraph of the help
    example: str  # what follows the name on one command line that works
    has_file: bool = False  # whether `--config FILE.yaml` gives defaults

    @property
    def program(self) -> str:
        return f"controlset {self.name}"

    @property
    def flags(self) -> list[str]:
        """Every flag that it has."""
        hints = typing.get_type_hints(self.kind, include_extras=True)
        no_flag = {tyro.conf.Positional, tyro.conf.Suppress}
        return [
            flag_of(name)
            for name in (*option_kinds(self.kind), *(["config"] if self.has_file else []))
            if no_flag.isdisjoint(getattr(hints.get(name), "__metadata__", ()))
        ]

    def parse(self, arguments: Sequence[str], **defaults: Any) -> Config:
        """Its options; see `parse_known`.

        Raises:
            ConfigError: anything that is not understood, in one line.
            SystemExit: status 0, after `--help`.
        """
        options, unknown = self.parse_known(arguments, **defaults)
        if unknown:
            raise self.unknown(unknown[0])
        return options

    def parse_known(self, arguments: Sequence[str], **defaults: Any) -> tuple[Config, list[str]]:
        """Its options, and what they do not know.

        Args:
            arguments: what follows the command's name.
            defaults: other defaults than the dataclass has; a file's go before them.

        Raises:
            ConfigError: a wrong value, in one line.
            SystemExit: status 0, after `--help`.
        """
        arguments, given = list(arguments), dict(defaults)
        # tyro builds its own dataclass of ours, so that defaults may be other ones and every
        # mistake is told by us; only then ours is made, with its checks.
        with _rejected_in_one_line(self, arguments):
            if self.has_file:
                # Taken out first: what the file says are defaults for what is typed.
                path, arguments = tyro.cli(
                    _File, args=arguments, add_help=False, return_unknown_args=True
                )
                given |= {} if path.config is None else read_yaml(path.config, self.kind)
            arguments = _home_expanded(arguments)
            positional = _positional_of(self.kind)
            # A positional of the file goes first, so that one that was typed is left over, before
            # words that belong to options which are not ours.
            stands_in = positional in given
            words = [_at_home(str(given.pop(positional))), *arguments] if stands_in else arguments
            with_help = not {"-h", "--help"}.isdisjoint(words)
            form = _Form(self.kind, has_file=self.has_file, with_help=with_help)
            with self._help_rearranged():
                filled, unknown = tyro.cli(
                    form.type,
                    default=form.filled(_typed_away(form, given, words)),
                    prog=self.program,
                    description="",  # tyro would not wrap it
                    args=words,
                    return_unknown_args=True,
                    config=(tyro.conf.FlagCreatePairsOff,),
                    registry=_VALUES,
                )
        # Out of the `with`: what the dataclass itself refuses is a ConfigError already.
        values, unknown = form.values(filled), list(unknown)
        for name in form.repeated:
            if values[name] == ():  # tyro takes one that may be repeated for one that need not be
                raise ConfigError(f"need {flag_of(name)}; see {self.program} --help")
        if stands_in and unknown and not unknown[0].startswith("-"):
            values[positional] = unknown.pop(0)
        return self.kind(**values), unknown

    @contextlib.contextmanager
    def _help_rearranged(self) -> Iterator[None]:
        """What the command is for and an example stand before tyro's usage and options."""
        text = io.StringIO()
        try:
            with contextlib.redirect_stdout(text):  # tyro prints its help and exits
                yield
        except SystemExit as stop:
            if stop.code in {0, None}:
                usage, *lines = text.getvalue().rstrip().splitlines()
                example = f"  {self.program} {self.example}"
                say(*textwrap.wrap(self.description, _COLUMNS), "", "example:", example, "")
                say(*textwrap.wrap(usage, _COLUMNS, subsequent_indent=" " * len("usage: ")))
                say(*(line.rstrip() for line in lines))
            raise

    def unknown(self, given: str) -> ConfigError:
        """The error for an option or a word that nobody knows."""
        if not given.startswith("-"):
            return ConfigError(
                f"unexpected argument {given}; names with spaces and globs need quotes"
            )
        near = _resembled(given, self.flags)
        return ConfigError(f"unknown option {given}{f'; did you mean {near}?' if near else ''}")

    def misspelt(self, words: Sequence[str]) -> str | None:
        """The first word that is surely meant as one of its flags; no option of Beam is so near."""
        strange = (word for word in words if word.startswith("--"))
        return next((word for word in strange if _resembled(word, self.flags, cutoff=0.86)), None)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    config: str | None = None


class _Form:
    """A dataclass for tyro to fill in: the options of a command, without the checks of its own.

    Options of annotators stand in parts of their own, under the name of their condition.
    """

    def __init__(self, kind: type, *, has_file: bool, with_help: bool) -> None:
        self._kind = kind
        self._parts: dict[str, tuple[Option, ...]] = {}  # field of the form -> what stands in it
        fields = [*_own_fields(kind, with_help=with_help)]
        parts: list[tuple[str, Any, Any]] = []
        if has_file:
            shown = tyro.conf.arg(metavar="FILE", help=_CONFIG, help_behavior_hint=_hint)
            fields.append(("config", Annotated[str | None, shown], None))
        if issubclass(kind, AnnotateConfig):
            from annotators.registry import all_options

            for model, options in all_options().items():
                if options:
                    part = f"part_{len(parts)}"
                    parts.append((part, *_part(model, options, with_help=with_help)))
                    self._parts[part] = options
        # tyro would say of two options of one name that the program is wrong.
        names = [name for name, *_ in fields]
        taken = [
            option for options in self._parts.values() for option in options if option.name in names
        ]
        if taken:
            raise ConfigError(
                f"{taken[0].flag}: need another name for the option of an annotator, since the "
                "command has one of this name; repair the annotator's package"
            )
        self.type = _dataclass("Options", [*fields, *parts])

    @property
    def repeated(self) -> list[str]:
        """Options that have to be given at least once, and may be given again."""
        return [
            field.name
            for field in dataclasses.fields(self.type)
            if tyro.conf.UseAppendAction in getattr(field.type, "__metadata__", ())
        ]

    def filled(self, values: Mapping[str, Any]) -> Any:
        """The form with these values, and MISSING where an option has to be given."""
        whole: dict[str, Any] = {}
        for field in dataclasses.fields(self.type):
            if field.name in self._parts:
                options = self._parts[field.name]
                part = {option.name: values.get(option.name, option.default) for option in options}
                whole[field.name] = typing.cast(Any, field.type).__origin__(**part)
            elif field.name in values:
                whole[field.name] = values[field.name]
            elif field.default is dataclasses.MISSING:
                whole[field.name] = tyro.MISSING
        return self.type(**whole)

    def values(self, filled: Any) -> dict[str, Any]:
        """Arguments of the command's dataclass."""
        own = {field.name for field in dataclasses.fields(self._kind)}
        values = {
            field.name: getattr(filled, field.name)
            for field in dataclasses.fields(filled)
            if field.name in own
        }
        # Only those that differ from the default: records of equal runs have equal options.
        options = {
            option.name: given
            for part, several in self._parts.items()
            for option in several
            if (given := getattr(getattr(filled, part), option.name)) != option.default
        }
        return values | ({"options": options} if options else {})


def _own_fields(kind: type, *, with_help: bool) -> Iterator[tuple[str, Any, Any]]:
    """Name, annotated type and default of each field that is an option; required ones first."""
    hints = typing.get_type_hints(kind, include_extras=True)
    helps = helps_of(kind) if with_help else {}
    fields = [
        field
        for field in dataclasses.fields(kind)
        # What annotators can be asked stands in parts of their own.
        if not (field.name == "options" and issubclass(kind, AnnotateConfig))
        and tyro.conf.Suppress not in getattr(hints[field.name], "__metadata__", ())
    ]
    for field in sorted(fields, key=lambda field: not _is_required(field)):
        shown = tyro.conf.arg(help=helps.get(field.name), help_behavior_hint=_hint)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield field.name, Annotated[hints[field.name], shown], dataclasses.field(default=default)


def _part(model: str, options: Sequence[Option], *, with_help: bool) -> tuple[Any, Any]:
    """Type and default of the field for an annotator's options; in the help they stand together."""
    from annotators.registry import kind_of

    helps = helps_of(kind_of(model)) if with_help else {}
    fields = []
    for option in options:
        several = len(option.parameters) > 1
        shown = tyro.conf.arg(
            help=helps.get(next(iter(option.parameters))),
            help_behavior_hint=_hint,
            prefix_name=False,
            # Numbers that are typed together, `LOW,HIGH`; else tyro names the type.
            metavar=",".join(map(str.upper, option.parameters)) if several else None,
        )
        fields.append((option.name, Annotated[option.kind, shown], option.default))
    part = _dataclass(model, fields)
    return Annotated[part, tyro.conf.arg(name=model)], part()


def _dataclass(name: str, fields: Sequence[tuple[str, Any, Any]]) -> type:
    kind = dataclasses.make_dataclass(name, fields, kw_only=True, frozen=True)
    kind.__doc__ = ""  # or tyro would show the one that dataclasses make
    return kind


def _hint(default: str) -> str:
    """What stands behind a help text: no default that only says that there is none."""
    if default == str(tyro.MISSING):
        return "(required)"  # of an option that may be repeated, which tyro does not see
    if default == "True":
        return "(on by default; this turns it off)"
    return "" if default in {"None", "False", "()", "''", ""} else f"(default: {default})"


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _positional_of(kind: type) -> str:
    """Name of the one that has to be given; none: an empty text."""
    hints = typing.get_type_hints(kind, include_extras=True)
    positional = (
        field.name
        for field in dataclasses.fields(kind)
        if tyro.conf.Positional in getattr(hints[field.name], "__metadata__", ())
        and _is_required(field)
    )
    return next(positional, "")


def _typed_away(form: _Form, values: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Defaults without those of repeated options that are typed; tyro would append to them."""
    flags = {word.split("=")[0].replace("_", "-") for word in words}  # tyro takes both forms
    typed_again = {name for name in form.repeated if flag_of(name) in flags}
    return {
        name: value if name in _NO_PATHS else _at_home(value)
        for name, value in values.items()
        if name not in typed_again
    }


def _home_expanded(arguments: Sequence[str]) -> list[str]:
    """The words with `~` where the shell left it, in `--output=~/set`; not in what people say."""
    words: list[str] = []
    for word in arguments:
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and equals and _field_of(flag) not in _NO_PATHS:
            words.append(f"{flag}={_at_home(value)}")
        else:
            # The option that this word is a value of, as far as can be told before parsing.
            last = next((before for before in reversed(words) if before.startswith("--")), "")
            words.append(word if _field_of(last) in _NO_PATHS else _at_home(word))
    return words


def _field_of(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _at_home(value: Any) -> Any:
    """A path with its `~` expanded; other values as they are."""
    if isinstance(value, tuple):
        return tuple(map(_at_home, value))
    if not isinstance(value, str) or not value.startswith("~"):
        return value
    # A folder of that very name means itself.
    return value if os.path.lexists(value.split("/")[0]) else os.path.expanduser(value)


@contextlib.contextmanager
def _rejected_in_one_line(command: Command[Any], arguments: Sequence[str]) -> Iterator[None]:
    """Turn what tyro rejects into our errors, instead of its boxes."""

    def refuse(event: rejections.ParseErrorEvent) -> NoReturn:
        typed_flags = [word for word in arguments if word.startswith("--")]
        flags = {*command.flags, "--help"}
        strange = [
            word for word in typed_flags if word.split("=")[0].replace("_", "-") not in flags
        ]
        # A misspelt flag first shows as another one missing, and a positional after it as lost.
        for word in strange:
            if _resembled(word, command.flags) is not None:
                raise command.unknown(word)
        said = _rejection(event, command.program, strange)
        raise ConfigError(f"{said}; see {command.program} --help")

    with rejections.on_parse_error(refuse):
        yield


def _rejection(event: rejections.ParseErrorEvent, command: str, strange: Sequence[str]) -> str:
    if isinstance(event, rejections.MissingArgs):
        return f"need {', '.join(_name_of(missing.arg) for missing in event.missing_arguments)}"
    if isinstance(event, rejections.InvalidChoice):
        choices = choices_text(event.choices)
        return f"{_name_of(event.argument)}: need {choices}, got {event.value!r}"
    if isinstance(event, rejections.BadValue):
        name = _name_of(event.argument)
        lost = event.argument.is_positional() and strange
        return (
            f"need {name} before {strange[0]}, which is no option of {command}"
            if lost
            else f"{name}: need a value"
        )
    if isinstance(event, rejections.InstantiationFailure):
        where = f"{_name_of(event.argument)}: " if event.argument is not None else ""
        return f"{where}{event.message}"
    return f"need options as in the help, got others ({type(event).__name__})"


def _name_of(argument: Any) -> str:
    """As it is typed: a flag, or a positional's name in capitals."""
    if argument.is_positional():
        return str(argument.lowered.metavar).strip("[]")
    return argument.lowered.name_or_flags[-1]


@_VALUES.primitive_rule
def _value(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Numbers that say what they need, and `int | None` typed and shown as plain `INT`."""
    kinds = typing.get_args(info.type) if info.type_origin is types.UnionType else [info.type]
    some = [kind for kind in kinds if kind is not types.NoneType]
    if len(some) != 1 or (len(kinds) == 1 and some[0] not in _NUMBERS):
        return None  # tyro's own rule
    kind = some[0]

    def construct(words: list[str]) -> Any:
        try:
            return typed(kind, words[0])
        except ValueError as rule:
            raise ValueError(f"need {rule}, got {words[0]!r}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=construct,
        is_instance=lambda instance: instance is None or isinstance(instance, kind),
        str_from_instance=lambda instance: [str(instance)],
    )


def plain(options: Any, kind: type[Config]) -> Config:
    """A command's options as the configuration that they extend, without the command's own."""
    return kind(
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)}  # type: ignore[reportArgumentType]  # any dataclass
    )


def _resembled(word: str, flags: Sequence[str], cutoff: float = 0.75) -> str | None:
    near = difflib.get_close_matches(word.split("=")[0], flags, n=1, cutoff=cutoff)
    return near[0] if near else None


# Values of options, whoever gives them ----------------------------------------------------------


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
        document = document["config"]  # the config.json of a run, JSON being YAML
        # Empty lists stand there for what was not given; an option takes at least one value.
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
