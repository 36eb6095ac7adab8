import io
import pickle
import tarfile

import pytest

from pipeline.sources import iter_reads
from schemas.errors import Reason
from schemas.records import key_of


def build(path, *members, mode="w", **options):
    """Members: (name, bytes), or a TarInfo without data."""
    with tarfile.open(path, mode, **options) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, raw = member
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def test_members_are_read_by_seeking_in_the_order_of_the_tar(tmp_path, listed):
    build(tmp_path / "b.tar", ("z.jpg", b"zz"), ("cats/a.PNG", b"a"), ("notes.md", b"no"))
    build(tmp_path / "a.tar", ("1.jpg", b"one"))
    spec, refs = listed(tmp_path)
    assert [(ref.source, ref.group, ref.ordinal) for ref in refs] == [
        ("a.tar/1.jpg", "a.tar", 0),
        ("b.tar/z.jpg", "b.tar", 0),
        ("b.tar/cats/a.PNG", "b.tar", 1),
    ]
    assert [ref.key for ref in refs] == [key_of(ref.source) for ref in refs]
    backwards = pickle.loads(pickle.dumps(list(reversed(refs))))
    assert [fetch().raw for _, fetch in iter_reads(backwards, spec)] == [b"a", b"zz", b"one"]


def test_one_tar_a_brace_list_and_tars_beside_parquet_are_sources(tmp_path, listed):
    for name in ("00000", "00001", "00002"):
        build(tmp_path / f"{name}.tar", ("1.jpg", b"x"))
        (tmp_path / f"{name}.parquet").write_bytes(b"img2dataset's metadata")
    assert len(listed(tmp_path)[1]) == 3
    assert [ref.source for ref in listed(tmp_path / "00001.tar")[1]] == ["00001.tar/1.jpg"]
    spec, refs = listed(f"{tmp_path}/{{00000..00001}}.tar")
    assert spec.root == str(tmp_path)
    assert [ref.group for ref in refs] == ["00000.tar", "00001.tar"]


def test_captions_are_found_wherever_they_stand_in_the_tar(tmp_path, read_all):
    build(
        tmp_path / "a.tar",
        ("b/1.txt", b" before "),
        ("b/1.jpg", b"x"),
        ("2.jpg", b"x"),
        ("3.jpg", b"x"),
        ("4.jpg", b"x"),
        ("2.json", b'{"caption": "after"}'),
        ("3.txt", b"\xff"),
    )
    read = read_all(tmp_path)
    assert {name: image.caption for name, image in read.items()} == {
        "a.tar/b/1.jpg": "before",
        "a.tar/2.jpg": "after",
        "a.tar/3.jpg": None,
        "a.tar/4.jpg": None,
    }
    assert read["a.tar/2.jpg"].caption_source == "sidecar"
    assert read["a.tar/3.jpg"].caption_problem.reason is Reason.BAD_CAPTION
    assert read["a.tar/4.jpg"].caption_problem is None
    asked = read_all(tmp_path, caption="sidecar")
    assert asked["a.tar/4.jpg"].caption_problem.reason is Reason.NO_CAPTION
    assert read_all(tmp_path, caption="none")["a.tar/2.jpg"].caption is None


def test_maps_beside_a_picture_are_not_pictures_but_a_lone_one_is(tmp_path, read_all):
    build(
        tmp_path / "a.tar",
        ("x.seg.png", b"map"),
        ("x.jpg", b"picture"),
        ("x.mask.png", b"map"),
        ("y.left.jpg", b"picture"),
        ("y.right.jpg", b"picture"),
        ("y.txt", b"both"),
        ("y.right.txt", b"right"),
        ("z.jpg", b"picture"),
        ("z.png", b"picture"),
    )
    read = read_all(tmp_path)
    assert list(read) == [
        f"a.tar/{name}" for name in ("x.jpg", "y.left.jpg", "y.right.jpg", "z.jpg", "z.png")
    ]
    assert {image.raw for image in read.values()} == {b"picture"}
    assert read["a.tar/y.left.jpg"].caption == "both"
    assert read["a.tar/y.right.jpg"].caption == "right"


def test_hidden_members_and_a_leading_dot_slash_are_as_in_folders(tmp_path, listed):
    build(tmp_path / "a.tar", ("./1.jpg", b"x"), ("./._1.jpg", b"x"), ("__MACOSX/1.jpg", b"x"))
    refs = listed(tmp_path)[1]
    assert [ref.source for ref in refs] == ["a.tar/1.jpg"]
    assert refs[0].key == key_of("a.tar/1.jpg")


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_names_that_are_not_utf_8_work(tmp_path, read_all, listed, kind):
    long = "/".join(["folder" * 10] * 6) + ".jpg"
    build(
        tmp_path / "a.tar",
        (long, b"long"),
        ("café.jpg", b"utf"),
        ("caf\udce9.jpg", b"latin"),
        format=kind,
    )
    read = read_all(tmp_path)
    assert {name: image.raw for name, image in read.items()} == {
        f"a.tar/{long}": b"long",
        "a.tar/café.jpg": b"utf",
        "a.tar/caf\\xe9.jpg": b"latin",
    }
    assert listed(tmp_path)[1][2].key == key_of("a.tar/caf\udce9.jpg")


