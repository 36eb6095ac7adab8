"""What commands share on the terminal: one progress bar, and Ctrl-C at any moment."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from schemas.printable import say, shows_progress

INTERRUPTED = 130

_PLAIN_LINE_S = 5.0
_STDERR = 2
_RESUMED = {"add", "demo", "generate"}  # `train` needs --resume and says so itself


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
    from schemas.terminal import Terminal, progress_bar  # slow: rich

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


def interrupted(command: str) -> str:
    """What to say after Ctrl-C."""
    hint = "; the same command goes on from here" if command in _RESUMED else ""
    return f"controlset {command}: interrupted{hint}"


@contextlib.contextmanager
def leaving_at_once(command: str) -> Iterator[None]:
    """Ctrl-C ends the process on the spot: for imports, before there is anything to tidy up.

    As an exception it can be lost there, and the import lock with it: pyarrow imports pandas inside
    a C function that drops exceptions; `inspect` then ran on or stood still for good (measured).

    Args:
        command: e.g. "inspect".
    """
    if not can_be_interrupted():
        yield
        return

    def leave(_number: int, _frame: object) -> None:
        os.write(_STDERR, f"{interrupted(command)}\n".encode())  # sys.stderr may be captured
        os._exit(INTERRUPTED)  # no exception: see above

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def load_arrow() -> None:
    """Let pyarrow import pandas now, if it is installed; it would at its first array."""
    import pyarrow

    pyarrow.array([0])


def can_be_interrupted() -> bool:
    """Whether a handler may be set; who ignores Ctrl-C (a job in the background) goes on so."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
