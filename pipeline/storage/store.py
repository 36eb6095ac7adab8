"""The output folder: atomic commits, listing, deleting; local or on any Beam file system.

Local: write beside the final name, fsync, rename. Elsewhere (object stores): an object appears
whole under its final name when it is closed, so the verified local file is uploaded once.
"""

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from apache_beam.io.filesystem import CompressionTypes

from pipeline.storage.object_stores import check_reachable, file_systems, refusal_of
from schemas.errors import ConfigError
from schemas.files import WHAT_TO_DO, OutputError

TEMP_PREFIX = ".tmp-"
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}", re.ASCII)


def is_local(path: str) -> bool:
    """Whether `path` lies in the machine's own file system."""
    return "://" not in path


def check_place(path: str) -> None:
    """Check that Beam can reach the place at all.

    Raises:
        ConfigError: no such file system, its package is not installed, or the bucket refuses.
    """
    if not is_local(path):
        try:
            file_systems().get_filesystem(path)
        except ValueError as error:
            raise ConfigError(f"{path}: need a file system that Beam knows, got {error}") from None
        check_reachable(path)


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn a refusal of the output place into one clear error.

    Raises:
        OutputError: disk full, quota, read-only, permission denied, a place where nothing can be
            made (/proc), a bucket that refuses; other failures fly.
    """
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in WHAT_TO_DO:
            got, advice = os.strerror(error.errno).lower(), WHAT_TO_DO[error.errno]
        elif not is_local(path) and (refusal := refusal_of(error)) is not None:
            got, advice = refusal.got, refusal.advice
        else:
            raise
        raise OutputError(f"{path}: need to write here, got {got}; {advice}") from error


@contextlib.contextmanager
def temporary_file(final: str) -> Iterator[str]:
    """A local path to write to before `commit`; whatever is left there is deleted at the end."""
    name = f"{TEMP_PREFIX}{uuid.uuid4().hex}"
    if is_local(final):
        folder = os.path.dirname(final)
        os.makedirs(folder, exist_ok=True)
    else:
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
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, final)
    folder = os.open(os.path.dirname(final), os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


def _upload(temporary: str, final: str) -> None:
    with (
        open(temporary, "rb") as source,
        file_systems().create(final, compression_type=CompressionTypes.UNCOMPRESSED) as destination,
    ):
        shutil.copyfileobj(source, destination, 1 << 20)
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
    if not file_systems().exists(path):
        return None
    with file_systems().open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return file.read().decode(errors="replace")


def open_binary(path: str) -> BinaryIO:
    """A committed file for reading, seekable."""
    if is_local(path):
        return open(path, "rb")
    return file_systems().open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def size_of(path: str) -> int | None:
    """Size in bytes, None if it is not there."""
    if is_local(path):
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            return None
    found = file_systems().match([path])[0].metadata_list
    return found[0].size_in_bytes if found else None


def names_in(folder: str) -> list[str]:
    """Names of the files in a folder, sorted; none if it is not there."""
    if is_local(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = file_systems().match([f"{folder}/*"])[0].metadata_list
    return sorted(os.path.basename(entry.path) for entry in found)


def remove(path: str) -> None:
    """Delete a file; it may be gone already."""
    if is_local(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    elif file_systems().exists(path):
        file_systems().delete([path])
