"""Command lines through tyro: flags from dataclasses, mistakes in one line."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import os
import re
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from schemas.errors import ConfigError
from schemas.printable import say

Options = TypeVar("Options")

_COLUMNS = 80
_TEXT_COLUMN = 24
_HEAD_ALONE = re.compile(r"  \S(?!.*  )")
_HEAD_AND_TEXT = re.compile(r"(  \S.*?) {2,}(\S.*)")
_NUMBERS = {int: "a whole number", float: "a number"}
_VALUES = ConstructorRegistry()
_NO_PATHS = {"--prompt", "--negative-prompt", "--caption-text", "--caption-prompt"}

_EXAMPLE = """{description}

example:
  {example}"""


def parse(
    kind: type[Options], command: str, arguments: Sequence[str], *, description: str, example: str
) -> Options:
    """Options of a command.

    Raises:
        ConfigError: anything that is not understood, in one line.
        SystemExit: status 0, after `--help`.
    """
    options, unknown = parse_known(
        kind, command, arguments, description=description, example=example
    )
    if unknown:
        raise unknown_argument(unknown[0], flags_of(kind))
    return options


def parse_known(
    kind: type[Options],
    command: str,
    arguments: Sequence[str],
    *,
    description: str,
    example: str,
) -> tuple[Options, list[str]]:
    """Options of a command, and what they do not know.

    Args:
        kind: dataclass; a flag for each field, its docstring is the help.
        command: as typed, e.g. `controlset generate`.
        arguments: what follows it.
        description: first paragraph of the help.
        example: one command line that works.

    Raises:
        ConfigError: a wrong value, in one line.
        SystemExit: status 0, after `--help`.
    """
    arguments = _home_expanded(arguments)
    helptext, box = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(helptext), contextlib.redirect_stderr(box):
            options, unknown = tyro.cli(
                kind,
                prog=command,
                description=_EXAMPLE.format(description=description, example=example),
                args=list(arguments),
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
                registry=_VALUES,
            )
    except SystemExit as stop:
        if stop.code in {0, None}:
            say(*_readable(helptext.getvalue()).splitlines())
            raise
        raise _mistake(box.getvalue(), command, arguments, flags_of(kind)) from None
    return options, list(unknown)


def _home_expanded(arguments: Sequence[str]) -> list[str]:
    """The words with `~` where the shell left it: in `--output=~/set`, and in files of options.

    A folder of that very name means itself; captions and prompts are left alone.
    """
    words: list[str] = []
    for word in arguments:
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and equals and flag not in _NO_PATHS:
            words.append(f"{flag}={_at_home(value)}")
        else:
            last = next((one for one in reversed(words) if one.startswith("--")), "")
            words.append(word if last in _NO_PATHS else _at_home(word))
    return words


def _at_home(path: str) -> str:
    first = path.split("/")[0]
    return path if not first.startswith("~") or os.path.lexists(first) else os.path.expanduser(path)


def _mistake(box: str, command: str, arguments: Sequence[str], flags: Sequence[str]) -> ConfigError:
    """What was wrong, from tyro's words and, where they mislead, from what was typed."""
    line = _in_one_line(box)
    strange = [word for word in arguments if word.startswith("--") and not _is_flag(word, flags)]
    # A misspelt flag first shows as another one missing, and a positional after it as lost.
    for word in strange:
        if _resembled(word, flags) is not None:
            return unknown_argument(word, flags)
    lost = re.match(r"Missing value for argument '(\w+)'", line)
    if strange and lost:
        line = f"need {lost[1].upper()} before {strange[0]}, which is no option of {command}"
    return ConfigError(f"{line}; see {command} --help")


