"""What the machine refuses (rights, room in a file): one line, and nothing half written stays."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from controlset.cli import main
from schemas.dataset import open_dataset

POWERLESS = {"powerless": True}  # the modes of files hold for root, too
CHILD = """
import ctypes, importlib, json, os, resource, sys
import apache_beam.runners.portability.fn_api_runner.fn_runner
import pandas
import controlset.commands.generate, controlset.commands.inspect, controlset.commands.verify
import controlset.commands.train
import pipeline.inspection, pipeline.generate, pipeline.verify.verify
from controlset.cli import main
from controlset.commands import load_arrow

load_arrow()
for name in sys.argv[1:]:
    importlib.import_module(name)
sys.dont_write_bytecode = True  # Python does not notice that a limit of file sizes cuts it short

def leave(memory_bytes):
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + memory_bytes, resource.RLIM_INFINITY))

for limits, words in (case for cases in sys.stdin for case in json.loads(cases)):
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:  # one start of Python for all of them
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
        status = 99
        try:
            if "umask" in limits:
                os.umask(limits["umask"])
            if "file_bytes" in limits:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"],) * 2)
            if "memory_bytes" in limits:
                leave(limits["memory_bytes"])
            if "powerless" in limits and sys.platform == "linux":
                of_this_process = (ctypes.c_uint32 * 2)(0x20080522, 0)  # third version of the call
                ctypes.CDLL(None).capset(of_this_process, (ctypes.c_uint32 * 6)())
            status = main(words)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            sys.excepthook(*sys.exc_info()) if status == 99 else None
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    with open(reading, errors="replace") as file:
        told = file.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), told]), flush=True)
