"""Command lines through tyro: flags from dataclasses, mistakes in one line."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
import textwrap
from collections.abc import Sequence
from typing import TypeVar

import tyro

from schemas.errors import ConfigError

Options = TypeVar("Options")

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
        raise unknown_option(unknown[0], flags_of(kind))
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
            )
    except SystemExit as stop:
        if stop.code in {0, None}:
            print(_wrapped(helptext.getvalue()))
            raise
        raise ConfigError(f"{_in_one_line(box.getvalue())}; see {command} --help") from None
    return options, list(unknown)


def flags_of(kind: type) -> list[str]:
    """Every flag that a command has, from its options' dataclass."""
    return [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(kind)]


def unknown_option(given: str, flags: Sequence[str]) -> ConfigError:
    """The error for an option that nobody knows."""
    near = difflib.get_close_matches(given.split("=")[0], flags, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    return ConfigError(f"unknown option {given}{hint}")


def _wrapped(helptext: str) -> str:
    """Help with its long paragraphs wrapped; tyro wraps only what stands in boxes."""
    lines = (
        [line] if line.startswith(("  ", "│", "|")) else textwrap.wrap(line, 80) or [""]
        for line in helptext.rstrip().splitlines()
    )
    return "\n".join(line.rstrip() for wrapped in lines for line in wrapped)


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
    return " ".join(first).rstrip(".")
