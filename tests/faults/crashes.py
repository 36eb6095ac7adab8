"""What a process that is killed leaves behind, at every single moment that differs.

One process imports everything once and forks for every run: a fresh interpreter would spend
seconds importing Beam or torch for less than a second of work. A change is a file opened for
writing, renamed, linked, truncated or removed, a folder made or removed, below the folder that is
watched: between two of them a killed process leaves the same files behind, but for half-written
ones under their temporary names. SIGKILL leaves what lies there, so a copy of the folder right
before a change is what a run leaves that is killed then, and one run gives the copies of all its
moments.
"""

import base64
import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from tests import shortcuts

ROOT = Path(__file__).parents[2]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PLACE_OF_FD = {"os.mkdir": 2, "os.remove": 1, "os.rmdir": 1}  # which argument is its dir_fd


class Crashes:
    """The process that forks; `close` it."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.crashes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def run(self, function, *arguments, below=None, kill_before=None, copies=None, meanwhile=None):
        """Call a function of a module in a child.

        Args:
            function: is pickled by its name; so are the arguments.
            arguments: of the call. An integer that it returns becomes the status.
            below: the folder whose changes are counted.
            kill_before: number of the change, from 0, that does not happen any more.
            copies: folder for a copy of `below` as it is before each change.
            meanwhile: is called with the child's number while it runs.

        Returns:
            Its exit status, negative if a signal ended it, and how many changes it made (None if
            it was killed).
        """
        watched = (below and str(below), kill_before, copies and str(copies))
        order = pickle.dumps((function, arguments, watched))
        self._process.stdin.write(base64.b64encode(order).decode() + "\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if meanwhile is not None:
            meanwhile(child)
        return tuple(json.loads(self._process.stdout.readline()))

    def states(self, function, *arguments, below, into):
        """What a run would leave that is killed before each of its changes, in their order.

        Args:
            function: as in `run`.
            arguments: of the call.
            below: the folder that the run changes.
            into: a new folder, for copies of it.

        Returns:
            A path for each change: a copy of `below`; nothing is there where nothing was yet. Equal
            ones in a row are one.
        """
        status, changes = self.run(function, *arguments, below=below, copies=into)
        assert status == 0
        paths, before = [], None
        for number in range(changes):
            path = into / str(number)
            now = _contents(path)
            if not paths or now != before:
                paths.append(path)
            before = now
        return paths

    def close(self):
        """End it."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def killing(count, least, and_s=0.0, number=signal.SIGKILL):
    """For `meanwhile`: sends a signal `and_s` after `count()` has become that large.

    A moment of the run and no time since its start, however fast the machine is just now.
    """

    def wait_and_kill(child):
        while count() < least and _is_running(child):
            time.sleep(0.001)
        time.sleep(and_s)
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            os.kill(child, number)

    return wait_and_kill


def _is_running(child):
    try:
        stat = Path(f"/proc/{child}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def _path_of(event, arguments, place):
    """What an event is about, absolute, or None."""
    path = arguments[place]
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    path = os.fsdecode(path)
    folder = arguments[_PLACE_OF_FD[event]] if event in _PLACE_OF_FD else -1
    if folder != -1 and not os.path.isabs(path):
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return path


def _changes(event, arguments, below):
    """Whether an event of Python's is about to change something below a folder."""
    match event:
        case "open":
            if not arguments[2] & _WRITES:
                return False
        case "os.rename" | "os.link" | "os.symlink":
            return any((_path_of(event, arguments, n) or "").startswith(below) for n in (0, 1))
        case "os.mkdir" | "os.remove" | "os.rmdir" | "os.truncate":
            pass
        case _:
            return False
    path = _path_of(event, arguments, 0)
    if path is None or not path.startswith(below):
        return False
    return os.path.lexists(path) != (event == "os.mkdir") or event == "open"


def _contents(folder):
    """Names and bytes of all that lies in a folder; None if it is not there."""
    if not folder.exists():
        return None
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def _watch(below, kill_before, copies):
    """Count changes, copy before each, die before one; returns how to read the count."""
    seen, turn = 0, threading.RLock()
    is_copying = False

    def hook(event, arguments):
        nonlocal seen, is_copying
        if not _changes(event, arguments, below):
            return
        with turn:
            if is_copying:
                return
            if seen == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            if copies is not None and os.path.exists(below):
                is_copying = True
                shutil.copytree(below, os.path.join(copies, str(seen)), symlinks=True)
                is_copying = False
            seen += 1

    sys.addaudithook(hook)
    return lambda: seen


def _main():
    shortcuts.take()
    for line in sys.stdin:
        function, arguments, watched = pickle.loads(base64.b64decode(line))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.dup2(2, 1)  # what a run prints must not come between the answers
                seen = _watch(*watched) if watched[0] is not None else lambda: None
                returned = function(*arguments)
                status = returned if isinstance(returned, int) else 0
                os.write(writing, str(seen()).encode())
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        os.close(writing)
        print(child, flush=True)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with open(reading) as file:
            count = file.read()
        changes = int(count) if count.isdigit() else None
        print(json.dumps([status, changes]), flush=True)


if __name__ == "__main__":
    _main()
