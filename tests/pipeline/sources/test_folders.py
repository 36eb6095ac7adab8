import os
import pickle
import shutil
import sys
from typing import Any

import pytest

from pipeline.config import GenerateConfig
from pipeline.sources import Notes, SourceKind, files, iter_reads, resolve_source
from schemas.errors import Reason, Rejected
from schemas.ledger import Ignored
from schemas.records import key_of


def write(folder, *names, raw=b"x"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)


def sources(refs):
    return [ref.source for ref in refs]


def test_pictures_of_all_folders_are_listed_once_in_the_order_of_their_names(tmp_path, listed):
    write(tmp_path, "b.png", "a.JPG", "cats/z.webp", "cats/deep/y.heic", "10.jpe")
    write(tmp_path, "notes.txt", "cats/model.safetensors", "thumbs.db")
    spec, refs = listed(tmp_path)
    assert spec.kind is SourceKind.IMAGES
    assert sources(refs) == ["10.jpe", "a.JPG", "b.png", "cats/z.webp", "cats/deep/y.heic"]
    assert [ref.key for ref in refs] == [key_of(name) for name in sources(refs)]
    assert {(ref.group, ref.ordinal, ref.problem) for ref in refs} == {("", 0, None)}


def test_every_suffix_of_a_picture_counts_in_any_case(tmp_path, listed):
    suffixes = "jpg jpeg jpe jfif png webp gif tif tiff bmp avif heic heif jp2 mpo".split()
    write(tmp_path, *(f"{n}.{s}" for n, s in enumerate(suffixes)))
    write(tmp_path, *(f"{n}.{s.upper()}" for n, s in enumerate(suffixes, start=20)))
    assert len(listed(tmp_path)[1]) == 2 * len(suffixes)


def test_the_order_of_the_directory_does_not_matter(tmp_path, listed, monkeypatch):
    write(tmp_path, *(f"{n % 3}/{n}.jpg" for n in range(20)))
    expected = listed(tmp_path)[1]
    scan = files.os.scandir

    class Backwards(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def backwards(path):
        with scan(path) as entries:
            return Backwards(reversed(list(entries)))

    monkeypatch.setattr(files.os, "scandir", backwards)
    assert listed(tmp_path)[1] == expected


def test_hidden_files_and_folders_are_skipped(tmp_path, listed):
    write(tmp_path, "a.jpg", ".b.jpg", ".cache/c.jpg", "__MACOSX/d.jpg", "x/._e.jpg")
    assert sources(listed(tmp_path)[1]) == ["a.jpg"]


def test_hidden_folders_are_not_even_entered(tmp_path, listed, monkeypatch):
    write(tmp_path, "a.jpg", ".git/b.jpg")
    scan = files.os.scandir

    def visible(path):
        assert not str(path).endswith(".git")
        return scan(path)

    monkeypatch.setattr(files.os, "scandir", visible)
    assert sources(listed(tmp_path)[1]) == ["a.jpg"]


def test_a_hidden_root_or_a_hidden_file_named_outright_is_read(tmp_path, listed):
    write(tmp_path / ".data", "a.jpg", ".b.jpg")
    assert sources(listed(tmp_path / ".data")[1]) == ["a.jpg"]
    assert sources(listed(tmp_path / ".data" / ".b.jpg")[1]) == [".b.jpg"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path, listed):
    write(tmp_path / "elsewhere", "a.jpg")
    write(tmp_path / "root", "cats/b.jpg")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "cats" / "up").symlink_to(tmp_path / "root")
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    assert sources(listed(tmp_path / "root")[1]) == ["cats/b.jpg", "linked/a.jpg"]


@pytest.mark.parametrize("pattern", ["", "/**/*.jpg"])
def test_folders_that_all_link_to_each_other_are_reached_through_links_once_each(
    tmp_path, listed, pattern
):
    for number in range(9):  # 9! ways through them
        write(tmp_path, f"{number}/a.jpg")
        for other in range(9):
            (tmp_path / str(number) / f"to{other}").symlink_to(tmp_path / str(other))
    found = sources(listed(f"{tmp_path}{pattern}")[1])
    assert {f"{number}/a.jpg" for number in range(9)} <= set(found)
    assert len(found) <= 18


def test_two_links_to_one_folder_are_followed_once_and_the_second_is_told(tmp_path, listed):
    write(tmp_path / "elsewhere", "a.jpg")
    write(tmp_path / "root", "b/c.jpg")
    for name in ("first", "second"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "elsewhere")
    notes = Notes()
    assert sources(listed(tmp_path / "root", notes=notes)[1]) == ["b/c.jpg", "first/a.jpg"]
    seen = notes.ignored.frozen()[Ignored.FOLDER_SEEN]
    assert (seen.count, seen.examples) == (1, ("second",))


def test_a_name_that_is_not_utf_8_works_from_listing_to_bytes(tmp_path, listed, jpeg):
    raw_name = b"caf\xe9.jpg"
    with open(os.path.join(os.fsencode(tmp_path), raw_name), "wb") as opened:
        opened.write(jpeg())
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt"), "wb") as opened:
        opened.write(b"a cafe")
    spec, refs = listed(tmp_path)
    (ref,) = pickle.loads(pickle.dumps(refs))
    assert ref.source == "caf\\xe9.jpg"
    assert ref.key == key_of(os.fsdecode(raw_name))
    ((_, fetch),) = iter_reads([ref], pickle.loads(pickle.dumps(spec)))
    assert fetch().raw == jpeg()
    assert fetch().caption == "a cafe"


