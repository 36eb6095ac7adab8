"""Captions as users bring them: lists, names, several files for one picture."""

import io
import json
import tarfile
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources import Notes
from schemas.errors import ConfigError, Reason
from schemas.ledger import Unused

DOGS = ["one dog", " ", "two dogs", "three dogs"]


def write(folder, **files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def captions(read):
    return {name: image.caption for name, image in read.items()}


def lists_of(kind, folder, count=40):
    """A source whose every caption is the list of dogs, in one of its forms."""
    document = json.dumps({"caption": DOGS})
    if kind == "sidecar":
        write(folder, **{f"{n}.jpg": "x" for n in range(count)})
        write(folder, **{f"{n}.json": document for n in range(count)})
    elif kind == "table":
        write(folder, **{f"{n}.jpg": "x" for n in range(count)})
        rows = [{"file_name": f"{n}.jpg", "text": DOGS} for n in range(count)]
        write(folder, **{"metadata.jsonl": "\n".join(map(json.dumps, rows))})
    elif kind == "tar":
        with tarfile.open(folder / "a.tar", "w") as archive:
            for n in range(count):
                for name, raw in ((f"{n}.jpg", b"x"), (f"{n}.json", document.encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(raw)
                    archive.addfile(info, io.BytesIO(raw))
    else:
        column = [[{"raw": dog} for dog in DOGS]] * count if kind == "coco" else [DOGS] * count
        table = pa.table({"image": [{"bytes": b"x"}] * count, "sentences": column})
        pq.write_table(table, folder / "a.parquet")


@pytest.mark.parametrize("kind", ["sidecar", "table", "tar", "parquet", "coco"])
def test_a_list_gives_its_first_a_drawn_one_or_all_of_them(tmp_path, read_all, kind):
    lists_of(kind, tmp_path)
    first = read_all(tmp_path)
    assert set(captions(first).values()) == {"one dog"}
    assert all(image.was_list for image in first.values())
    joined = captions(read_all(tmp_path, caption_list="join"))
    assert set(joined.values()) == {"one dog, two dogs, three dogs"}
    drawn = captions(read_all(tmp_path, caption_list="random"))
    assert set(drawn.values()) == {"one dog", "two dogs", "three dogs"}
    assert drawn == captions(read_all(tmp_path, caption_list="random"))  # of seed and key alone
    assert drawn != captions(read_all(tmp_path, caption_list="random", seed=1))


def test_a_list_of_one_is_no_choice(tmp_path, read_all):
    write(tmp_path, **{"a.jpg": "x", "a.json": '{"caption": ["", "only"]}'})
    image = read_all(tmp_path)["a.jpg"]
    assert (image.caption, image.was_list) == ("only", False)


@pytest.mark.parametrize("useless", ["", " \n", "\ufeff", b"\xff\xfe", b"caf\xe9", b"a\0b\0"])
def test_a_useless_text_file_does_not_hide_the_captions_behind_it(tmp_path, read_all, useless):
    write(tmp_path, **{"a.jpg": "x", "a.txt": useless, "a.json": '{"caption": "good"}'})
    write(tmp_path, **{"b.jpg": "x", "b.caption": useless, "b.json": '{"caption": ""}'})
    write(tmp_path, **{"metadata.jsonl": '{"file_name": "b.jpg", "text": "of the table"}'})
    read = read_all(tmp_path)
    assert captions(read) == {"a.jpg": "good", "b.jpg": "of the table"}
    assert [image.caption_problem for image in read.values()] == [None, None]
    assert len(read["b.jpg"].unused) == 2


def test_a_caption_named_after_the_whole_file_is_found_and_comes_first(tmp_path, read_all):
    write(tmp_path, **{"a.jpg": "x", "a.png": "x", "a.jpg.txt": "jpg's", "a.txt": "both's"})
    write(tmp_path, **{"B.JPG": "x", "B.JPG.caption": "b's", "c.jpg": "x", "C.txt": "c's"})
    read = read_all(tmp_path)
    assert captions(read) == {
        "B.JPG": "b's", "a.jpg": "jpg's", "a.png": "both's", "c.jpg": "c's",
    }  # fmt: skip
    assert read["a.jpg"].unused == (Unused.OTHER_PREFERRED,)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_another_unicode_form_belong_together(tmp_path, read_all, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    picture, caption = (unicodedata.normalize(f, "Ärger é") for f in (form, other))
    write(tmp_path, **{f"{picture}.jpg": "x", f"{caption}.txt": "found"})
    assert captions(read_all(tmp_path)) == {f"{picture}.jpg": "found"}


def test_two_captions_that_may_both_be_a_pictures_are_not_guessed(tmp_path, read_all, listed):
    write(tmp_path, **{"a.jpg": "x", "A.jpg": "x", "A.txt": "exact", "b.jpg": "x"})
    write(
        tmp_path, **{"B.txt": "one", "B.TXT": "same stem", "ß.jpg": "x", "SS.txt": "", "ss.txt": ""}
    )
    notes = Notes()
    listed(tmp_path, notes=notes)
    assert captions(read_all(tmp_path))["a.jpg"] is None
    assert captions(read_all(tmp_path))["ß.jpg"] is None
    assert notes.unused.frozen()[Unused.WITHOUT_PICTURE].count == 3


@pytest.mark.parametrize("column", ["TEXT", "Caption", "captions", "sentences", "Prompt"])
def test_columns_of_captions_are_found_in_any_case(tmp_path, read_all, column):
    table = pa.table({"image": [{"bytes": b"x"}], "other": ["no"], column: ["yes"]})
    pq.write_table(table, tmp_path / "a.parquet")
    (image,) = read_all(tmp_path).values()
    assert (image.caption, image.caption_source) == ("yes", f"column:{column}")


def test_two_columns_that_differ_in_their_case_alone_are_not_guessed(tmp_path, read_all):
    table = pa.table({"image": [{"bytes": b"x"}], "TEXT": ["a"], "Text": ["b"], "caption": ["c"]})
    pq.write_table(table, tmp_path / "a.parquet")
    (image,) = read_all(tmp_path).values()
    assert image.caption == "c"


def test_the_name_of_a_file_or_folder_can_be_the_caption(tmp_path, read_all, listed):
    write(tmp_path, **{"10_red car/a_big__dog.jpg": "x", "b.c.jpg": "x", "b.c.txt": "mine"})
    names = read_all(tmp_path, caption="filename")
    assert captions(names) == {"10_red car/a_big__dog.jpg": "a big dog", "b.c.jpg": "b.c"}
    assert {image.caption_source for image in names.values()} == {"filename"}
    folders = read_all(tmp_path, caption="folder")
    assert captions(folders) == {"10_red car/a_big__dog.jpg": "red car", "b.c.jpg": None}
    assert folders["b.c.jpg"].caption_problem.reason is Reason.NO_CAPTION
    notes = Notes()
    listed(tmp_path, notes=notes, caption="filename")
    assert notes.unused.frozen()[Unused.NOT_ASKED_FOR].examples == ("b.c.txt",)


def test_names_as_captions_work_in_a_tar_and_not_in_parquet(tmp_path, read_all, listed):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("cats/x_y.jpg", "z.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    folders = captions(read_all(tmp_path, caption="folder"))
    assert folders == {"a.tar/cats/x_y.jpg": "cats", "a.tar/z.jpg": None}
    (tmp_path / "a.tar").unlink()
    pq.write_table(pa.table({"image": [{"bytes": b"x"}]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="need one of auto, column, fixed, none"):
        listed(tmp_path, caption="filename")
