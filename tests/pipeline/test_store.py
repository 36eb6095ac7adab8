"""The output place: whole files or none, one clear error when it refuses, buckets too."""

import errno
import hashlib
import os
import re
import sys

import fsspec
import numpy as np
import pyarrow.fs as pafs
import pytest
from PIL import Image

from pipeline.config import GenerateConfig
from pipeline.generate import dry_run, generate
from pipeline.output import store
from schemas import filesystems
from schemas.dataset import filesystem_of
from schemas.errors import ConfigError
from tests.memory_store import OBJECTS, MemoryStore


@pytest.fixture(autouse=True, scope="module")
def schemes():
    """`bucket://` is an object store, `mem://` a file system of another kind."""
    fsspec.register_implementation("bucket", MemoryStore, clobber=True)
    fsspec.register_implementation("mem", MemoryStore, clobber=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(filesystems._FAMILIES, "bucket", "bucket")
        yield


@pytest.fixture(autouse=True)
def bucket():
    OBJECTS.clear()
    yield OBJECTS
    OBJECTS.clear()


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A folder of 20 pictures and one that is none."""
    folder = tmp_path_factory.mktemp("store") / "in"
    folder.mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (70, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "broken.jpg").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def finished(noise, schemes):
    """The objects of a set in a bucket, and its manifest."""
    OBJECTS.clear()
    manifest = generate(config_for(noise, "bucket://b/set/"))
    return dict(OBJECTS), manifest


def config_for(source, output, **changes):
    options = {"resolution": 64, "shard_rows": 5, "num_workers": 2} | changes
    return GenerateConfig(source=str(source), output=str(output), conditions=("canny",), **options)


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Commits --------------------------------------------------------------------------------------


def test_a_file_is_seen_whole_or_not_at_all(tmp_path):
    final = f"{tmp_path}/data/shard"
    with store.temporary_file(final) as temporary:
        assert os.path.dirname(temporary) == f"{tmp_path}/data"  # same disk: a rename is enough
        assert os.path.basename(temporary).startswith(store.TEMP_PREFIX)
        with open(temporary, "w") as file:
            file.write("half")
        assert not os.path.exists(final)
        store.commit(temporary, final)
        assert store.read_text(final) == "half"
    assert store.names_in(f"{tmp_path}/data") == ["shard"]


def test_a_commit_replaces_what_was_there(tmp_path):
    store.commit_text("old", f"{tmp_path}/file")
    store.commit_text("new", f"{tmp_path}/file")
    assert store.read_text(f"{tmp_path}/file") == "new"
    assert store.names_in(str(tmp_path)) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_commit_that_fails_leaves_the_old_file_and_no_temporary_one(monkeypatch, tmp_path, step):
    final = f"{tmp_path}/file"
    store.commit_text("old", final)

    def fail(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(store.os, step, fail)
    with pytest.raises(store.OutputError, match="no space left on device"):
        store.commit_text("new", final)
    monkeypatch.undo()
    assert store.names_in(str(tmp_path)) == ["file"]
    assert store.read_text(final) == "old"


def test_the_data_is_on_the_disk_before_its_name_is(monkeypatch, tmp_path):
    calls = []
    for step in ("fsync", "replace"):
        real = getattr(os, step)
        monkeypatch.setattr(
            store.os, step, lambda *args, step=step, real=real: (calls.append(step), real(*args))
        )
    store.commit_text("x", f"{tmp_path}/file")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_whatever_happens_inside_the_temporary_file_is_deleted(tmp_path):
    def break_off():
        with store.temporary_file(f"{tmp_path}/x") as temporary:
            with open(temporary, "w") as file:
                file.write("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert store.names_in(str(tmp_path)) == []


# Errors ---------------------------------------------------------------------------------------


ELSEWHERE = "choose a folder that can be written with --output"
NOT_A_FILE = "choose a folder, not a file, with --output"
ADVICE = {
    "ENOSPC": "no space left on device; free some space, then run the same command again to go on",
    "EDQUOT": "disk quota exceeded; raise the quota, then run the same command again to go on",
    "EROFS": f"read-only file system; {ELSEWHERE}",
    "EACCES": f"permission denied; {ELSEWHERE}",
    "EPERM": f"operation not permitted; {ELSEWHERE}",
    "ENOENT": "no such file or directory; choose a folder that can be made with --output",
    "ENOTDIR": f"not a directory; {NOT_A_FILE}",
    "EEXIST": f"file exists; {NOT_A_FILE}",
}


@pytest.mark.parametrize("name", ADVICE)
def test_a_refusal_is_one_line_that_says_what_to_do(name):
    with pytest.raises(store.OutputError) as caught, store.writing("/out/data/x"):
        raise OSError(getattr(errno, name), "whatever")
    assert str(caught.value) == f"/out/data/x: need to write here, got {ADVICE[name]}"
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "a dying disk"), OSError("no number"), ValueError("a bug")]
)
def test_other_failures_fly(error):
    with pytest.raises(type(error)) as caught, store.writing("/out"):
        raise error
    assert caught.value is error


# Looking and deleting -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["local", "bucket", "mem"])
def test_what_is_not_there_is_none_and_may_be_deleted(tmp_path, kind):
    root = str(tmp_path) if kind == "local" else f"{kind}://b"
    assert store.read_text(f"{root}/x/y") is None
    assert store.size_of(f"{root}/x/y") is None
    assert store.names_in(f"{root}/x") == []
    store.remove(f"{root}/x/y")


@pytest.mark.parametrize("kind", ["local", "bucket", "mem"])
def test_what_was_committed_is_there(tmp_path, kind):
    root = str(tmp_path) if kind == "local" else f"{kind}://b"
    for name in ("b", "a", "deeper/c"):
        store.commit_text("über", f"{root}/x/{name}")
    assert store.read_text(f"{root}/x/a") == "über"
    assert store.size_of(f"{root}/x/a") == 5
    with store.open_binary(f"{root}/x/a") as file:
        file.seek(2)
        assert file.read() == b"ber"
    assert {"a", "b"} <= set(store.names_in(f"{root}/x"))
    store.remove(f"{root}/x/a")
    assert store.read_text(f"{root}/x/a") is None
    assert store.read_text(f"{root}/x/deeper/c") == "über"


@pytest.mark.parametrize("kind", ["local", "bucket", "mem"])
def test_a_damaged_text_is_read_as_damaged(tmp_path, bucket, kind):
    (tmp_path / "x").write_bytes(b"{\xff\xfe")
    bucket[f"{kind}://b/x"] = b"{\xff\xfe"
    root = str(tmp_path) if kind == "local" else f"{kind}://b"
    assert store.read_text(f"{root}/x") == "{\ufffd\ufffd"


# Buckets --------------------------------------------------------------------------------------


def test_a_bucket_gets_the_same_bytes_as_a_folder(noise, finished, tmp_path):
    generate(config_for(noise, tmp_path / "local"))
    bucket, manifest = finished
    assert manifest.rows == 20
    local = files_of(tmp_path / "local")
    assert {name.removeprefix("bucket://b/set/"): raw for name, raw in bucket.items()} == local
    for shard in manifest.shards:
        stored = bucket[f"bucket://b/set/{shard.data.path}"]
        assert hashlib.sha256(stored).hexdigest() == shard.data.sha256


def test_in_a_bucket_too_the_same_command_goes_on_and_sweeps_up(noise, finished, bucket):
    config = config_for(noise, "bucket://b/set")
    complete, _ = finished
    bucket.update(complete)
    del bucket["bucket://b/set/manifest.json"]
    first = next(name for name in bucket if "/data/" in name)
    bucket[first] = bucket[first][:-9]
    bucket["bucket://b/set/data/train-00000-of-00099.parquet"] = b"stale"
    generate(config)
    assert bucket == complete


def test_in_a_bucket_too_another_recipe_is_refused_and_overwrite_replaces_it(
    noise, finished, bucket
):
    bucket.update(finished[0])
    bucket["bucket://b/set/mine.txt"] = b"mine"
    with pytest.raises(ConfigError, match=re.escape("made with quality=95 (now 80)")):
        generate(config_for(noise, "bucket://b/set", quality=80))
    manifest = generate(config_for(noise, "bucket://b/set", quality=80, overwrite=True))
    assert manifest.recipe["quality"] == 80
    assert bucket["bucket://b/set/mine.txt"] == b"mine"


def test_no_temporary_file_of_an_upload_stays_on_this_machine(noise, monkeypatch, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(store.tempfile, "tempdir", str(scratch))
    generate(config_for(noise, "bucket://b/set"))
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("call", [generate, dry_run])
def test_a_file_system_that_nobody_knows_is_one_clear_error(noise, call):
    with pytest.raises(ConfigError, match=r"^floppy://a/set: need a file system that fsspec know"):
        call(config_for(noise, "floppy://a/set"))


@pytest.mark.parametrize("scheme", ["local", "LOCAL", "file", "simplecache::file"])
def test_no_scheme_leads_around_the_checks_of_local_folders(tmp_path, scheme):
    """Links out of a stranger's set are looked for where files are known to be local."""
    place = f"{scheme}://{tmp_path}"
    if scheme == "file":
        assert isinstance(filesystem_of(place)[0], pafs.LocalFileSystem)
        return
    with pytest.raises(ConfigError, match="need a "):
        filesystem_of(place)


def test_an_object_store_gets_one_upload_and_another_place_a_rename(monkeypatch, tmp_path, bucket):
    def broken(*_, **__):
        raise OSError("it broke in the middle")

    monkeypatch.setattr(MemoryStore, "mv", broken)
    store.commit_text("old", "bucket://b/x")
    bucket["mem://b/x"] = b"old"
    with pytest.raises(OSError, match="it broke"):
        store.commit_text("new", "mem://b/x")
    assert bucket["mem://b/x"] == b"old"
    assert [store.is_temporary(name) for name in store.names_in("mem://b")] == [True, False]


def test_an_upload_that_arrives_short_is_not_taken_for_done(monkeypatch):
    monkeypatch.setattr(MemoryStore, "put_file", lambda *_, **__: OBJECTS.update({_[2]: b"ha"}))
    with pytest.raises(store.OutputError, match="need 4 bytes after the upload, found 2"):
        store.commit_text("half", "bucket://b/x")


@pytest.mark.parametrize(
    ("scheme", "extra"), [("s3", "aws"), ("gs", "gcp"), ("az", "azure"), ("abfs", "azure")]
)
def test_a_package_that_is_missing_is_one_line_that_says_how_to_get_it(monkeypatch, scheme, extra):
    for package in ("s3fs", "gcsfs.core", "adlfs"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(filesystems, "_CLIENTS", {})
    with pytest.raises(ConfigError, match=re.escape(f"pip install 'controlset[{extra}]'")) as said:
        filesystems.file_system(f"{scheme}://bucket/x")
    assert "\n" not in str(said.value)


def test_a_file_uri_is_a_local_folder(noise, tmp_path):
    generate(config_for(noise, f"file://{tmp_path}/set"))
    assert (tmp_path / "set" / "manifest.json").exists()
