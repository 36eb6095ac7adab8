"""Files of a folder that came from somebody else: a pipe there would be waited for without end."""

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path


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
