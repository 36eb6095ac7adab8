"""A disk that gets full at any moment of the run."""

import json
import os
import re
import subprocess

import pytest

from pipeline.generate import generate
from pipeline.output.store import OutputError
from tests.faults.conftest import config_for, contents

PAGE = 4096


@pytest.fixture
def disk_of(tmp_path):
    """Mounts a tmpfs of so many bytes, or grows the one that is mounted."""
    mounted = []

    def mount(size_bytes):
        folder = tmp_path / "disk"
        folder.mkdir(exist_ok=True)
        options = f"size={size_bytes}"
        if mounted:
            subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
            return folder
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting a tmpfs is not permitted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", str(mounted[0])], check=True)


def blocks_of(folder):
    """Bytes that a tmpfs needs for a folder's files."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // PAGE) * PAGE for size in sizes)


def used(folder):
    space = os.statvfs(folder)
    return (space.f_blocks - space.f_bfree) * space.f_frsize


def check_committed(output, expected):
    """Every record tells the truth, and nothing is there that a fresh run would not make."""
    there = contents(output) if output.exists() else {}
    assert there.items() <= expected.items()
    for name in there:
        if name.startswith(".controlset/t"):
            record = json.loads((output / name).read_text())
            assert there[record["data"]["path"]] == record["data"]["sha256"]
    return there


@pytest.mark.slow
def test_a_disk_may_get_full_at_any_moment(disk_of, photographs, undisturbed):
    expected = contents(undisturbed)
    whole = blocks_of(undisturbed)
    # At once, between shards, inside of shards, in the card, in the preview, in the manifest.
    whole_pages = whole // PAGE
    sizes = sorted({*range(1, 6), *range(8, whole_pages, 18), *range(whole_pages - 6, whole_pages)})
    folder = disk_of(sizes[0] * PAGE)
    output = folder / "dataset"
    config = config_for(photographs, output)
    message = (
        rf"^{re.escape(str(output))}\S*: need to write here, got no space left on device; "
        r"free some space, then run the same command again to go on$"
    )
    seen = []
    for pages in sizes:
        disk_of(pages * PAGE)
        with pytest.raises(OutputError, match=message):
            generate(config)
        there = check_committed(output, expected)
        assert "manifest.json" not in there
        assert used(folder) <= blocks_of(folder)  # no deleted file is still held open
        seen.append(sum(name.startswith("data/") for name in there))
    assert seen == sorted(seen)  # committed shards stay
    assert seen[0] == 0
    assert len(set(seen)) > 5
    disk_of(4 * whole)
    generate(config)
    assert contents(output) == expected


@pytest.mark.parametrize(("size_bytes", "checkpoints"), [(200_000, 0), (1_500_000, 1)])
def test_a_disk_that_gets_full_leaves_whole_checkpoints_of_a_run(disk_of, size_bytes, checkpoints):
    from tests.controlnet.tiny_runs import trained

    output = disk_of(size_bytes) / "run"
    message = rf"^{re.escape(str(output))}/\S*: need to write here, got no space left on device; "
    with pytest.raises(OutputError, match=message):
        trained(output, steps=2)
    there = [path.name for path in (output / "checkpoints").iterdir()]
    assert there == ["step-00000002"][:checkpoints]
    assert not list(output.glob(".writing-*"))
    disk_of(20_000_000)
    trained(output, steps=2, resume=True)
    assert (output / "summary.json").is_file()


@pytest.mark.slow
def test_a_disk_that_gets_full_under_an_evaluation_leaves_no_half_file(disk_of, tmp_path, capsys):
    from controlset.cli import main
    from tests.controlnet.tiny_runs import data, trained

    run = trained(tmp_path / "run", steps=2)
    capsys.readouterr()

    def evaluated(output):
        words = ["evaluate", "--run", run, "--data", data(), "--steps", "1", "--device", "cpu"]
        status = main([*map(str, words), "--limit", "4", "--output", str(output)])
        told = capsys.readouterr().err.splitlines()
        return status, told[-1] if told else ""

    def numbers(output):
        document = json.loads((output / "evaluation.json").read_text())
        return document["rows"], document["pictures"]

    whole = tmp_path / "whole"
    assert evaluated(whole) == (0, "")
    pages = blocks_of(whole) // PAGE
    scores = blocks_of(whole / "pictures") // PAGE
    # At once, between pictures, at scores, at what the judge saw, at figures, at the report.
    sizes = [1, 5, 20, *range(scores * 3 // 4, scores + 4, 3), pages // 2, pages - 3]
    folder = disk_of(PAGE)
    output = folder / "evaluation"
    stopped = set()
    for size in sorted(sizes):
        disk_of(size * PAGE)
        status, told = evaluated(output)
        where, _, rest = told.partition(": need to write here, got no space left on device; ")
        assert (status, rest) == (2, "free some space, then run the same command again to go on")
        stopped.add(where.removeprefix(f"controlset evaluate: {output}/").split("/")[0])
        assert contents(output).keys() <= contents(whole).keys()
        assert used(folder) <= blocks_of(folder)  # no deleted file is still held open
    assert stopped >= {"pictures", "figures", "report.html"}
    disk_of(4 * pages * PAGE)
    assert evaluated(output) == (0, "")
    assert numbers(output) == numbers(whole)
    assert contents(output).keys() == contents(whole).keys()
