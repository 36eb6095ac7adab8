"""Folders on the local disk."""

import dataclasses
import errno
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.sources import names
from pipeline.sources.folder import FileStat, Folder
from pipeline.sources.spec import Selection
from schemas.errors import Reason, Rejected
from schemas.records import Place, Problem


def walk(selection: Selection) -> Iterator[Folder]:
    """See `files.walk`; holds the names of one folder at a time."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        relative, ancestors = pending.pop()
        uri = names.join(selection.base, relative) if relative else selection.base
        try:
            status = os.stat(uri or "/")
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors:
                continue
            files, folders = _scan(uri or "/")
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            yield _unlistable(relative, uri, error)
            continue
        if selection.names is not None:
            files = sorted({*files, *selection.names}.difference(folders))
        yield Folder(relative=relative, uri=uri, names=files, folders=folders, stat=_LocalStat(uri))
        level = relative.count("/") + 2 if relative else 1
        if selection.depth is None or level < selection.depth:
            deeper = ancestors | {identity}
            pending.extend((names.join(relative, name), deeper) for name in reversed(folders))


def _scan(path: str) -> tuple[list[str], list[str]]:
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            if not names.is_hidden(entry.name):
                (folders if _is_folder(entry) else files).append(entry.name)
    return sorted(files), sorted(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself, or into a folder that may not be entered
        return False


def _unlistable(relative: str, uri: str, error: OSError) -> Folder:
    missing = isinstance(error, FileNotFoundError)
    problem = Problem(
        reason=Reason.SOURCE_MISSING if missing else Reason.SOURCE_UNREADABLE,
        detail=f"folder cannot be listed, what is in it is not known: {error.strerror}",
    )
    return Folder(
        relative=relative, uri=uri, names=[], folders=[], stat=_LocalStat(uri), problem=problem
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _LocalStat:
    folder: str

    def __call__(self, name: str) -> FileStat | Problem:
        path = f"{self.folder}/{name}"
        try:
            status = os.stat(path)
        except PermissionError as error:
            return Problem(reason=Reason.SOURCE_UNREADABLE, detail=f"{error.strerror}")
        except OSError as error:
            if not isinstance(error, FileNotFoundError) and error.errno != errno.ELOOP:
                raise
            link = os.path.islink(path)
            detail = "a symbolic link to nothing" if link else "gone while it was listed"
            return Problem(reason=Reason.SOURCE_MISSING, detail=detail)
        if not stat.S_ISREG(status.st_mode):
            return Problem(reason=Reason.NOT_A_FILE, detail=_kind_of(status.st_mode))
        return FileStat(uri=path, size_bytes=status.st_size, modified_s=status.st_mtime)


def _kind_of(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"


def file_names(selection: Selection) -> Iterator[str]:
    """See `files.file_names`; unsorted, one entry at a time."""
    pending = [("", frozenset[str]())]
    while pending:
        relative, ancestors = pending.pop()
        real = os.path.realpath(
            names.join(selection.base, relative) if relative else selection.base or "/"
        )
        if real in ancestors:
            continue
        level = relative.count("/") + 2 if relative else 1
        deeper = selection.depth is None or level < selection.depth
        try:
            with os.scandir(real) as entries:
                for entry in entries:
                    if names.is_hidden(entry.name):
                        continue
                    if not _is_folder(entry):
                        yield names.join(relative, entry.name)
                    elif deeper:
                        pending.append((names.join(relative, entry.name), ancestors | {real}))
        except (FileNotFoundError, PermissionError):
            continue  # the walk reports it


def open_checked(place: Place) -> BinaryIO:
    """See `files.open_checked`."""
    try:
        opened = open(place.uri, "rb", opener=_nonblocking)
    except FileNotFoundError:
        raise Rejected(Reason.SOURCE_MISSING, "gone since it was listed") from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        detail = f"cannot be opened: {error.strerror}"
        raise Rejected(Reason.SOURCE_UNREADABLE, detail) from None
    try:
        _check_unchanged(place, os.fstat(opened.fileno()))
    except Rejected:
        opened.close()
        raise
    return opened


def read(place: Place) -> bytes:
    """The bytes of `place`, or fewer where the file ends."""
    with open_checked(place) as opened:
        opened.seek(place.offset)
        return opened.read() if place.size_bytes is None else opened.read(place.size_bytes)


def _nonblocking(path: str, flags: int) -> int:
    """A pipe that took the place of a file must not hang the run."""
    return os.open(path, flags | os.O_NONBLOCK)


def _check_unchanged(place: Place, now: os.stat_result) -> None:
    if not stat.S_ISREG(now.st_mode):
        raise Rejected(Reason.SOURCE_UNREADABLE, f"need a file, found {_kind_of(now.st_mode)}")
    if place.file_bytes is not None and now.st_size != place.file_bytes:
        detail = f"listed with {place.file_bytes} bytes, now {now.st_size} bytes"
        raise Rejected(Reason.SOURCE_CHANGED, detail)
    if place.modified_s is not None and now.st_mtime != place.modified_s:
        detail = f"listed as modified at {place.modified_s} s, now at {now.st_mtime} s"
        raise Rejected(Reason.SOURCE_CHANGED, detail)
