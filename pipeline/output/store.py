"""The output folder: atomic commits, listing, deleting; on the local disk or elsewhere.

Local: write beside the final name, fsync, rename. Object stores: an object appears whole under its
final name when it is closed, so the verified local file is uploaded once. Other places: upload
beside the final name, rename.
"""

import contextlib
import os
import posixpath
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.places import file_system
from schemas import files, filesystems
from schemas.files import OutputError
from schemas.filesystems import StoreRefusal, answering, is_local

TEMP_PREFIX = ".tmp-"
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}", re.ASCII)


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn a refusal of the output place into one clear error.

    Raises:
        OutputError: as `schemas.files.writing`, or a bucket that refuses; other failures fly.
    """
    try:
        with files.writing(path):
            yield
    except StoreRefusal as error:
        got, advice = error.refusal.got, error.refusal.advice
        raise OutputError(f"{path}: need to write here, got {got}; {advice}") from error


@contextlib.contextmanager
def temporary_file(final: str) -> Iterator[str]:
    """A local path to write to before `commit`; whatever is left there is deleted at the end."""
    # Other workers, on other machines, write to the same folder.
    name = f"{TEMP_PREFIX}{uuid.uuid4().hex}"
    if is_local(final):
        folder = os.path.dirname(final)
        os.makedirs(folder, exist_ok=True)
    else:
        # It is whole here, and checked, before a bucket sees a byte of it.
        folder = tempfile.gettempdir()
    path = os.path.join(folder, name)
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def is_temporary(name: str) -> bool:
    """Whether a file has a name that `temporary_file` gives: only these may be swept away."""
    return _TEMPORARY.fullmatch(name) is not None


def commit(temporary: str, final: str) -> None:
    """Let a finished local file appear whole under its final name.

    Args:
        temporary: from `temporary_file(final)`.
        final: path or URI; replaced if it exists.

    Raises:
        OutputError: a bucket refuses, or holds another number of bytes afterwards.
    """
    if not is_local(final):
        with writing(final):
            _upload(temporary, final)
        return
    files.sync(Path(temporary))
    os.replace(temporary, final)
    files.sync(Path(final).parent)  # the rename itself must survive a power cut


def _upload(temporary: str, final: str) -> None:
    bucket = file_system(final)
    folder = posixpath.dirname(final)
    with answering(final, whole=True):
        if filesystems.is_object_store(final):
            bucket.put_file(temporary, final)
        else:  # a file would grow under its name
            beside = f"{folder}/{TEMP_PREFIX}{uuid.uuid4().hex}"
            bucket.makedirs(folder, exist_ok=True)
            bucket.put_file(temporary, beside)
            bucket.mv(beside, final)
    # What lies there counts, whatever the client made of its connection.
    sent, there = os.path.getsize(temporary), size_of(final)
    if there != sent:
        raise OutputError(
            f"{final}: need {sent:,} bytes after the upload, found {there}; "
            "run the same command again to go on"
        )


def commit_text(text: str, final: str) -> None:
    """Atomically write a small text file (UTF-8)."""
    with writing(final), temporary_file(final) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        commit(temporary, final)


def read_text(path: str) -> str | None:
    """Contents of a small file, None if it is not there; damage shows as U+FFFD, never raises."""
    if is_local(path):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return None
    try:
        with answering(path):
            raw = filesystems.read_range(file_system(path), path, None, None)
    except FileNotFoundError:
        return None
    return raw.decode(errors="replace")


def open_binary(path: str) -> BinaryIO:
    """A committed file for reading, seekable."""
    if is_local(path):
        return open(path, "rb")
    return cast("BinaryIO", filesystems.open_input(file_system(path), path))


def size_of(path: str) -> int | None:
    """Size in bytes, None if it is not there."""
    if is_local(path):
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            return None
    (found,) = filesystems.stats(file_system(path), [path])
    return None if found is None else found.size_bytes


def names_in(folder: str) -> list[str]:
    """Names of the files in a folder, sorted; none if it is not there."""
    if is_local(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    with answering(folder), contextlib.suppress(FileNotFoundError):
        found = file_system(folder).ls(folder, detail=True)
        return sorted(
            posixpath.basename(entry["name"]) for entry in found if entry["type"] == "file"
        )
    return []


def remove(path: str) -> None:
    """Delete a file; it may be gone already."""
    if is_local(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    with answering(path), contextlib.suppress(FileNotFoundError):
        file_system(path).rm_file(path)
