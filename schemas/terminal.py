"""The one console of this project: no text is markup, and none acts on the terminal.

Beside it how far a step is, as a bar or as lines.
"""

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from schemas.printable import NotWritten, printable, printable_lines, say, shows_progress

_PLAIN_LINE_S = 5.0


class Terminal(Console):
    """Standard output, or standard error, through rich.

    A plain string is one line and never markup, in tables, too; style is given with `Text`, whose
    line breaks stay.

    Args:
        error: standard error.
        drawn: nowhere; `as_html` has what was printed.
    """

    def __init__(self, *, error: bool = False, drawn: bool = False) -> None:
        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
        if drawn:
            plain |= {"file": io.StringIO(), "record": True, "force_jupyter": False, "width": 100}
        super().__init__(stderr=error, **plain)

    def as_html(self) -> str:
        """What was printed, as a piece of a page."""
        form = '<pre style="line-height: 1.2; overflow-x: auto">{code}</pre>'
        return self.export_html(inline_styles=True, code_format=form)

    def tell(self, text: str, style: str = "") -> None:
        """Print one line, however long: a path in it can be copied."""
        self.print(Text(printable(text), style=style), soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as rich asks for it, wherever it stands."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What is written, piece by piece; control codes are rich's own."""
        for piece in super().render(renderable, options):
            if piece.control or piece.text.isprintable():
                yield piece
            else:
                yield Segment(printable_lines(piece.text), piece.style)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print what rich can draw.

        Raises:
            NotWritten: it is not taken.
        """
        try:
            super().print(*objects, **options)
        except OSError as refusal:
            stream = sys.stderr if self.stderr else sys.stdout
            raise NotWritten(stream, refusal) from refusal

    def on_broken_pipe(self) -> None:
        """`… | head` closed its end; rich would exit with status 1, which means an unmet check."""
        raise BrokenPipeError


def progress_bar(terminal: Terminal, *texts: str, transient: bool = False) -> Progress:
    """A bar that says what is done, how much of it, and how long it will take.

    Args:
        terminal: where.
        texts: formats of the columns after the numbers, e.g. `{task.fields[speed]}`.
        transient: it goes away at the end.
    """
    first, *others = (TextColumn(text, markup=False) for text in ("{task.description}", *texts))
    columns = (first, BarColumn(), MofNCompleteColumn(), *others, TimeRemainingColumn())
    return Progress(*columns, console=terminal, transient=transient)


@contextlib.contextmanager
def progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line every few seconds elsewhere; both on standard error.

    Args:
        doing: e.g. "verifying".

    Yields:
        A function to call with (done, total); any thread may call it.
    """
    if not shows_progress():
        yield lambda done, total: None
        return
    terminal = Terminal(error=True)  # standard output is for results, which may go to a file
    if not terminal.is_terminal:
        yield _plain_lines(doing)
        return
    with progress_bar(terminal, transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_lines(doing: str) -> Callable[[int, int], None]:
    last = time.monotonic()  # so that what is done at once prints no line at all

    def advance(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_LINE_S:
            last = time.monotonic()
            say(f"{doing}: {done:,} of {total:,}", error=True)

    return advance
