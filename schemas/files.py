"""Local files: whole or not at all, never a pipe, named safely, and one run at a time in a folder.

A disk that refuses is one line of error. A folder that came from somebody else may hold a pipe,
which would be waited for without end.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from io import BufferedReader
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError
from schemas.machine import lacks_memory

UNFINISHED = ".writing-"
"""How names begin that `taking_place` writes to."""

_TEMPORARY = re.compile(r"\..+\.[0-9]+\.tmp(\.[^.]+)?")
_AGAIN = "then run the same command again to go on"
WHAT_TO_DO = {
    errno.ENOSPC: f"free some space, {_AGAIN}",
    errno.EDQUOT: f"raise the quota, {_AGAIN}",
    errno.EFBIG: f"raise the limit of file sizes (`ulimit -f`), {_AGAIN}",
    errno.EROFS: "choose a folder that can be written with --output",
    errno.EACCES: "choose a folder that can be written with --output",
    errno.EPERM: "choose a folder that can be written with --output",
    errno.ENOENT: "choose a folder that can be made with --output",
    errno.ENOTDIR: "choose a folder, not a file, with --output",
    errno.EEXIST: "choose a folder, not a file, with --output",
    errno.EISDIR: "choose another --output, or move that folder away",
    errno.ENAMETOOLONG: "choose a shorter --output",
}
"""What a user does when the system refuses to write."""

_ONLY_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_SMALLER_BATCH = "take a smaller --batch-size, or end other programs"
_FEWER_WORKERS = (
    f"use fewer --num-workers, end other programs, or raise the limit (`ulimit -v`), {_AGAIN}"
)


class OutputError(ConfigError):
    """The output place refuses to be written; what was committed before is intact."""


@contextlib.contextmanager
def writing(place: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a refusal of the disk into one clear error.

    Args:
        place: what is written, for the error.

    Raises:
        OutputError: disk full, quota, limits, read-only, permission denied, a place where nothing
            can be made; other failures fly.
    """
    try:
        yield
    except OSError as error:
        advice = WHAT_TO_DO.get(error.errno or 0)
        if advice is None:
            raise
        got = os.strerror(error.errno or 0).lower()
        raise OutputError(f"{place}: need to write here, got {got}; {advice}") from error


@contextlib.contextmanager
def machine_limits(folder: str | os.PathLike[str]) -> Iterator[None]:
    """One clear error for whatever a whole command meets of a full disk or memory.

    Args:
        folder: that the command writes to.

    Raises:
        OutputError: the disk is full or read-only, or a file below the folder may not be used.
        ConfigError: the memory is full.
    """
    with memory_limits(folder, advice=_SMALLER_BATCH):
        try:
            yield
        except OSError as error:
            below = str(error.filename or "").startswith(f"{os.fspath(folder)}")
            if error.errno not in WHAT_TO_DO or not (below or error.errno in _ONLY_WRITING):
                raise
            got, advice = os.strerror(error.errno or 0).lower(), WHAT_TO_DO[error.errno or 0]
            where = error.filename if below else folder
            raise OutputError(
                f"{where}: need to read and write here, got {got}; {advice}"
            ) from error


@contextlib.contextmanager
def memory_limits(
    folder: str | os.PathLike[str], *, advice: str = _FEWER_WORKERS
) -> Iterator[None]:
    """One clear error for whatever a whole command meets of a full memory.

    Args:
        folder: that the command writes to.
        advice: what to do.

    Raises:
        ConfigError: the memory is full.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # libraries say so in exceptions of their own
        if not lacks_memory(error):
            raise
        raise ConfigError(f"{folder}: need more memory than is free here; {advice}") from error


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A place to write a file to, which then takes its name.

    Args:
        path: final name; an older file is replaced. Its folder exists.
        durable: have the disk hold it before it takes its name, so that it is whole after a power
            cut, too; False where a reader can tell that it is torn.

    Yields:
        Temporary name beside it, with the same suffix. Nothing stays of it if writing fails.

    Raises:
        OutputError: as in `writing`.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with writing(path):
        try:
            yield temporary
            if durable:
                sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def taking_place(path: Path) -> Iterator[Path]:
    """A place to write a file or a folder to, which then takes its name; else nothing stays of it.

    For what is large or several files: it is on the disk before it takes its name. A folder cannot
    be renamed over a full one, so that one steps aside.

    Args:
        path: final name; an older file or folder is replaced.

    Yields:
        A name beside it; nothing is there yet.

    Raises:
        OutputError: as in `writing`.
    """
    temporary = path.with_name(f"{UNFINISHED}{path.name}")
    aside = path.with_name(f"{UNFINISHED}old-{path.name}")
    with writing(path):
        try:
            for old in (temporary, aside):  # of a killed run
                _delete(old)
            temporary.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            for part in [*temporary.rglob("*"), temporary]:
                if part.is_file():
                    # As readable as any new file: safetensors lets its owner alone read its files.
                    part.chmod(0o666 & ~_umask())
                sync(part)
            if path.exists():
                path.rename(aside)
            temporary.rename(path)
            _delete(aside)
            sync(path.parent)
        finally:
            with contextlib.suppress(OSError):
                _delete(temporary)


def _umask() -> int:
    os.umask(current := os.umask(0))  # there is no other way to read it
    return current


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `replacing` makes."""
    return _TEMPORARY.fullmatch(name) is not None


def clear_temporary(folder: Path) -> None:
    """Delete what killed runs were writing in a folder; the caller holds its lock."""
    with writing(folder):
        for path in folder.iterdir():
            if is_temporary(path.name) and path.is_file() and not path.is_symlink():
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8, whole or not at all; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document as JSON, whole or not at all; see `replacing`.

    Raises:
        ValueError: it holds NaN or infinity, which JSON lacks.
    """
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder."""
    is_windows = os.name == "nt"  # it syncs what is open for writing, and no folder
    if is_windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_plain(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to be read; nothing else of that name.

    Raises:
        OSError: not there, not to be read, or no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "something that is no file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def read_plain(path: Path) -> bytes:
    """All bytes; as `open_plain`."""
    with open_plain(path) as opened:
        return opened.read()


def file_digest(path: Path) -> str:
    """sha256 of a file in hexadecimal digits; as `open_plain`."""
    with open_plain(path) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .()+,=@-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9_ ()+,=@-]")
_LONGEST = 120  # bytes; others put suffixes behind it, and most disks allow 255


def file_name(text: str) -> str:
    """A name out of data (a key, a condition, a run) as one part of a path.

    Args:
        text: anything.

    Returns:
        The text itself where it is plain: ASCII letters, digits and a few marks, no dot in front,
        up to 120 characters. Else its plain characters and sixteen digits of its sha256: so it
        never leaves the folder, and no two texts have one name.
    """
    if len(text) <= _LONGEST and _PLAIN.fullmatch(text) and text == text.rstrip(" ."):
        return text
    digits = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{_UNSAFE.sub('_', text)[: _LONGEST - 17]}-{digits}".lstrip(" ")


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