def test_a_folder_with_a_pictures_name_is_reported_and_still_walked(tmp_path, listed, problems):
    write(tmp_path, "album.jpg/a.jpg")
    refs = listed(tmp_path)[1]
    assert sources(refs) == ["album.jpg", "album.jpg/a.jpg"]
    assert problems(refs) == {"album.jpg": Reason.NOT_A_FILE}


def test_pipes_and_broken_links_are_reported_and_never_opened(tmp_path, listed, problems):
    write(tmp_path, "good.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "nothing.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    refs = listed(tmp_path)[1]
    assert len(refs) == 4
    assert problems(refs) == {
        "pipe.jpg": Reason.NOT_A_FILE,
        "nothing.jpg": Reason.SOURCE_MISSING,
        "loop.jpg": Reason.SOURCE_MISSING,
    }


def test_a_folder_that_may_not_be_listed_is_one_problem(tmp_path, listed, problems, monkeypatch):
    write(tmp_path, "a.jpg", "closed/b.jpg")
    scan = files.os.scandir

    def guarded(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(files.os, "scandir", guarded)
    refs = listed(tmp_path)[1]
    assert sources(refs) == ["a.jpg", "closed"]
    assert problems(refs) == {"closed": Reason.SOURCE_UNREADABLE}
    assert "what is in it is not known" in refs[1].problem.detail


def test_the_listing_keeps_size_and_time_and_a_change_is_told_with_both_values(tmp_path, listed):
    write(tmp_path, "size.jpg", "time.jpg", "gone.jpg", "dir.jpg", "fifo.jpg")
    spec, refs = listed(tmp_path)
    by_name = {ref.source: ref for ref in refs}
    status = (tmp_path / "size.jpg").stat()
    assert by_name["size.jpg"].place.file_bytes == 1
    assert by_name["size.jpg"].place.modified_s == status.st_mtime
    (tmp_path / "size.jpg").write_bytes(b"longer")
    os.utime(tmp_path / "time.jpg", (1e9, 1e9))
    (tmp_path / "gone.jpg").unlink()
    for name in ("dir.jpg", "fifo.jpg"):
        (tmp_path / name).unlink()
    (tmp_path / "dir.jpg").mkdir()
    os.mkfifo(tmp_path / "fifo.jpg")
    failures = {}
    for ref, fetch in iter_reads(refs, spec):
        with pytest.raises(Rejected) as caught:
            fetch()
        failures[ref.source] = caught.value
    assert {name: failure.reason for name, failure in failures.items()} == {
        "size.jpg": Reason.SOURCE_CHANGED,
        "time.jpg": Reason.SOURCE_CHANGED,
        "gone.jpg": Reason.SOURCE_MISSING,
        "dir.jpg": Reason.SOURCE_UNREADABLE,
        "fifo.jpg": Reason.SOURCE_UNREADABLE,
    }
    assert failures["size.jpg"].detail == "listed with 1 bytes, now 6 bytes"
    assert "1000000000.0" in failures["time.jpg"].detail


def test_permission_denied_is_a_reject_and_an_outage_flies(tmp_path, listed, monkeypatch):
    write(tmp_path, "a.jpg")
    spec, refs = listed(tmp_path)
    ((_, fetch),) = iter_reads(refs, spec)

    def failing(error):
        def opener(*_):
            raise error

        return opener

    monkeypatch.setattr(files.os, "open", failing(PermissionError(13, "Permission denied")))
    with pytest.raises(Rejected, match="Permission denied") as caught:
        fetch()
    assert caught.value.reason is Reason.SOURCE_UNREADABLE
    monkeypatch.setattr(files.os, "open", failing(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):
        fetch()


def test_the_kind_is_known_from_the_first_names_of_a_large_folder(tmp_path, monkeypatch):
    write(tmp_path, *(f"{n}.jpg" for n in range(50)))
    looked_at = []
    is_folder = files._is_folder
    monkeypatch.setattr(files, "_FIRST_LOOK", 7)
    monkeypatch.setattr(
        files, "_is_folder", lambda entry: looked_at.append(entry.name) or is_folder(entry)
    )
    # Once, for the kind and for the splits where nobody said that all are meant.
    for form, split, most in (
        ("auto", "auto", 7),
        ("auto", "all", 7),
        ("images", "all", 1),
        ("images", "auto", 7),
    ):
        options: dict[str, Any] = {"source_format": form, "source_split": split}
        config = GenerateConfig(
            source=str(tmp_path), output="out", conditions=("canny",), **options
        )
        assert resolve_source(config).kind is SourceKind.IMAGES
        assert len(looked_at) == most
        looked_at.clear()


def test_the_keys_do_not_depend_on_where_the_folder_stands(tmp_path, listed):
    write(tmp_path / "one", "a/1.jpg")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert listed(tmp_path / "one")[1][0].key == listed(tmp_path / "two")[1][0].key


def test_a_deep_folder_does_not_exhaust_the_stack(tmp_path, listed):
    depth = 400
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        descriptor, parent = os.open("d", os.O_RDONLY, dir_fd=descriptor), descriptor
        os.close(parent)
    os.close(os.open("a.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        refs = listed(tmp_path)[1]
    finally:
        sys.setrecursionlimit(limit)
    assert sources(refs) == ["d/" * depth + "a.jpg"]
