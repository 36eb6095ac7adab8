"""Files of strangers' folders: a pipe is refused and not waited for; errors hold no escapes."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from schemas.errors import ConfigError, NothingKept
from schemas.files import file_digest, open_plain, read_plain


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert read_plain(path) == b"abc"
    assert file_digest(path) == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_folder_is_refused_at_once(tmp_path: Path, make: object) -> None:
    path = tmp_path / "a"
    assert callable(make)
    make(path)
    for read in (open_plain, read_plain, file_digest):
        with pytest.raises(OSError, match=re.escape(str(path))):
            read(path)


def test_no_error_of_ours_acts_on_a_terminal() -> None:
    kinds: list[type[ConfigError]] = [ConfigError, NothingKept]
    for kind in kinds:
        assert str(kind("a\x1b[31mred: b\u202e; c\nd")) == "a\\x1b[31mred: b\\u202e; c\nd"
