import json
import os

import pytest

from pipeline.sources import iter_reads
from schemas.errors import ConfigError, Reason

BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"


def write(folder, **files):
    for name, content in files.items():
        stem, _, suffix = name.rpartition("_")
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / f"{stem}.{suffix}").write_bytes(raw)


def metadata(folder, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def captions(read):
    return {name: image.caption for name, image in read.items()}


def test_the_text_file_comes_before_the_caption_file_and_the_json(tmp_path, read_all):
    write(tmp_path, a_jpg="", a_txt=" text \n", a_caption="c", a_json='{"caption": "j"}')
    write(tmp_path, b_jpg="", b_caption="c", b_json='{"caption": "j"}')
    write(tmp_path, c_jpg="", c_json='{"text": "t", "caption": "j"}')
    write(tmp_path, d_jpg="", d_JSON='{"prompt": ["first", "second"]}')
    write(tmp_path, e_jpg="", e_txt=BOM + "with a mark")
    read = read_all(tmp_path)
    assert captions(read) == {
        "a.jpg": "text", "b.jpg": "c", "c.jpg": "j", "d.jpg": "first", "e.jpg": "with a mark",
    }  # fmt: skip
    assert {image.caption_source for image in read.values()} == {"sidecar"}


def test_the_field_of_a_json_file_can_be_chosen(tmp_path, read_all):
    write(tmp_path, a_jpg="", a_json='{"caption": "j", "alt": "mine"}')
    assert read_all(tmp_path, caption_column="alt")["a.jpg"].caption == "mine"


def test_a_picture_without_a_caption_is_reported_only_if_captions_were_asked_for(
    tmp_path, read_all
):
    write(tmp_path, a_jpg="", b_jpg="", b_txt="  \n", c_jpg="", c_json='{"boxes": []}')
    for image in read_all(tmp_path).values():
        assert (image.caption, image.caption_source, image.caption_problem) == (None, None, None)
    for mode in ("sidecar", "metadata"):
        for image in read_all(tmp_path, caption=mode).values():
            assert image.caption is None
            assert image.caption_problem.reason is Reason.NO_CAPTION


@pytest.mark.parametrize("mode", ["auto", "sidecar"])
@pytest.mark.parametrize(
    ("name", "content", "detail"),
    [
        ("a_txt", b"caf\xe9", "not UTF-8: byte 3 is 0xe9"),
        ("a_json", "{", "not JSON"),
        ("a_json", '["x"]', "need a JSON object, got list"),
        ("a_json", '{"caption": 7}', "need a string, got int"),
        ("a_json", '{"caption": [7]}', "need a string, got int"),
        ("a_json", '{"caption": "\\ud800"}', "not valid Unicode"),
        ("a_json", "[" * 100_000, "not JSON"),
    ],
)
def test_a_caption_that_cannot_be_used_is_reported_in_every_mode_and_the_picture_stays(
    tmp_path, read_all, mode, name, content, detail
):
    write(tmp_path, a_jpg="pixels", **{name: content})
    image = read_all(tmp_path, caption=mode)["a.jpg"]
    assert image.raw == b"pixels"
    assert image.caption is None
    assert image.caption_problem.reason is Reason.BAD_CAPTION
    assert detail in image.caption_problem.detail


def test_a_caption_file_that_changes_after_the_listing_is_a_bad_caption(tmp_path, listed):
    write(tmp_path, a_jpg="", a_txt="x", b_jpg="", b_txt="x", c_jpg="")
    os.mkfifo(tmp_path / "c.txt")
    spec, refs = listed(tmp_path)
    (tmp_path / "a.txt").write_text("longer")
    (tmp_path / "b.txt").unlink()
    for _, fetch in iter_reads(refs, spec):
        assert fetch().caption_problem.reason is Reason.BAD_CAPTION


def test_a_huge_caption_file_is_not_read(tmp_path, read_all):
    write(tmp_path, a_jpg="")
    with (tmp_path / "a.txt").open("wb") as opened:
        opened.truncate(2**24 + 1)
    assert "16777217 bytes" in read_all(tmp_path)["a.jpg"].caption_problem.detail


def test_none_and_fixed_look_at_no_file(tmp_path, listed, read_all):
    write(tmp_path, a_jpg="", a_txt="mine")
    metadata(tmp_path, "not even JSON")
    assert read_all(tmp_path, caption="none")["a.jpg"].caption is None
    image = read_all(tmp_path, caption="fixed", caption_text="a photo")["a.jpg"]
    assert (image.caption, image.caption_source) == ("a photo", "fixed")
    assert listed(tmp_path, caption="none")[1][0].caption_place is None


def test_metadata_gives_captions_to_its_folder_and_those_below(tmp_path, read_all):
    (tmp_path / "train" / "deep").mkdir(parents=True)
    (tmp_path / "valid").mkdir()
    write(tmp_path / "train", a_jpg="")
    write(tmp_path / "train" / "deep", b_jpg="")
    write(tmp_path / "valid", a_jpg="")
    metadata(
        tmp_path / "train",
        {"file_name": "a.jpg", "text": " in train "},
        {"file_name": "./deep/b.jpg", "caption": "deep"},
        {"file_name": "not there.jpg", "text": "ignored"},
        "",
    )
    read = read_all(tmp_path, source_split="all")
    assert captions(read) == {
        "train/a.jpg": "in train",
        "train/deep/b.jpg": "deep",
        "valid/a.jpg": None,
    }
    assert read["train/a.jpg"].caption_source == "metadata"


def test_the_nearest_metadata_wins_and_the_field_can_be_chosen(tmp_path, read_all):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", a_jpg="", b_jpg="")
    metadata(
        tmp_path,
        {"file_name": "in/a.jpg", "text": "far", "alt": "far alt"},
        {"file_name": "in/b.jpg", "text": "b", "alt": "b alt"},
    )
    metadata(tmp_path / "in", {"file_name": "a.jpg", "text": "near", "alt": "near alt"})
    assert captions(read_all(tmp_path)) == {"in/a.jpg": "near", "in/b.jpg": "b"}
    chosen = read_all(tmp_path, caption="metadata", caption_column="alt")
    assert captions(chosen) == {"in/a.jpg": "near alt", "in/b.jpg": "b alt"}


def test_a_sidecar_comes_before_metadata_and_metadata_before_an_empty_sidecar(tmp_path, read_all):
    write(tmp_path, a_jpg="", a_txt="sidecar", b_jpg="", b_txt="")
    metadata(
        tmp_path, {"file_name": "a.jpg", "text": "meta"}, {"file_name": "b.jpg", "text": "meta"}
    )
    assert captions(read_all(tmp_path)) == {"a.jpg": "sidecar", "b.jpg": "meta"}
    assert captions(read_all(tmp_path, caption="metadata")) == {"a.jpg": "meta", "b.jpg": "meta"}
    assert captions(read_all(tmp_path, caption="sidecar")) == {"a.jpg": "sidecar", "b.jpg": None}


def test_a_metadata_caption_of_the_wrong_type_is_tied_to_its_picture(tmp_path, read_all):
    write(tmp_path, a_jpg="", b_jpg="")
    metadata(tmp_path, {"file_name": "a.jpg", "text": 3}, {"file_name": "b.jpg", "text": "good"})
    for mode in ("auto", "metadata"):
        read = read_all(tmp_path, caption=mode)
        assert read["b.jpg"].caption == "good"
        assert read["a.jpg"].caption_problem.reason is Reason.BAD_CAPTION
        assert "need a string, got int" in read["a.jpg"].caption_problem.detail


@pytest.mark.parametrize("line", ["{", '{"text": "whose?"}', '{"file_name": 1}', "[]", "3"])
def test_a_metadata_line_that_belongs_to_no_picture_stops_the_run(tmp_path, listed, line):
    write(tmp_path, a_jpg="")
    metadata(tmp_path, {"file_name": "a.jpg", "text": "good"}, line)
    with pytest.raises(
        ConfigError, match=r"metadata.jsonl, line 2: need a JSON object with file_n"
    ):
        listed(tmp_path)
    assert len(listed(tmp_path, caption="sidecar")[1]) == 1


def test_a_metadata_table_in_csv_works_and_another_table_is_ignored(tmp_path, read_all, listed):
    write(tmp_path, a_jpg="", metadata_csv=BOM + 'file_name,text\na.jpg,"one, two"\n')
    assert read_all(tmp_path)["a.jpg"].caption == "one, two"
    write(tmp_path, metadata_csv="id,price\n1,2\n")
    assert read_all(tmp_path)["a.jpg"].caption is None
    for broken in (b"file_name,text\na.jpg,caf\xe9\n", b"text,file_name\nwhose?\n"):
        write(tmp_path, metadata_csv=broken)
        with pytest.raises(ConfigError, match=r"metadata.csv: need a CSV table in UTF-8"):
            listed(tmp_path)


def test_captions_beside_a_globs_pictures_are_found(tmp_path, read_all):
    write(tmp_path, a_jpg="", a_txt="mine", b_png="")
    assert captions(read_all(f"{tmp_path}/*.jpg")) == {"a.jpg": "mine"}


def test_a_changed_caption_changes_the_reference(tmp_path, listed):
    write(tmp_path, a_jpg="", a_txt="one")
    before = listed(tmp_path)[1]
    write(tmp_path, a_txt="other")
    assert listed(tmp_path)[1] != before