def test_unsafe_names_are_reported_and_nothing_is_extracted(tmp_path, listed):
    build(tmp_path / "a.tar", ("/etc/1.jpg", b"x"), ("../2.jpg", b"x"), ("a/../../3.jpg", b"x"))
    refs = listed(tmp_path)[1]
    assert [ref.problem and ref.problem.reason for ref in refs] == [Reason.UNSAFE_NAME] * 3
    assert len({ref.key for ref in refs}) == 3
    assert "nothing was extracted" in refs[0].problem.detail
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_the_second_member_of_a_name_is_reported_under_another_key(tmp_path, listed):
    build(tmp_path / "a.tar", ("1.jpg", b"first"), ("1.jpg", b"second"), ("./1.jpg", b"third"))
    spec, refs = listed(tmp_path)
    assert [ref.problem and ref.problem.reason for ref in refs] == [
        None,
        Reason.DUPLICATE_NAME,
        Reason.DUPLICATE_NAME,
    ]
    assert len({ref.key for ref in refs}) == 3
    ((_, fetch),) = iter_reads(refs[:1], spec)
    assert fetch().raw == b"first"


def test_links_devices_and_folders_with_a_pictures_name_are_not_files(tmp_path, listed, problems):
    build(
        tmp_path / "a.tar",
        ("1.jpg", b"x"),
        special("2.jpg", tarfile.SYMTYPE, "1.jpg"),
        special("3.jpg", tarfile.LNKTYPE, "1.jpg"),
        special("4.jpg", tarfile.CHRTYPE),
        special("5.jpg", tarfile.FIFOTYPE),
        special("6.jpg", tarfile.DIRTYPE),
        special("folder", tarfile.DIRTYPE),
    )
    refs = listed(tmp_path)[1]
    assert problems(refs) == {f"a.tar/{n}.jpg": Reason.NOT_A_FILE for n in range(2, 7)}
    assert refs[1].problem.detail == "a symbolic link to 1.jpg"
    assert refs[2].problem.detail == "a hard link to 1.jpg"


def test_a_sparse_member_is_reported_and_its_neighbours_are_read(tmp_path, listed, problems):
    sparse = tarfile.TarInfo("2.jpg")
    sparse.pax_headers = {
        "GNU.sparse.map": "0,1",
        "GNU.sparse.size": "9",
        "GNU.sparse.name": "2.jpg",
    }
    build(tmp_path / "a.tar", ("1.jpg", b"x"), sparse, ("3.jpg", b"x"), format=tarfile.PAX_FORMAT)
    refs = listed(tmp_path)[1]
    assert len(refs) == 3
    assert problems(refs) == {"a.tar/2.jpg": Reason.BROKEN_CONTAINER}
    assert "sparse" in refs[1].problem.detail


def test_compressed_tars_among_plain_ones_are_reported(tmp_path, listed, problems):
    build(tmp_path / "a.tar", ("1.jpg", b"x"))
    build(tmp_path / "b.tar.gz", ("1.jpg", b"x"), mode="w:gz")
    refs = listed(tmp_path)[1]
    assert len(refs) == 2
    assert problems(refs) == {"b.tar.gz": Reason.BROKEN_CONTAINER}
    assert refs[1].problem.detail == "a compressed tar cannot be read in parallel; decompress it"


def test_a_tar_that_changes_after_the_listing_is_not_read(tmp_path, listed):
    path = build(tmp_path / "a.tar", ("1.jpg", b"x"))
    spec, refs = listed(tmp_path)
    build(path, ("1.jpg", b"x" * 20000))
    ((_, fetch),) = iter_reads(refs, spec)
    with pytest.raises(Exception, match="listed with 10240 bytes, now 30720 bytes") as caught:
        fetch()
    assert caught.value.reason is Reason.SOURCE_CHANGED


def test_a_tar_that_is_gone_when_it_is_indexed_is_one_problem(tmp_path, listed, problems):
    build(tmp_path / "a.tar", ("1.jpg", b"x"))
    (tmp_path / "b.tar").symlink_to(tmp_path / "gone")
    refs = listed(tmp_path)[1]
    assert problems(refs) == {"b.tar": Reason.SOURCE_MISSING}