@_VALUES.primitive_rule
def _value(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Numbers that say what they need, and `int | None` typed and shown as plain `INT`."""
    kinds = typing.get_args(info.type) if info.type_origin in {types.UnionType} else [info.type]
    named = [kind for kind in kinds if kind is not types.NoneType]
    if len(named) != 1 or (len(kinds) == 1 and named[0] not in _NUMBERS):
        return None
    kind = named[0]

    def construct(words: list[str]) -> Any:
        try:
            return kind(words[0])
        except ValueError:
            raise ValueError(f"need {_NUMBERS.get(kind, 'a value')}, got {words[0]!r}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=construct,
        is_instance=lambda instance: instance is None or isinstance(instance, kind),
        str_from_instance=lambda instance: [str(instance)],
    )


def need(satisfied: bool, where: str, rule: str, value: object) -> None:
    """Refuse a value of an option that breaks its rule.

    Raises:
        ConfigError: it does.
    """
    if not satisfied:
        raise ConfigError(f"{where}: need {rule}, got {value!r}")


def need_workers(number: int | None) -> None:
    """The same for `--num-workers`, which several commands have."""
    need(number is None or number >= 1, "--num-workers", "1 or more", number)


def flags_of(kind: type) -> list[str]:
    """Every flag that a command has, from its options' dataclass."""
    hints = typing.get_type_hints(kind, include_extras=True)
    no_flag = {tyro.conf.Positional, tyro.conf.Suppress}
    return [
        f"--{field.name.replace('_', '-')}"
        for field in dataclasses.fields(kind)
        if no_flag.isdisjoint(getattr(hints[field.name], "__metadata__", ()))
    ]


def unknown_argument(given: str, flags: Sequence[str]) -> ConfigError:
    """The error for an option or a word that nobody knows."""
    if not given.startswith("-"):
        return ConfigError(f"unexpected argument {given}; names with spaces and globs need quotes")
    near = _resembled(given, flags)
    return ConfigError(f"unknown option {given}{f'; did you mean {near}?' if near else ''}")


def _is_flag(word: str, flags: Sequence[str]) -> bool:
    return word.split("=")[0].replace("_", "-") in {*flags, "--help"}


def misspelt(words: Sequence[str], flags: Sequence[str]) -> str | None:
    """The first word that is surely meant as one of the flags; no option of Beam is so near."""
    unknown = (word for word in words if word.startswith("--"))
    return next((word for word in unknown if _resembled(word, flags, cutoff=0.86)), None)


def _resembled(word: str, flags: Sequence[str], cutoff: float = 0.75) -> str | None:
    near = difflib.get_close_matches(word.split("=")[0], flags, n=1, cutoff=cutoff)
    return near[0] if near else None


def _readable(helptext: str) -> str:
    """Help as flowing text of 80 columns.

    Tyro wraps to the terminal's width, keeps the line breaks of our sources, underlines titles and
    shows defaults that are absent; none of that helps to read.
    """
    blocks: list[str] = []
    for line in helptext.rstrip().splitlines():
        if line.startswith(" " * 4) and blocks:
            gap = "  " if _HEAD_ALONE.match(blocks[-1]) else " "
            blocks[-1] += f"{gap}{line.strip()}"
        elif not line.startswith(" -"):
            blocks += ["", f"{line.strip()}:"] if re.match(r" \w", line) else [line.rstrip()]
    laid_out = "\n".join(itertools.chain.from_iterable(_laid_out(block) for block in blocks))
    return re.sub(r"\n{3,}", "\n\n", laid_out)


def _laid_out(block: str) -> list[str]:
    entry = _HEAD_AND_TEXT.match(block)
    if entry is None:
        below = "       " if block.startswith("usage: ") else ""
        wrapped = textwrap.wrap(block, _COLUMNS, subsequent_indent=below)
        return [block] if block.startswith(" ") else wrapped or [""]
    head, text = entry.groups()
    text = text.replace("(default: None)", "").replace("(default: False)", "")
    indent = " " * _TEXT_COLUMN
    wrapped = textwrap.wrap(
        text, _COLUMNS, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    if len(head) + 2 > _TEXT_COLUMN:
        return [head, *wrapped]
    return [head + wrapped[0][len(head) :], *wrapped[1:]]


def _in_one_line(box: str) -> str:
    """Tyro explains in several paragraphs; the first one says what is wrong.

    They stand in a box below its title or, where the terminal has no lines to draw with, under a
    title and a rule of dashes.
    """
    lines = [line.strip("│ ") for line in box.splitlines()]
    below_title = itertools.dropwhile(lambda line: not line.startswith(("╭", "--")), lines)
    body = itertools.islice(below_title, 1, None)
    first = list(itertools.takewhile(lambda line: not line.startswith(("──", "---")), body))
    if first and first[0].startswith("Missing from"):
        missing = (re.match(r"--[a-z-]+|[A-Z]{3,}", line) for line in first[1:])
        return f"need {', '.join(match[0] for match in missing if match)}"
    line = " ".join(first).rstrip(".").removeprefix("Error parsing ")
    if no_value := re.match(r"Missing value for argument '(-\S+)'", line):
        return f"{no_value[1]}: need a value"
    return line
