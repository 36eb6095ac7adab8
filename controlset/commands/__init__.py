"""One module a command; each has `run(arguments) -> exit status` and imports what it needs late.

Late and under `leaving_at_once`: importing takes seconds, and Ctrl-C is meant then, too.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

INTERRUPTED = 130  # as a shell says it of a process that SIGINT ended

_STDERR = 2
_RESUMED = {"add", "demo", "generate"}  # `train` needs --resume and says so itself


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
