"""Text from outside on its way to a terminal or a log: every character shows itself, none acts.

File names, captions, and what a strange manifest says may hold escape sequences that move the
cursor or recolour the screen, characters that turn the direction of reading, and line breaks that
forge a line of ours. Whatever is printed goes through `printable`: by `say`, or by a `Terminal`.
"""

import contextlib
import contextvars
import json
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

_PROGRESS_SHOWN = contextvars.ContextVar("whether progress is shown", default=True)


class NotWritten(Exception):
    """Standard output or error does not take what is written: nobody reads it, or no room.

    Args:
        stream: which.
        refusal: what the system said, also the cause; a BrokenPipeError where nobody reads.
    """

    def __init__(self, stream: Any, refusal: OSError) -> None:
        super().__init__(refusal.strerror)
        self.stream = stream


_ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi), surrogate, line and paragraph
_JOINERS = "\u200c\u200d"  # format characters that emoji, Persian and Hindi are written with


def printable(text: object) -> str:
    r"""The text as one line in which control characters are escapes, e.g. `\x1b`, `\u202e`, `\n`.

    Args:
        text: anything; characters of every script stay, a lone surrogate (a byte of a file name
            that is no UTF-8) becomes `\udc..`.
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    if unicodedata.category(character) not in _ACTING:
        return character  # e.g. the wide space of Japanese, or a letter younger than this Python
    return character.encode("unicode_escape").decode("ascii")


def printable_lines(text: str) -> str:
    """The same for text of several lines, which stay."""
    return "\n".join(map(printable, text.split("\n")))


def say(*lines: object, error: bool = False) -> None:
    """Print lines, each as one line, whatever it holds.

    Args:
        lines: text without its line breaks; what breaks inside one is shown as an escape.
        error: to standard error.
    """
    stream = sys.stderr if error else sys.stdout
    try:
        print(*map(printable, lines), sep="\n", file=stream, flush=error)
    except OSError as refusal:
        raise NotWritten(stream, refusal) from refusal


def flush() -> None:
    """Hand over what standard output still holds back.

    Raises:
        NotWritten: it is not taken.
    """
    try:
        if sys.stdout is not None:  # `>&-`
            sys.stdout.flush()
    except OSError as refusal:
        raise NotWritten(sys.stdout, refusal) from refusal


def say_json(document: object) -> None:
    """Print a JSON document; characters beyond ASCII are JSON's own escapes."""
    text = json.dumps(document, indent=1).replace("\x7f", "\\u007f")
    say(*text.split("\n"))


@contextlib.contextmanager
def without_progress() -> Iterator[None]:
    """No bars and no lines about how far a step is, for who calls a function and wants its result.

    What a reader has to know, a warning for example, is still said.
    """
    token = _PROGRESS_SHOWN.set(False)
    try:
        yield
    finally:
        _PROGRESS_SHOWN.reset(token)


def shows_progress() -> bool:
    """Whether a step that begins now is to show how far it is."""
    return _PROGRESS_SHOWN.get()
