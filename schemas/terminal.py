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
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.segment import Segment
from rich.text import Text

from schemas.printable import NotWritten, printable, printable_lines, say, shows_progress

LINE_EVERY_S = 10.0


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


class Progress:
    """How far a step is: a bar on a terminal, a line every few seconds elsewhere.

    Both on standard error, since standard output is for results, which may go to a file.

    Args:
        doing: e.g. "verifying".
        columns: of the bar, after the numbers; `show` fills them.
        total: how much there is to do, and `completed` of an earlier run; None: not known yet.
        visible: False shows nothing, as within `without_progress`.
        transient: the bar goes away at the end.
    """

    def __init__(
        self,
        doing: str,
        *columns: str,
        total: int | None = None,
        completed: int = 0,
        visible: bool = True,
        transient: bool = False,
    ) -> None:
        terminal = Terminal(error=True)
        visible = visible and shows_progress()
        self._lines = visible and not terminal.is_terminal
        self._last_line_s = time.monotonic()  # so that what is done at once prints no line at all
        texts = (f"{{task.fields[{column}]}}" for column in columns)
        first, *others = (TextColumn(text, markup=False) for text in ("{task.description}", *texts))
        self._bar = Bar(
            first,
            BarColumn(),
            MofNCompleteColumn(),
            *others,
            TimeRemainingColumn(),
            console=terminal,
            transient=transient,
            disable=not (visible and terminal.is_terminal),
        )
        empty: dict[str, Any] = dict.fromkeys(columns, "")
        self._task = self._bar.add_task(doing, total=total, completed=completed, **empty)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, line: str, *, at_once: bool = False, **fields: Any) -> None:
        """Say how far it is; any thread may call it.

        Args:
            line: printed where there is no bar, unless another one was a moment ago.
            at_once: print it in any case.
            fields: completed, total, description, and the text of each of the columns.
        """
        self._bar.update(self._task, **fields)
        if self._lines and (at_once or time.monotonic() - self._last_line_s >= LINE_EVERY_S):
            self._last_line_s = time.monotonic()
            say(line, error=True)


@contextlib.contextmanager
def counting(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Progress of something that is counted, e.g. "verifying".

    Yields:
        A function to call with (done, total); any thread may call it.
    """
    with Progress(doing, transient=True) as shown:
        yield lambda done, total: shown.show(
            f"{doing}: {done:,} of {total:,}", completed=done, total=total
        )
