"""Caption tables as users bring them: taken where a line's meaning is clear, else counted."""

import json
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources import Notes
from schemas.errors import ConfigError
from schemas.ledger import Unused


def pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def jsonl(path, *rows):
    lines = [{"file_name": name, "text": text} for name, text in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def captions(read):
    return {name: image.caption for name, image in read.items()}


def unused(listed, folder, **options):
    notes = Notes()
    listed(folder, notes=notes, **options)
    return {reason: (one.count, *one.examples) for reason, one in notes.unused.frozen().items()}


def test_folders_slashes_case_and_unicode_form_do_not_hide_a_lines_picture(
    tmp_path, read_all, listed
):
    decomposed = unicodedata.normalize("NFD", "caf\u00e9.jpg")
    pictures(tmp_path / "train", "a.jpg", "in/b.jpg", "C.JPG", decomposed, "deep/in/d.jpg", "e.png")
    jsonl(
        tmp_path / "train" / "metadata.jsonl",
        ("train/a.jpg", "of its own folder"),
        (".\\in\\b.jpg", "of Windows"),
        ("c.jpg", "of another case"),
        ("caf\u00e9.jpg", "of another form"),
        ("d.jpg", "without its folders"),
        ("e", "without its suffix"),
    )
    assert captions(read_all(tmp_path)) == {
        "train/a.jpg": "of its own folder",
        "train/in/b.jpg": "of Windows",
        "train/C.JPG": "of another case",
        f"train/{decomposed}": "of another form",
        "train/deep/in/d.jpg": "without its folders",
        "train/e.png": "without its suffix",
    }
    assert unused(listed, tmp_path) == {}


def test_lines_that_may_mean_several_pictures_or_none_are_told_and_not_guessed(
    tmp_path, read_all, listed
):
    pictures(tmp_path, "x/a.jpg", "y/a.jpg", "1.jpg", "2.jpg")
    jsonl(
        tmp_path / "metadata.jsonl",
        ("a.jpg", "x's or y's?"),
        ("train/1.jpg", "of train"),
        ("val/1.jpg", "of val"),
        ("gone.jpg", "of nothing"),
        ("2.jpg", "first"),
        ("2.jpg", "last"),
    )
    assert captions(read_all(tmp_path)) == {
        "x/a.jpg": None, "y/a.jpg": None, "1.jpg": None, "2.jpg": "last",
    }  # fmt: skip
    assert unused(listed, tmp_path) == {
        Unused.LINE_AMBIGUOUS: (
            3,
            "metadata.jsonl, line 1: a.jpg",
            "metadata.jsonl, line 2: train/1.jpg",
            "metadata.jsonl, line 3: val/1.jpg",
        ),
        Unused.LINE_UNMATCHED: (1, "metadata.jsonl, line 4: gone.jpg"),
        Unused.LINE_REPEATED: (1, "metadata.jsonl, line 5: 2.jpg"),
    }


def test_a_line_of_another_folder_says_nothing_of_this_ones_picture(tmp_path, read_all, listed):
    """A table of a whole data set that was copied into one of its folders."""
    pictures(tmp_path / "train", "1.jpg", "2.jpg")
    jsonl(
        tmp_path / "train" / "metadata.jsonl",
        ("train/1.jpg", "of train"),
        ("val/1.jpg", "of val"),
        ("val/2.jpg", "of val"),
    )
    assert captions(read_all(tmp_path)) == {"train/1.jpg": "of train", "train/2.jpg": None}
    assert unused(listed, tmp_path)[Unused.LINE_AMBIGUOUS][0] == 2


def test_an_exact_line_comes_before_a_later_one_that_only_looks_like_it(tmp_path, read_all, listed):
    pictures(tmp_path, "a.jpg")
    jsonl(tmp_path / "metadata.jsonl", ("a.jpg", "exact"), ("A.JPG", "alike"))
    assert captions(read_all(tmp_path)) == {"a.jpg": "exact"}
    assert unused(listed, tmp_path)[Unused.LINE_REPEATED][0] == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name;text\na.jpg;one, two\n"),
        ("metadata.csv", 'image,caption\na.jpg,"one, two"\n'),
        ("METADATA.CSV", "id\tImage_Path\tCaption\r\n1\ta.jpg\tone, two\r\n"),
        ("metadata.tsv", "path\tprompt\na.jpg\tone, two\n"),
        ("captions.csv", "filename|caption\na.jpg|one, two\n"),
        ("metadata.jsonl", '{"image": "a.jpg", "caption": "one, two"}\n'),
        ("metadata.json", '[{"file_name": "a.jpg", "text": "one, two"}]'),
        ("captions.json", '{"a.jpg": "one, two"}'),
        ("meta_cap.json", '{"a": {"caption": "one, two"}}'),
        ("meta_cap.json", '{"/old/place/img/a": {"caption": "one, two", "tags": "x"}}'),
        ("meta_cap.json", '{"a": {"tags": "one, two", "train_resolution": [512, 512]}}'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_every_usual_form_are_taken(tmp_path, read_all, listed, name, text, encoding):
    pictures(tmp_path, "a.jpg")
    (tmp_path / name).write_bytes(text.encode(encoding))
    image = read_all(tmp_path)["a.jpg"]
    assert (image.caption, image.caption_source) == ("one, two", "metadata")
    assert unused(listed, tmp_path) == {}


def test_a_parquet_table_beside_pictures_is_their_captions(tmp_path, read_all, listed):
    pictures(tmp_path, "a.jpg", "b.jpg")
    rows = {"file_name": ["a.jpg", "images\\b.jpg", "c.jpg"], "Text": ["one", "two", "three"]}
    pq.write_table(pa.table(rows), tmp_path / "metadata.parquet")
    assert captions(read_all(tmp_path)) == {"a.jpg": "one", "b.jpg": "two"}
    assert unused(listed, tmp_path) == {
        Unused.LINE_UNMATCHED: (1, "metadata.parquet, line 3: c.jpg")
    }


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        (
            "metadata.csv",
            "image,caption\na.jpg,b".encode("utf-16")[:-1],
            "UTF-16 by its first bytes",
        ),
        ("metadata.csv", "image,caption\na.jpg,b".encode("utf-16-le"), "UTF-16 without its mark"),
        ("metadata.jsonl", '{"file_name": "a"}'.encode("utf-16-be"), "UTF-16 without its mark"),
        ("metadata.csv", b"image,caption\na.jpg,caf\xe9\n", "not UTF-8: byte 23 is 0xe9"),
        ("meta_cap.json", b'{"a": ', "no JSON"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_in_one_line_and_not_dumped(
    tmp_path, listed, name, raw, words
):
    pictures(tmp_path, "a.jpg")
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        listed(tmp_path)
    assert name in str(caught.value)
    assert words in str(caught.value)
    assert "\\x" not in str(caught.value)
    assert "\0" not in str(caught.value)
    assert len(str(caught.value).removeprefix(str(tmp_path))) < 300


def test_two_tables_of_a_folder_complete_each_other(tmp_path, read_all, listed):
    pictures(tmp_path, "a.jpg", "b.jpg")
    jsonl(tmp_path / "metadata.jsonl", ("a.jpg", "of jsonl"))
    (tmp_path / "metadata.csv").write_text("file_name,text\na.jpg,of csv\nb.jpg,of csv\n")
    assert captions(read_all(tmp_path)) == {"a.jpg": "of jsonl", "b.jpg": "of csv"}
    assert unused(listed, tmp_path) == {Unused.OTHER_PREFERRED: (1, "a.jpg")}


def test_lines_of_pictures_that_a_glob_leaves_out_are_told(tmp_path, listed):
    pictures(tmp_path, "a.jpg", "b.png")
    jsonl(tmp_path / "metadata.jsonl", ("a.jpg", "a"), ("b.png", "b"))
    assert unused(listed, f"{tmp_path}/*.jpg") == {
        Unused.PICTURE_NOT_TAKEN: (1, "metadata.jsonl, line 2: b.png")
    }
