"""One run at a time in a local folder."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from schemas.errors import ConfigError
from schemas.writing import writing


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder and be the only run that writes to it; one that stays empty goes again.

    Raises:
        ConfigError: it cannot be made, or another run holds it.
    """
    new = not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            yield
    finally:
        if new:
            with contextlib.suppress(OSError):  # it holds something, or may not be read
                folder.rmdir()


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Be the only run that writes to a local folder; the lock goes with the process.

    Args:
        folder: is there. Where folders cannot be locked (Windows), a file in the temporary folder
            of this machine stands for it.

    Raises:
        ConfigError: another run holds it, or it cannot be opened.
    """
    if find_spec("fcntl") is None:
        with _locked_by_file(folder):
            yield
        return
    fcntl = import_module("fcntl")
    with writing(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(folder) from error
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked_by_file(folder: str | os.PathLike[str]) -> Iterator[None]:
    import filelock

    name = hashlib.sha256(os.path.realpath(folder).encode("utf-8", "surrogateescape")).hexdigest()
    lock = filelock.FileLock(Path(tempfile.gettempdir()) / f"controlset-{name[:32]}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise _taken(folder) from error
    try:
        yield
    finally:
        lock.release()


def _taken(folder: str | os.PathLike[str]) -> ConfigError:
    return ConfigError(
        f"{folder}: need to be the only run, but another one is writing here; "
        "wait for it or choose another --output"
    )
