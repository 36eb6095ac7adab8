"""From keywords to a configuration, and from a flag in a message to the keyword."""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import os
import re
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, ParamSpec, TypeVar

from annotators.options import AnnotateConfig
from controlset.configuration import option_kinds, typed
from schemas.errors import ConfigError
from schemas.printable import without_progress

Config = TypeVar("Config")
P = ParamSpec("P")
Result = TypeVar("Result")

_OF_THE_COMMAND = {"dry_run": False, "expect": None}
"""Options that a function has not, since it does what it is called for and returns numbers."""

_WHOLE: Mapping[str, Callable[[Any], Any]] = {"beam_args": tuple, "options": dict}
"""Fields that no flag sets as it is."""

_POSITIONAL = {"SOURCE": "source", "DATASET": "output", "RUN": "run"}
_WHERE = re.compile(r"^(?:--)?([A-Za-z][\w-]*) (?!need )(\S.*?): (?=need |no such |nothing )")
_FLAG = re.compile(r"--([a-z][a-z0-9-]*[a-z0-9])(?: ([a-z0-9_+-]+|[A-Z]+(?:=[A-Z]+)?)\b)?")


def command(kind: type | None = None) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Makes a function of a command: errors speak of keywords, progress is shown on demand.

    Args:
        kind: the configuration, whose fields then stand in the function's signature, so that
            notebooks show and complete them.
    """

    def decorated(function: Callable[P, Result]) -> Callable[P, Result]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> Result:
            shown = contextlib.nullcontext() if kwargs.get("progress") else without_progress()
            with _in_python(kind or function), shown:
                return function(*args, **kwargs)

        if kind is not None:
            called.__dict__["__signature__"] = _signature(function, kind)
        return called

    return decorated


def _signature(function: Callable[..., Any], kind: type) -> inspect.Signature:
    """The function's own arguments, then the other fields as keywords with their defaults."""
    own = inspect.signature(function)
    first = {
        name: argument
        for name, argument in own.parameters.items()
        if argument.kind is not argument.VAR_KEYWORD
    }
    fields = [
        field
        for name, field in inspect.signature(kind).parameters.items()
        if name not in first | _OF_THE_COMMAND
    ]
    return own.replace(parameters=[*first.values(), *fields])


def _kinds_of(of: Any) -> dict[str, Any]:
    """Keyword -> type, of a configuration or of a function that has all its keywords itself."""
    if isinstance(of, type):
        return option_kinds(of)
    return {name: hint for name, hint in of.__annotations__.items() if name != "return"}


@contextlib.contextmanager
def _in_python(of: Any) -> Iterator[None]:
    """Lets the message of a ConfigError name keywords where the command line has flags."""
    try:
        yield
    except ConfigError as error:
        kinds = _kinds_of(of)
        parts = re.split(r"(`[^`]*`)", str(error))  # commands to type stay as they are typed
        parts[::2] = [_reworded(part, kinds) for part in parts[::2]]
        error.args = ("".join(parts),)
        raise


def _reworded(text: str, kinds: Mapping[str, Any]) -> str:
    def where(found: re.Match[str]) -> str:
        name = _POSITIONAL.get(found[1], found[1].replace("-", "_"))
        flagged = found[0].startswith("--") or found[1] in _POSITIONAL
        return f'{name}="{found[2]}": ' if flagged and name in kinds else found[0]

    def flag(found: re.Match[str]) -> str:
        name, word = found[1].replace("-", "_"), found[2]
        if name not in kinds and name not in _OF_THE_COMMAND:
            return found[0]
        kind = kinds.get(name, bool)
        if kind is bool:
            return f"{name}=True{f' {word}' if word else ''}"
        if word is None:
            return f"{name}="
        if word.isupper():
            return f'{name}="{word}"' if "=" in word else f"{name}={word}"
        return f'{name}="{word}"' if word in _choices(kind) else f"{name}= {word}"

    text = re.sub(r"--trust-model (\S+|'[^']*')$", _trusted, text)
    text = re.sub(r"^(SOURCE|DATASET|RUN):", lambda found: f"{_POSITIONAL[found[1]]}=:", text)
    return _FLAG.sub(flag, _WHERE.sub(where, text))


def _trusted(found: re.Match[str]) -> str:
    return f'trust_model=["{found[1].strip(chr(39))}"]'


def _choices(kind: Any) -> tuple[Any, ...]:
    """The words of a Literal, also of one that may be None; of other types none."""
    if isinstance(kind, types.UnionType):
        return tuple(word for part in typing.get_args(kind) for word in _choices(part))
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def configured(kind: type[Config], first: Any, given: Mapping[str, Any]) -> Config:
    """The configuration that a call asks for.

    Args:
        kind: of configuration.
        first: the first argument, which may be the whole configuration.
        given: keyword -> value, the first argument's included; None is as if it were not there.

    Raises:
        ConfigError: an unknown keyword, one that is missing, or a value of another type.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(first, kind):
        if len(given) > 1:
            raise ConfigError(
                f"need a {kind.__name__} or keywords, got both; dataclasses.replace changes one"
            )
        asked = {name: getattr(first, name, usual) for name, usual in _OF_THE_COMMAND.items()}
        _need_no_command({name for name in asked if asked[name] != _OF_THE_COMMAND[name]})
        return first
    _need_no_command(given.keys())
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    kinds = option_kinds(kind)
    own, options = dict[str, Any](), dict[str, Any]()
    for name, value in given.items():
        if name in _WHOLE and name in fields:
            own[name] = _WHOLE[name](value)
        else:
            (own if name in fields else options)[name] = _value(kinds, name, value)
    if issubclass(kind, AnnotateConfig):
        own.setdefault("conditions", ())
        own["options"] = {**own.get("options", {}), **options}
    missing = [
        f"{name}="
        for name, field in fields.items()
        if field.default is field.default_factory is dataclasses.MISSING and name not in own
    ]
    if missing:
        raise ConfigError(f"need {', '.join(missing)}")
    return kind(**own)


def _need_no_command(names: Collection[str]) -> None:
    """Refuse what only the command line does."""
    for name in names:
        if name in _OF_THE_COMMAND:
            raise ConfigError(f"{name}=: need the command line for this, got a call in Python")


def _value(kinds: Mapping[str, Any], name: str, value: Any) -> Any:
    """A keyword's value as the configuration has it.

    Raises:
        ConfigError: there is no such keyword, or it has no such values.
    """
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=1)
        hint = f"; did you mean {near[0]}=?" if near else ""
        raise ConfigError(f"unknown keyword {name}={hint}")
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | os.PathLike | Mapping):
        value = [*map(_plain, value)]
    try:
        return typed(kinds[name], _plain(value))
    except ValueError as rule:
        raise ConfigError(f"{name}=: need {rule}, got {reprlib.repr(value)}") from None


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def value_of(function: Callable[..., Any], name: str, value: Any) -> Any:
    """A keyword's value, of a function that has all its keywords itself.

    Raises:
        ConfigError: it has no such values.
    """
    return _value(_kinds_of(function), name, value)