"""


@pytest.fixture
def place():
    """A folder with three pictures."""
    with tempfile.TemporaryDirectory() as made:
        photos = Path(made) / "photos"
        photos.mkdir()
        for number in range(3):
            Image.effect_noise((96, 96), 50 + number).save(photos / f"{number}.png")
        yield Path(made)


def generating(source, output):
    options = ["--conditions", "canny", "--resolution", "64", "--num-workers", "1"]
    return ["generate", str(source), "--output", str(output), *options]


@pytest.fixture(scope="module")
def told_under():
    """Cases -> [(status, what was printed)] of commands, each in a forked child with its limits.

    `modules` are imported before, once for all of them.
    """
    started = {}

    def told(cases, *modules):
        if modules not in started:
            command = [sys.executable, "-c", CHILD, *modules]
            started[modules] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        process = started[modules]
        process.stdin.write(f"{json.dumps(cases)}\n")
        process.stdin.flush()
        return [tuple(json.loads(process.stdout.readline())) for _ in cases]

    yield told
    for process in started.values():
        process.communicate()


def half_files(folder):
    return [path for path in folder.rglob("*") if path.name.startswith((".tmp", "tmp"))]


def test_a_limit_of_file_sizes_is_one_line_and_leaves_nothing_half_written(told_under, place):
    assert main(generating(place / "photos", place / "set")) == 0
    page = place / "page.html"
    small = {"file_bytes": 6000}
    made, shown = told_under(
        [
            [small, generating(place / "photos", place / "other")],
            [small, ["inspect", str(place / "set"), "--html", str(page)]],
        ]
    )
    for status, told in (made, shown):
        assert status == 2
        assert "need to write here, got file too large; raise the limit" in told.splitlines()[-1]
        assert "Traceback" not in told
    assert made[1].count("\n") == 1
    assert not page.exists()
    assert not half_files(place)
    assert not list((place / "other").rglob("*.parquet"))
    assert main(generating(place / "photos", place / "other")) == 0


def test_what_may_not_be_read_or_written_is_one_line_or_a_reject(told_under, place):
    assert main(generating(place / "photos", place / "set")) == 0
    photos = shutil.copytree(place / "photos", place / "some")
    shutil.copytree(place / "photos", photos / "sub")
    os.chmod(photos / "1.png", 0)
    os.chmod(photos / "sub", 0)
    shut = shutil.copytree(place / "photos", place / "shut")
    os.chmod(shut, 0)
    parts = {"": "whole", "data": "folder", "manifest.json": "document"}
    for part, name in parts.items():
        os.chmod(shutil.copytree(place / "set", place / name) / part, 0)
    sets = [str(place / name) for name in parts.values()]
    training = f"train --condition canny --base nano --output {place / 'run'} --dry-run"
    refused = [
        [POWERLESS, generating(shut, place / "new")],
        [POWERLESS, generating(place / "photos", place / "whole")],
        *([POWERLESS, [command, one]] for one in sets for command in ("verify", "inspect")),
        *([POWERLESS, [*training.split(), "--data", one]] for one in sets),
    ]
    (status, told), *others = told_under(
        [[POWERLESS, generating(photos, place / "rest")], *refused]
    )
    assert status == 0, told
    for (_, words), (status, told) in zip(refused, others, strict=True):
        assert (status, told.count("\n")) == (2, 1), (words, told)
    assert "need a folder that may be read, got permission denied" in others[0][1]
    rejects = {row["source"]: row["reason"] for row in open_dataset(str(place / "rest")).rejects()}
    assert rejects == {"1.png": "source_unreadable", "sub": "source_unreadable"}
    assert not half_files(place)


@pytest.mark.slow
def test_whatever_the_umask_a_command_can_use_what_it_made(told_under, place):
    from tests.controlnet.tiny_runs import base, config_for, data, flags_of, trained

    run = trained(place / "run", steps=2)
    shutil.copytree(data(), place / "set")
    hint = place / "hint.png"
    hint.write_bytes(open_dataset(str(data())).row(0)["canny"]["bytes"])
    before = set(place.rglob("*"))
    probing = config_for(place / "trained", steps=2, probe_every=1, probe_steps=1, probe_images=1)
    few = ["--run", run, "--steps", "1", "--device", "cpu", "--output"]
    commands = {
        "dataset": generating(place / "photos", place / "dataset"),
        "trained": ["train", *flags_of(probing)],
        "evaluated": ["evaluate", "--data", data(), "--limit", "1", *few, place / "evaluated"],
        "set": ["add", place / "set", "--latents", base(), "--device", "cpu"],
        "page.html": ["inspect", data(), "--html", place / "page.html"],
        "one.safetensors": [
            "export",
            run,
            "--format",
            "original",
            "--output",
            place / "one.safetensors",
        ],
        "folder": ["export", run, "--format", "diffusers", "--output", place / "folder"],
        "new/a.png": [
            "sample",
            "--hint",
            hint,
            "--prompt",
            "a star",
            *few,
            place / "new" / "a.png",
        ],
    }
    limits = POWERLESS | {"umask": 0o777}
    cases = [[limits, [*map(str, words)]] for words in commands.values()]
    modules = ["controlset.report.page", "tests.controlnet.tiny_runs"]
    for name, (status, told) in zip(commands, told_under(cases, *modules), strict=True):
        assert status == 0, (name, told)
        assert (place / name).exists()
    for path in set(place.rglob("*")) - before:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert not half_files(place)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_does_not_suffice_for_a_library_is_one_line(told_under, place):
    assert main(generating(place / "photos", place / "set")) == 0
    little = {"memory_bytes": 20 << 20}
    ((status, told),) = told_under([[little, ["inspect", str(place / "set")]]])
    assert (status, told.count("\n")) == (2, 1), told
    assert "need more memory, got no more" in told


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_with_little_memory_left_is_refused_at_its_start(told_under, place):
    cases = [
        [{"memory_bytes": mebibytes << 20}, generating(place / "photos", place / "set")]
        for mebibytes in (1, 2, 3, 5, 12, 40, 200)
    ]
    first, *others = told_under(cases)
    for status, told in others:
        assert (status, told.count("\n")) == (2, 1), told
        assert "set: need 256 MiB of memory to start with, got less; " in told
    assert (first[0], first[1].count("\n")) == (2, 1)  # the check itself may have had no room
    assert " memory" in first[1]
    assert not (place / "set").exists()


def test_memory_that_runs_out_in_the_middle_is_one_line_and_no_picture_is_blamed(
    place, monkeypatch, capsys
):
    def full(*given, **named):
        raise MemoryError

    words = generating(place / "photos", place / "set")
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.batch.decode", full)
        assert main(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"controlset generate: {place / 'set'}: need more memory than is free ")
    assert "use fewer --num-workers" in last
    assert not list((place / "set" / "rejects").glob("*"))
    assert not half_files(place)
    assert main(words) == 0


def test_a_name_may_be_as_long_as_a_file_system_or_a_tar_allows(place):
    (place / "photos" / "0.png").rename(place / "photos" / ("n" * 251 + ".png"))
    assert main(generating(place / "photos", place / "set")) == 0
    raw = (place / "photos" / "1.png").read_bytes()
    with tarfile.open(place / "long.tar", "w") as packed:
        for name in ("m" * 252 + ".png", "d" * 300 + "/" + "m" * 2000 + ".png"):
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            packed.addfile(info, io.BytesIO(raw))
    assert main(generating(place / "long.tar", place / "of-tar")) == 0
    assert len(open_dataset(str(place / "set"))) == 3
    assert len(open_dataset(str(place / "of-tar"))) == 2
