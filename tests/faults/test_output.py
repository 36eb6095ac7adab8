"""An output place that is full, read-only, taken or somebody else's."""

import json
import re
import shutil
import subprocess
import sys
import time

import pytest

from pipeline.generate import generate, resolve
from pipeline.identity import holding_output
from pipeline.output.store import TEMP_PREFIX, OutputError
from pipeline.verify.verify import verify_dataset
from schemas.errors import ConfigError
from tests.faults.conftest import config_for, contents


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 320 kB; growing it is `small_disk("2m")`."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {mounted.stderr.strip()}")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

    yield folder, remount
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_clear_error_and_resumes_when_there_is_room(
    small_disk, photographs, undisturbed
):
    folder, remount = small_disk
    output = folder / "dataset"
    with pytest.raises(OutputError, match=r"no space left on device; free some space, then run"):
        generate(config_for(photographs, output))
    records = list(output.glob(".controlset/[tv]*.json"))
    assert records, "the disk should hold some shards"
    expected = contents(undisturbed)
    for record in records:
        data = json.loads(record.read_text())["data"]["path"]
        assert contents(output)[data] == expected[data]
    assert not list(output.rglob(f"{TEMP_PREFIX}*"))
    assert not (output / "manifest.json").exists()
    remount("size=8m")
    generate(config_for(photographs, output))
    assert contents(output) == expected
    assert verify_dataset(str(output), audit=1.0, workers=2).ok


def test_a_read_only_output_is_one_clear_error(small_disk, photographs):
    folder, remount = small_disk
    remount("ro")
    output = folder / "dataset"
    expected = (
        f"{output}: need to write here, got read-only file system; "
        "choose a folder that can be written with --output"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(expected)}$"):
        generate(config_for(photographs, output))
    remount("rw")


def test_an_output_that_is_a_file_is_one_clear_error(photographs, tmp_path):
    output = tmp_path / "file"
    output.write_text("mine")
    with pytest.raises(
        OutputError, match=r"need to write here, got .*; choose a folder, not a file"
    ):
        generate(config_for(photographs, output))
    assert output.read_text() == "mine"


def test_a_folder_with_something_else_in_it_is_left_alone(photographs, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(
        ConfigError, match=r"need an empty folder or a data set of controlset, found "
    ):
        generate(config_for(photographs, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_recipe_is_refused_and_named_and_changes_nothing(
    photographs, undisturbed, tmp_path
):
    output = shutil.copytree(undisturbed, tmp_path / "dataset")
    before = contents(output)
    expected = (
        f"{output}: holds a data set made with quality=95 (now 90); resolution=64 (now 128); "
        "choose another --output, or delete it with --overwrite"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        generate(config_for(photographs, output, resolution=128, min_side=32, quality=90))
    assert contents(output) == before


def test_another_source_is_refused(photographs, undisturbed, tmp_path):
    output = shutil.copytree(undisturbed, tmp_path / "dataset")
    other = shutil.copytree(photographs, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"holds a data set made with source="):
        generate(config_for(other, output))


def test_what_the_listing_refuses_is_put_right_by_the_option_it_names(
    photographs, tmp_path, monkeypatch
):
    from pipeline.sources import files

    monkeypatch.setattr(files, "_FIRST_LOOK", 1)
    source = tmp_path / "in"
    (source / "later").mkdir(parents=True)
    for path in sorted(photographs.rglob("*.jpg"))[:2]:
        shutil.copy(path, source)
    (source / "later" / "more.parquet").write_bytes(b"x")
    output = tmp_path / "dataset"
    with pytest.raises(ConfigError, match="--source-format images"):
        generate(config_for(source, output))
    assert [path.name for path in output.rglob("*") if path.is_file()] == ["run.json"]
    manifest = generate(config_for(source, output, source_format="images"))
    assert manifest.rows == 2
    with pytest.raises(ConfigError, match=r"made with quality=95 \(now 90\)"):
        generate(config_for(source, output, source_format="images", quality=90))


def test_overwrite_replaces_the_set_and_nothing_else(photographs, undisturbed, tmp_path):
    output = shutil.copytree(undisturbed, tmp_path / "dataset")
    (output / "notes.txt").write_text("mine")
    generate(config_for(photographs, output, resolution=128, min_side=32, overwrite=True))
    assert (output / "notes.txt").read_text() == "mine"
    (output / "notes.txt").unlink()
    fresh = tmp_path / "fresh"
    generate(config_for(photographs, fresh, resolution=128, min_side=32))
    assert contents(output) == contents(fresh)


def test_workers_and_other_places_to_run_are_not_another_recipe(photographs, undisturbed, tmp_path):
    output = shutil.copytree(undisturbed, tmp_path / "dataset")
    generate(config_for(photographs, output, num_workers=1))
    assert contents(output) == contents(undisturbed)


def test_two_runs_on_one_output_are_refused(photographs, tmp_path):
    output = tmp_path / "dataset"
    config = config_for(photographs, output)
    with (
        holding_output(resolve(config)),
        pytest.raises(ConfigError, match=r"need to be the only run, but another one is writing"),
    ):
        generate(config)
    generate(config)


@pytest.mark.slow
def test_the_lock_of_a_killed_run_is_free(photographs, tmp_path):
    output = tmp_path / "dataset"
    code = (
        "import sys, time; from pipeline.identity import holding_output\n"
        "from pipeline.generate import resolve\n"
        "from tests.faults.conftest import config_for\n"
        "with holding_output(resolve(config_for(sys.argv[1], sys.argv[2]))): print('held', "
        "flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(photographs), str(output)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match="another one is writing here"):
        generate(config_for(photographs, output))
    holder.kill()
    holder.wait()
    holder.stdout.close()
    time.sleep(0.1)
    generate(config_for(photographs, output))


@pytest.mark.parametrize("damage", ["delete", "cut", "record", "no record"])
def test_a_shard_or_record_that_was_damaged_is_made_again(
    photographs, undisturbed, tmp_path, damage
):
    output = shutil.copytree(undisturbed, tmp_path / "dataset")
    (output / "manifest.json").unlink()
    shard = sorted(output.glob("data/*.parquet"))[2]
    record = output / ".controlset" / f"{shard.stem}.json"
    if damage == "delete":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "record":
        record.write_text(record.read_text()[:50])
    else:
        record.unlink()
    generate(config_for(photographs, output))
    assert contents(output) == contents(undisturbed)


def test_an_output_inside_a_parquet_source_is_refused(undisturbed, tmp_path):
    source = shutil.copytree(undisturbed / "data", tmp_path / "parquet")
    with pytest.raises(ConfigError, match=r"need an output outside the source .*; choose another"):
        generate(config_for(source, source / "dataset", source_split="all"))
    generate(config_for(source, tmp_path / "dataset", source_split="all"))


def test_a_finished_set_is_not_touched_by_the_same_command(photographs, undisturbed, tmp_path):
    output = shutil.copytree(undisturbed, tmp_path / "dataset")
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    generate(config_for(photographs, output))
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    changed = {path.name for path, when in after.items() if before.get(path) != when}
    assert changed <= {"run.json"}
