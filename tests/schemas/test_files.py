"""Files appear whole or not at all, pipes are refused, folders are locked, names stay names."""

import contextlib
import errno
import hashlib
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.documents import check_digest, read_checked, with_digest
from schemas.errors import ConfigError, NothingKept
from schemas.files import (
    OutputError,
    clear_temporary,
    file_digest,
    file_name,
    held,
    is_temporary,
    locked,
    machine_limits,
    open_plain,
    read_plain,
    replacing,
    sync,
    taking_place,
    write_json,
)
from schemas.machine import lacks_memory

PLAIN = ("0a1b2c3d4e5f", "run", "run-2", "my run (2)", "run-step-12", "scale 0.5", "a_b", "x=1,y")
HOSTILE = (
    "", ".", "..", "../up", "/etc/passwd", "a/b", "a\\b", "..\\up", ".hidden", "-option", "a\0b",
    "a\nb", "C:con", "é☃", "\u202egnp.exe", "x" * 300, "trailing ", "trailing.", "\ud800", " a",
)  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_name_is_a_file_name_as_it_is(text):
    assert file_name(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_any_other_text_becomes_one_part_of_a_path(tmp_path, text):
    name = file_name(text)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert name.isascii()
    assert name.isprintable()
    assert len(name) <= 120
    assert not set(name) & set('/\\:*?"<>|.')
    (tmp_path / name).write_bytes(b"")


def test_no_two_texts_have_one_name():
    names = [file_name(text) for text in (*PLAIN, *HOSTILE, "a/b/", "a//b", "x" * 301)]
    assert len(set(names)) == len(names)


def test_a_file_is_replaced_whole_and_an_error_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            assert is_temporary(temporary.name)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert os.listdir(tmp_path) == ["a.json"]
    assert path.read_text() == '{\n "a": 1\n}\n'


def test_all_of_a_folder_is_on_the_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves a checkpoint under its name whose files are empty, or none."""
    calls: list[str] = []
    really = os.rename

    def rename(one: Path, other: Path) -> None:
        calls.append(f"{one.name} is now {other.name}")
        really(one, other)

    def fsync(descriptor: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(2):  # the second one replaces the first
        with taking_place(tmp_path / "step") as temporary:
            (temporary / "controlnet").mkdir(parents=True)
            (temporary / "controlnet" / "weights").write_bytes(b"abc")
            (temporary / "state").write_bytes(b"abc")
    parts = sorted([".writing-step", "controlnet", "weights", "state"])
    assert sorted(calls[:4]) == sorted(calls[6:10]) == parts
    assert calls[4:6] == [".writing-step is now step", tmp_path.name]
    assert calls[10:] == [
        "step is now .writing-old-step",
        ".writing-step is now step",
        tmp_path.name,
    ]
    assert os.listdir(tmp_path) == ["step"]


def test_a_limit_of_file_sizes_is_one_line_and_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python sets it at its start
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OutputError, match=r"a.json: need to write here, got file too large; "):
            write_json(tmp_path / "a.json", {"a": "x" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_or_memory_is_one_line_for_a_whole_command(tmp_path):
    def full_disk():
        raise OSError(errno.ENOSPC, "No space left on device")

    def foreign():
        raise FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/data")

    def unreadable():
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "config.json"))

    def no_memory():
        raise MemoryError

    def no_tensor():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    def bug():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    for fail, message in (
        (full_disk, "need to read and write here, got no space left on device; free some space"),
        (unreadable, "config.json: need to read and write here, got permission denied; choose"),
        (no_memory, "need more memory than is free here; take a smaller --batch-size"),
        (no_tensor, "need more memory than is free here"),
    ):
        with pytest.raises(ConfigError, match=message), machine_limits(tmp_path):
            fail()
    for fail, kind in ((foreign, FileNotFoundError), (bug, RuntimeError)):
        with pytest.raises(kind), machine_limits(tmp_path):
            fail()


@pytest.mark.parametrize("room", [False, True])
def test_native_code_that_does_not_say_why_it_failed_lacks_memory_if_none_is_left(
    monkeypatch, room
):
    class DecodeError(Exception):
        """As protobuf's."""

    monkeypatch.setattr("schemas.machine.has_room", lambda size_bytes: room)
    for error in (
        SystemError("returned NULL without setting an exception"),
        DecodeError("Error parsing message"),
        ValueError("no reason supplied"),
    ):
        assert lacks_memory(error) is not room
    assert not lacks_memory(ValueError("another reason"))


def test_only_what_we_could_have_written_is_swept(tmp_path):
    others = {".bashrc", "a.tmp", ".a.tmp", ".a.x.tmp", "notes.1.tmp.txt", "..1"}
    for name in (*others, ".a.17.tmp", ".a.17.tmp.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".d.1.tmp").mkdir()
    clear_temporary(tmp_path)
    assert set(os.listdir(tmp_path)) == others | {".d.1.tmp"}


def test_a_locked_folder_is_refused_to_a_second_process_and_free_after_a_kill(tmp_path):
    hold = "import sys, time; from schemas.files import locked\nwith locked(sys.argv[1]):\n"
    hold += " print('held', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="need to be the only run"), locked(tmp_path):
            pass
        other.kill()
    with locked(tmp_path):
        pass


def test_a_folder_that_stays_empty_goes_and_what_happened_is_told(tmp_path, monkeypatch):
    def unreadable(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", unreadable)  # as of a folder of umask 777
    for name, parts in (("empty", ()), ("full", ("file",))):
        with contextlib.suppress(ZeroDivisionError), held(tmp_path / name):
            for part in parts:
                (tmp_path / name / part).touch()
            _ = 1 / 0
    assert os.listdir(tmp_path) == ["full"]


def test_a_document_that_was_changed_is_refused_and_one_without_digest_is_taken(tmp_path):
    document = with_digest({"b": [1, 2.5], "a": {"x": None}})
    check_digest(document, where="a.json")
    check_digest(dict(reversed(document.items())), where="a.json")  # order does not count
    check_digest({"a": 1}, where="a.json")
    path = tmp_path / "a.json"
    write_json(path, document | {"b": [1, 2.0]})
    with pytest.raises(ConfigError, match=r"a.json: need .* changed since it was written"):
        read_checked(path, dict)


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


def test_on_windows_a_file_is_synced_while_it_can_be_written_and_a_folder_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = tmp_path / "a", list[int]()
    path.write_bytes(b"abc")
    really = os.open
    monkeypatch.setattr(os, "open", lambda name, flags: opened.append(flags) or really(name, flags))
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        sync(tmp_path)
        sync(path)
    assert opened == [os.O_RDWR]
