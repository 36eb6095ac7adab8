"""Splits that names tell: one is taken, or all of them because somebody said so."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources import Notes, SourceKind
from pipeline.sources.listing import named_split
from schemas.errors import ConfigError
from schemas.ledger import Ignored, Unused


def tar(path, count, jpeg):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as opened:
        for number in range(count):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = len(jpeg())
            opened.addfile(member, io.BytesIO(jpeg()))


def parquet(path, count, jpeg):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [{"bytes": jpeg(), "path": None}] * count}), path)


def folder(path, count, jpeg):
    path.mkdir(parents=True)
    for number in range(count):
        (path / f"{number}.jpg").write_bytes(jpeg())


LAYOUTS = {
    # (maker, split -> names, files or pictures that are left when train is taken)
    "parquet": (parquet, {"train": "train-00000-of-00003.parquet", "test": "test-0.parquet"}, 1),
    "parquet in data": (parquet, {"train": "data/train-0.parquet", "test": "data/test.parquet"}, 1),
    "parquet by folder": (parquet, {"train": "default/train/0.pq", "test": "default/test/0.pq"}, 1),
    "tars": (tar, {"train": "train-0000.tar", "validation": "val-0000.tar"}, 1),
    "tars, other words": (tar, {"train": "Training_1.tar", "validation": "DEV.1.tar"}, 1),
    "folders": (folder, {"train": "train", "validation": "validation"}, 2),
    "folders one down": (folder, {"train": "images/train", "validation": "images/val"}, 2),
    "folders with a year": (folder, {"train": "train2017", "test": "test2017"}, 2),
}


@pytest.fixture(params=LAYOUTS)
def source(request, tmp_path, jpeg):
    """Five pictures of one split and two of another -> folder, name of the other one, left."""
    make, names, left = LAYOUTS[request.param]
    for (split, name), count in zip(names.items(), (5, 2), strict=True):
        make(tmp_path / name, count, jpeg)
        other = split
    return tmp_path, other, left


def test_several_splits_are_refused_until_one_or_all_are_chosen(source, listed):
    path, other, left = source
    with pytest.raises(ConfigError, match=f"^{path}: need one split, got (test|train) ") as caught:
        listed(path)
    message = str(caught.value)
    assert "\n" not in message
    for choice in ("train", other, "all"):
        assert f"--source-split {choice}" in message
    notes = Notes()
    assert len(listed(path, notes=notes, source_split="train")[1]) == 5
    assert notes.ignored.frozen()[Ignored.OTHER_SPLIT].count == left
    assert notes.found == notes.pictures + notes.ignored.total
    assert len(listed(path, source_split=other)[1]) == 2
    notes = Notes()
    assert len(listed(path, notes=notes, source_split="all")[1]) == 7
    assert notes.ignored.total == 0


def test_one_split_alone_and_names_that_tell_none_are_no_conflict(tmp_path, listed, jpeg):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "extra", "testimony", "devil_1"):
        parquet(tmp_path / "a" / f"{name}.parquet", 1, jpeg)
    assert len(listed(tmp_path / "a")[1]) == 5
    assert len(listed(tmp_path / "a", source_split="train")[1]) == 2
    folder(tmp_path / "b" / "trains" / "by" / "test", 2, jpeg)
    for name in ("test.jpg", "train.jpg", "val-1.jpg"):  # what a picture shows
        (tmp_path / "b" / name).write_bytes(jpeg())
    assert len(listed(tmp_path / "b")[1]) == 5


def test_parts_that_are_named_one_by_one_are_chosen(tmp_path, listed, jpeg):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        tar(tmp_path / f"{split}-0.tar", count, jpeg)
    assert len(listed(f"{tmp_path}/{{train,val}}-0.tar")[1]) == 5
    assert len(listed(f"{tmp_path}/{{train,val}}-*.tar")[1]) == 5
    assert len(listed(f"{tmp_path}/val-*.tar")[1]) == 2
    with pytest.raises(ConfigError, match=r"got test \(test-0\.tar\) and "):
        listed(f"{tmp_path}/*.tar")


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path, listed, jpeg):
    tar(tmp_path / "train-0.tar", 1, jpeg)
    with pytest.raises(ConfigError) as caught:
        listed(tmp_path, source_split="test")
    assert str(caught.value) == (
        f"{tmp_path}: need files of split test, got train; correct --source-split, or leave it out"
    )


def test_a_split_behind_the_first_names_stops_the_listing(tmp_path, listed, jpeg, monkeypatch):
    from pipeline.sources import files

    folder(tmp_path / "train", 3, jpeg)
    folder(tmp_path / "val", 3, jpeg)
    monkeypatch.setattr(files, "_FIRST_LOOK", 1)
    with pytest.raises(ConfigError, match=r"need one split, got train .* and validation"):
        listed(tmp_path)


def test_captions_of_another_split_are_counted(tmp_path, listed, jpeg):
    for split in ("train", "test"):
        folder(tmp_path / split, 2, jpeg)
        (tmp_path / split / "0.txt").write_text("a cat")
        (tmp_path / split / "metadata.jsonl").write_text('{"file_name": "1.jpg", "text": "b"}')
    notes = Notes()
    refs = listed(tmp_path, notes=notes, source_split="train")[1]
    assert [ref.source for ref in refs] == ["train/0.jpg", "train/1.jpg"]
    assert notes.attached == 2
    left = notes.unused.frozen()[Unused.PICTURE_NOT_TAKEN]
    assert (left.count, left.examples) == (2, ("test/0.jpg", "test/1.jpg"))
    assert notes.ignored.frozen()[Ignored.OTHER_SPLIT].examples == ("test/0.jpg", "test/1.jpg")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00003.parquet", "train"),
        ("valid.parquet", "validation"),
        ("testing_1.parquet", "test"),
        ("val2017.parquet", "validation"),
        ("validate.parquet", None),
        ("my-test-0.parquet", None),
        ("a/b/test/0.parquet", None),
    ],
)
def test_only_clear_names_tell_a_split(name, split):
    assert named_split(name, SourceKind.PARQUET) == split
