"""The console command: finds the subcommand, turns expected failures into one line.

Exit status: 0 done, 1 finished with an unmet check, 2 wrong use or configuration, or a machine that
lacks what is needed (room, memory, rights), 130 interrupted, 141 nobody reads the output any more.
"""

import contextlib
import difflib
import errno
import importlib
import io
import itertools
import logging
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator, Sequence

from controlset import __version__
from controlset.commands import INTERRUPTED, can_be_interrupted, interrupted, leaving_at_once
from schemas.errors import ConfigError, NothingKept
from schemas.machine import give_kept_back, has_room, lacks_memory
from schemas.printable import NotWritten, flush, printable_lines, say

COMMANDS = {
    "generate": "photographs -> a data set of images, captions and condition maps",
    "add": "another condition, or captions, for a data set; nothing else is made again",
    "inspect": "counts, histograms and quality flags of a data set",
    "verify": "check a data set against its manifest; extract maps again and compare",
    "train": "a ControlNet on a data set's shards; probes say when it obeys",
    "sample": "pictures under one or several ControlNets",
    "evaluate": "does it obey? adherence with ceiling, floor and intervals, and a report",
    "ablate": "the paper's ablations on the nano base, in one table",
    "export": "a trained ControlNet for ComfyUI, A1111 and diffusers",
    "weights": "list or download what annotators need, with licences",
    "scale": "what a run on many machines takes: hours, bytes, money",
    "doctor": "versions, devices, runners, and which annotators are ready",
    "draw": "pictures of a drawn world with exact depth, outlines, joints and captions",
    "demo": "the whole story in minutes: pictures, data set, ControlNet, numbers, report",
}

NO_MEMORY = "need more memory, got no more; use fewer --num-workers, or another machine"
_STDERR, _FAILED = 2, 2  # a file descriptor, an exit status
_LITTLE_BYTES = 4 << 20
_TO_BEGIN_BYTES = 64 << 20  # with less, the watching thread itself might be lost
_LOOK_S, _LOOKS = 1.0, 5  # so often in turn without room: nobody tidies up any more

HELP = """usage: controlset COMMAND ...

Raw images in, ControlNet training sets out.

commands:
{commands}

options:
  -h, --help     this text; `controlset COMMAND --help` explains a command
  --version      the version

example:
  controlset generate photographs/ --output canny-set --conditions canny --resolution 512
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None takes them from the shell.

    Returns:
        Exit status.

    Raises:
        SystemExit: status 0, after the help of a command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names need not fit the terminal
    if arguments is None:
        _start_over_if_needed()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:  # around everything: a reader that goes away may be noticed by any line that is printed
        try:
            status = _answer(given)
        except SystemExit:
            flush()
            raise
        flush()  # here, where what goes wrong can still be told
        return status
    except NotWritten as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), error.stream.fileno())  # for Python's own flush
        if isinstance(error.__cause__, BrokenPipeError):  # `controlset inspect … | head`
            return 141  # as the shell says it of a process that SIGPIPE ended
        return _say(f"controlset: standard output: need room to write, got {error}", 2)


def _start_over_if_needed() -> None:
    """With names of files in UTF-8, and with docstrings, if Python was started without.

    Under `LC_ALL=C PYTHONUTF8=0` the same folder would be read with other names, and pyarrow, which
    takes paths in UTF-8 alone, would not find them. What is printed stays in the terminal's own
    encoding. Under `python -OO` Beam cannot be imported: it edits its docstrings.
    """
    python, *words = sys.orig_argv  # sys.argv lacks Python's own flags
    flags = []
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"  # for processes that this one starts
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:backslashreplace")
        flags = ["-X", "utf8"]
    # With -O asserts go and docstrings stay, which is as much as can be kept of -OO.
    without = list(itertools.dropwhile(lambda word: word in {"-O", "-OO"}, words))
    if sys.flags.optimize > 1 and (os.environ.pop("PYTHONOPTIMIZE", None) or without != words):
        flags.append("-O")
        words = without
    if flags:
        os.execv(sys.executable, [python, *flags, *words])


def _answer(given: Sequence[str]) -> int:
    if not given or given[0] in {"-h", "--help"}:
        lines = "\n".join(f"  {name:<12} {text}" for name, text in COMMANDS.items())
        say(*HELP.format(commands=lines).splitlines(), error=not given)
        return 0 if given else 2
    if given[0] == "--version":
        say(f"controlset {__version__}")
        return 0
    name = given[0]
    if name not in COMMANDS:  # a table of names, so that a slip is told without any import
        near = difflib.get_close_matches(name, [*COMMANDS, "--help", "--version"], n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        kind = "option" if name.startswith("-") else "command"
        return _say(f"controlset: unknown {kind} {name!r}; {hint}", 2)
    return _run(name, given[1:])


def _run(name: str, arguments: Sequence[str]) -> int:
    logging.getLogger().addFilter(_without_apitools)
    # What prints warnings of libraries that nobody set up logging for.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Printable())
    interrupts = _counted_interrupts()
    _let_own_files_be_used()
    try:
        with leaving_at_once(name):
            command = importlib.import_module(f"controlset.commands.{name}")
        with leaving_where_a_thread_is_lost(name):
            return command.run(arguments)
    except ConfigError as error:
        return _say(f"controlset {name}: {error}", 1 if isinstance(error, NothingKept) else 2)
    except BaseException as error:
        # Beam and native code may turn the interrupt into another exception on its way out.
        if interrupts or isinstance(error, KeyboardInterrupt):
            return _say(interrupted(name), INTERRUPTED)
        give_kept_back()  # else there may be no memory to say so
        said = _lack_of_the_machine(error)
        if said is None:
            raise  # a bug or an outage: whoever repairs it needs the traceback
        return _say(f"controlset {name}: {said}", 2)


# What the system refuses whatever we do: room, rights, handles, a name or a disk that will not do.
_REFUSED = frozenset(
    getattr(errno, name, 0)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "EIO", "ENOMEM", "EMFILE"),
        *("ENFILE", "ENAMETOOLONG", "ELOOP", "ENOTDIR", "EISDIR", "ESTALE", "EAGAIN"),
    )
)


def _lack_of_the_machine(error: BaseException) -> str | None:
    """What to say of a failure that is the system's refusal; None: it is a bug or an outage."""
    if lacks_memory(error):
        return NO_MEMORY
    # A name of a file that is no UTF-8 reaches pyarrow or JSON, which take nothing else.
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return f"{error.object}: need a name in UTF-8 here, got bytes that are none; rename it"
    if not isinstance(error, OSError) or error.errno not in _REFUSED:
        return None
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}need the system to allow it, got {error.strerror or error}"


