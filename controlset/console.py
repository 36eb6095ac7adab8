"""What commands share on the terminal: one progress bar, one place for results."""

import contextlib
import time
from collections.abc import Callable, Iterator

from schemas.printable import say
from schemas.terminal import Terminal, progress_bar

_PLAIN_LINE_S = 5.0


def results() -> Terminal:
    """Where results go: standard output."""
    return Terminal()


@contextlib.contextmanager
def progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line every few seconds elsewhere; both on standard error.

    Args:
        doing: e.g. "verifying".

    Yields:
        A function to call with (done, total); any thread may call it.
    """
    terminal = Terminal(error=True)
    if not terminal.is_terminal:
        yield _plain_lines(doing)
        return
    with progress_bar(terminal, transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_lines(doing: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_LINE_S:
            last = time.monotonic()
            say(f"{doing}: {done:,} of {total:,}", error=True)

    return advance
