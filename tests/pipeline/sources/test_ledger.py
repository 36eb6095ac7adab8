"""What was found and not used is counted, with its reason and a name."""

import io
import json
import tarfile

import pytest

from pipeline.sources import Notes
from schemas.errors import ConfigError, Reason
from schemas.ledger import CaptionCounts, Counts, Ignored, Ledger, Noted, Unused


def write(folder, **files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def tar(path, **members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def counted(counts):
    return {reason: (noted.count, *noted.examples) for reason, noted in counts.frozen().items()}


def test_every_file_of_a_folder_is_an_image_or_has_a_reason(tmp_path, listed, jpeg):
    names = {"a.jpg": b"x", "b.pdf": b"x", ".c.jpg": b"x", "d.svg": b"<svg", "e": jpeg(), "f": b"x"}
    names |= {"x.jpg?w=800": b"x", "g.apng": b"x", "h.jpg_large": jpeg(), ".hid/i.jpg": b"x"}
    write(tmp_path, **names)
    notes = Notes()
    refs = listed(tmp_path, notes=notes)[1]
    assert [ref.source for ref in refs] == ["a.jpg", "e", "g.apng", "h.jpg_large", "x.jpg?w=800"]
    assert counted(notes.ignored) == {
        Ignored.HIDDEN: (2, ".c.jpg", ".hid"),
        Ignored.NOT_A_PICTURE: (2, "b.pdf", "f"),
        Ignored.UNREAD_FORMAT: (1, "d.svg"),
    }
    assert notes.found == len(names)


def test_files_of_an_unknown_suffix_are_looked_into_until_a_hundred_were_no_pictures(
    tmp_path, listed, jpeg
):
    write(tmp_path, **{f"{n:03d}.what": b"x" for n in range(150)}, **{"zzz.what": jpeg()})
    write(tmp_path, **{"a.odd": jpeg(), "b.jpg": b"x"})
    notes = Notes()
    assert [ref.source for ref in listed(tmp_path, notes=notes)[1]] == ["a.odd", "b.jpg"]
    assert notes.ignored.frozen()[Ignored.NOT_A_PICTURE].count == 151


def test_a_folder_of_pictures_without_any_suffix_is_a_source(tmp_path, listed, jpeg):
    write(tmp_path, one=jpeg(), two=jpeg(), three=b"text")
    assert [ref.source for ref in listed(tmp_path)[1]] == ["one", "two"]


@pytest.mark.parametrize("other", ["data/train.parquet", "00000.tar", "00000.tar.gz"])
def test_one_stray_picture_beside_other_data_must_be_chosen(tmp_path, listed, other):
    write(tmp_path, **{"assets/notes.md": b"", "assets/teaser.png": b"x", other: b"x"})
    with pytest.raises(ConfigError) as caught:
        listed(tmp_path)
    kind = "parquet" if "parquet" in other else "tar"
    assert f"({other})" in str(caught.value)
    assert "images (assets/teaser.png)" in str(caught.value)
    assert "--source-format images" in str(caught.value)
    assert f"--source-format {kind}" in str(caught.value)
    assert "\n" not in str(caught.value)
    notes = Notes()
    refs = listed(tmp_path, notes=notes, source_format="images")[1]
    assert [ref.source for ref in refs] == ["assets/teaser.png"]
    assert counted(notes.ignored)[Ignored.OTHER_KIND] == (1, other)


def test_tars_and_parquet_that_do_not_belong_together_must_be_chosen(tmp_path, listed):
    tar(tmp_path / "00000.tar", **{"1.jpg": b"x"})
    write(tmp_path, **{"00000.parquet": b"x", "train.parquet": b"x"})
    with pytest.raises(ConfigError, match=r"got tar .00000.tar. and parquet .train.parquet."):
        listed(tmp_path)
    (tmp_path / "train.parquet").unlink()
    notes = Notes()
    assert len(listed(tmp_path, notes=notes)[1]) == 1
    assert counted(notes.ignored) == {Ignored.NOT_A_PICTURE: (1, "00000.parquet")}


def test_another_kind_behind_the_first_names_stops_the_listing(tmp_path, listed, monkeypatch):
    from pipeline.sources import files

    monkeypatch.setattr(files, "_FIRST_LOOK", 1)
    (tmp_path / "in").mkdir()
    write(tmp_path, **{"a.jpg": b"x", "in/b.parquet": b"x"})
    with pytest.raises(ConfigError, match=r"need one kind of source, got images and parquet .*b.p"):
        listed(tmp_path)


def test_the_captions_of_a_folder_are_attached_or_have_a_reason(tmp_path, listed):
    write(tmp_path, **{"a.jpg": "", "a.txt": "", "a.json": "{}", "b.jpg": "", "b.jpg.txt": "b"})
    write(tmp_path, **{"README.txt": "", "c.caption": ""})
    notes = Notes()
    listed(tmp_path, notes=notes)
    assert notes.attached == 3
    assert counted(notes.unused) == {Unused.WITHOUT_PICTURE: (2, "README.txt", "c.caption")}
    notes = Notes()
    listed(tmp_path, notes=notes, caption="none")
    assert notes.attached == 0
    assert notes.unused.frozen()[Unused.NOT_ASKED_FOR].count == 5


def test_what_several_parts_of_a_source_share_is_counted_once(tmp_path, listed):
    write(tmp_path, **{"a.jpg": "", "a.txt": "", "b.png": "", "b.txt": "", "c.txt": "", "d.md": ""})
    lines = [{"file_name": name, "text": name} for name in ("a.jpg", "b.png", "e.png")]
    write(tmp_path, **{"metadata.jsonl": "\n".join(map(json.dumps, lines))})
    notes = Notes()
    refs = listed(f"{tmp_path}/{{*.jpg,[abc]*,*.jpg}}", notes=notes)[1]
    assert [ref.source for ref in refs] == ["a.jpg", "b.png"]
    assert (notes.found, notes.pictures, notes.attached) == (2, 2, 4)
    assert {reason: one[0] for reason, one in counted(notes.unused).items()} == {
        Unused.WITHOUT_PICTURE: 1,
        Unused.LINE_UNMATCHED: 1,
    }


def test_a_numbered_picture_of_a_tar_with_its_own_caption_is_not_a_field(
    tmp_path, listed, read_all
):
    members = {"photo.jpg": b"0", "photo.txt": b"zero", "photo.depth.png": b"d"}
    members |= {f"photo.{n}.jpg": b"%d" % n for n in (1, 2, 3)}
    members |= {f"photo.{n}.txt": b"no %d" % n for n in (1, 2)}
    tar(tmp_path / "a.tar", **members, **{"v1.2.jpg": b"v", "cls.cls": b"1", "lost.txt": b""})
    notes = Notes()
    listed(tmp_path, notes=notes)
    assert {name: image.caption for name, image in read_all(tmp_path).items()} == {
        "a.tar/photo.jpg": "zero",
        "a.tar/photo.1.jpg": "no 1",
        "a.tar/photo.2.jpg": "no 2",
        "a.tar/v1.2.jpg": None,
    }
    assert counted(notes.ignored) == {
        Ignored.NOT_A_PICTURE: (1, "a.tar/cls.cls"),
        Ignored.PICTURE_SHADOWED: (2, "a.tar/photo.3.jpg", "a.tar/photo.depth.png"),
    }
    assert counted(notes.unused) == {Unused.WITHOUT_PICTURE: (1, "a.tar/lost.txt")}
    assert (notes.found, notes.pictures, notes.attached) == (7, 4, 3)


def test_hostile_names_in_a_tar_stay_rejects_and_the_sums_hold(tmp_path, listed, problems):
    names = ("/etc/1.jpg", "../2.jpg", "a/../../3.png", "4\x1b[2J.jpg", "5.jpg", "C:\\7.jpg")
    names += ("../6.txt",)
    tar(tmp_path / "a.tar", **dict.fromkeys(names, b"x"))
    notes = Notes()
    refs = listed(tmp_path, notes=notes)[1]
    assert set(problems(refs).values()) == {Reason.UNSAFE_NAME}
    assert len(problems(refs)) == 3
    assert (notes.found, notes.pictures) == (6, 6)
    assert counted(notes.unused) == {Unused.UNUSABLE: (1, "a.tar/../6.txt")}


def test_examples_are_the_first_names_whoever_counted_them():
    one, other = Counts(), Counts()
    for number in (5, 3, 9, 1):
        one.add(Ignored.HIDDEN, f"{number}")
    for number in (4, 2):
        other.add(Ignored.HIDDEN, f"{number}")
    one.add_all(other.frozen())
    assert one.frozen() == {"hidden": Noted(count=6, examples=("1", "2", "3"))}


def test_a_ledger_whose_sums_are_wrong_is_refused_when_made_and_when_read():
    ignored = {Ignored.HIDDEN: Noted(count=2, examples=("x",))}
    captions = CaptionCounts(used=3, unused={Unused.EMPTY: Noted(count=1)})
    ledger = Ledger(found=7, planned=5, ignored=ignored, captions=captions)
    record = ledger.to_json()
    assert record["captions"]["offered"] == 4
    assert Ledger.from_json(record, where="x") == ledger
    with pytest.raises(ValueError, match="found 8 things, but planned 5"):
        Ledger(found=8, planned=5, ignored=ignored)
    with pytest.raises(ConfigError, match=r"^x: need"):
        Ledger.from_json(record | {"found": 8}, where="x")