def _let_own_files_be_used() -> None:
    """Let the umask say what others may, and the owner do everything.

    A command reads what it wrote; under umask 777 it could not enter the folder that it made.
    """
    os.umask(os.umask(0o077) & 0o077)  # read by setting it, there is no other way


def _counted_interrupts() -> list[int]:
    """A list that grows with every Ctrl-C; each still raises KeyboardInterrupt."""
    received: list[int] = []

    def handle(number: int, frame: types.FrameType | None) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    if can_be_interrupted():
        signal.signal(signal.SIGINT, handle)
    return received


def _without_apitools(record: logging.LogRecord) -> bool:
    """Beam warns at import that Google's clients are not installed; they need not be."""
    return "apitools not found" not in record.getMessage()


class _Printable(logging.Formatter):
    """What libraries log, with the names in it as harmless as in our own lines."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def _say(line: str, status: int) -> int:
    try:
        say(" ".join(line.split()), error=True)
    except NotWritten as error:  # the status alone says it
        os.dup2(os.open(os.devnull, os.O_WRONLY), error.stream.fileno())
    return status


@contextlib.contextmanager
def leaving_where_a_thread_is_lost(command: str) -> Iterator[None]:
    """End the process where a thread ends for want of memory and whoever waits for it is not told.

    One that cannot even begin lets its starter wait for good, and so does a pool's that cannot
    store its result (both measured). Where memory does not even suffice to tell of that (a limit
    was lowered meanwhile), a thread that began before sees that none comes back. What is half
    written goes with the next run, as after a kill.

    Args:
        command: e.g. "generate".
    """
    line, ended = f"controlset {command}: {NO_MEMORY}\n".encode(), threading.Event()

    def leave() -> None:
        os.write(_STDERR, line)
        os._exit(_FAILED)

    def leave_if_lacking(error: BaseException | None) -> None:
        give_kept_back()  # first: without it, not even the next line may be possible
        if error is not None and lacks_memory(error):
            leave()

    def watch() -> None:
        looks = 0
        while not ended.wait(_LOOK_S):
            looks = 0 if has_room(_LITTLE_BYTES) else looks + 1
            if looks == _LOOKS:
                leave()

    def in_pool(record: logging.LogRecord) -> bool:
        leave_if_lacking(record.exc_info[1] if record.exc_info else None)
        return True

    def in_thread(args: threading.ExceptHookArgs) -> None:
        leave_if_lacking(args.exc_value)
        of_threads(args)

    def before_thread(args: "sys.UnraisableHookArgs") -> None:  # a name for type checkers alone
        if "thread" in (args.err_msg or ""):
            leave_if_lacking(args.exc_value)
        of_others(args)

    # A pool logs what it cannot store; threads and what is raised nowhere have hooks of Python's.
    pools = logging.getLogger("concurrent.futures")
    of_threads, of_others = threading.excepthook, sys.unraisablehook
    pools.addFilter(in_pool)
    threading.excepthook, sys.unraisablehook = in_thread, before_thread
    if has_room(_TO_BEGIN_BYTES):
        threading.Thread(target=watch, name="watch-memory", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        pools.removeFilter(in_pool)
        sys.unraisablehook = of_others
        if threading.excepthook is in_thread:  # who put one before it meanwhile keeps it
            threading.excepthook = of_threads
