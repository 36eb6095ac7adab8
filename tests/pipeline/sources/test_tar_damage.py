import gzip
import io
import random
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


def damaged(tmp_path, listed, change):
    path = build(tmp_path / "a.tar", *((f"{n}.jpg", bytes([n]) * 600) for n in range(4)))
    path.write_bytes(change(path.read_bytes()))
    spec, refs = listed(tmp_path)
    good = [ref for ref in refs if ref.problem is None]
    for number, (_, fetch) in enumerate(iter_reads(good, spec)):
        assert fetch().raw == bytes([number]) * 600
    assert [ref.ordinal for ref in refs] == list(range(len(refs)))
    assert {ref.group for ref in refs} == {"a.tar"}
    return len(good), {ref.source: ref.problem for ref in refs if ref.problem is not None}


def assert_broken(problem, *words):
    assert problem.reason is Reason.BROKEN_CONTAINER
    for word in words:
        assert word in problem.detail


def test_a_tar_cut_inside_a_member_loses_that_member_and_says_so(tmp_path, listed):
    good, found = damaged(tmp_path, listed, lambda raw: raw[: 2 * 1536 + 512 + 100])
    assert good == 2
    assert found["a.tar/2.jpg"].reason is Reason.TRUNCATED
    assert found["a.tar/2.jpg"].detail == "the tar ends after 100 of the member's 600 bytes"
    assert_broken(found["a.tar"], "stopped at byte 3072", "2.jpg", "later members are not known")


def test_a_tar_cut_between_members_is_told_from_a_whole_one(tmp_path, listed):
    good, found = damaged(tmp_path, listed, lambda raw: raw[: 2 * 1536])
    assert good == 2
    assert_broken(found["a.tar"], "stopped at byte 3072", "no end mark", "later members")


def test_a_tar_cut_inside_a_header_is_broken_there(tmp_path, listed):
    good, found = damaged(tmp_path, listed, lambda raw: raw[: 2 * 1536 + 40])
    assert good == 2
    assert_broken(found["a.tar"], "stopped at byte 3072", "truncated header")


def test_garbage_in_the_middle_stops_the_walk_there(tmp_path, listed):
    good, found = damaged(
        tmp_path, listed, lambda raw: raw[:1536] + b"garbage!" * 64 + raw[1536 + 512 :]
    )
    assert good == 1
    assert_broken(found["a.tar"], "stopped at byte 1536", "later members are not known")


def test_a_negative_length_does_not_loop_for_ever(tmp_path, listed):
    def negative(raw):
        header = bytearray(raw[1536 : 1536 + 512])
        header[124:136] = b"\xff" * 8 + (-2048).to_bytes(4, "big", signed=True)
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        return raw[:1536] + bytes(header) + raw[2048:]

    good, found = damaged(tmp_path, listed, negative)
    assert good == 1
    assert_broken(found["a.tar"], "stopped at byte 1536")


def test_a_header_that_claims_exabytes_allocates_nothing(tmp_path, listed):
    def huge(raw):
        header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
        header[156:157] = tarfile.GNUTYPE_LONGNAME
        header[124:136] = b"\x80" + (2**62).to_bytes(11, "big")
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        return raw[:1536] + bytes(header) + raw[1536:]

    good, found = damaged(tmp_path, listed, huge)
    assert good == 1
    assert_broken(found["a.tar"], "stopped at byte 1536")


def test_a_second_tar_behind_the_first_is_not_lost_in_silence(tmp_path, listed):
    good, found = damaged(tmp_path, listed, lambda raw: raw + raw)
    assert good == 4
    assert_broken(found["a.tar"], "data after its end mark", "cat")


def test_a_download_with_a_hole_is_not_taken_for_the_end(tmp_path, listed):
    good, found = damaged(tmp_path, listed, lambda raw: raw[:3072] + bytes(2**20 + 2048))
    assert good == 2
    assert_broken(found["a.tar"], "end mark, at byte 3072", "holes")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"hello", "not a tar"),
        (b"\xff" * 2000, "not a tar"),
        (
            gzip.compress(bytes(5000), mtime=0),
            "its content is gzip, not a plain tar; decompress it",
        ),
        (b"\x28\xb5\x2f\xfd" + b"x" * 1000, "its content is zstd"),
    ],
)
def test_what_is_not_a_tar_is_one_problem(tmp_path, listed, problems, content, words):
    (tmp_path / "a.tar").write_bytes(content)
    refs = listed(tmp_path)[1]
    assert problems(refs) == {"a.tar": Reason.BROKEN_CONTAINER}
    assert words in refs[0].problem.detail
    assert refs[0].key == key_of("a.tar")


def test_a_whole_tar_without_members_is_no_problem(tmp_path, listed):
    build(tmp_path / "a.tar")
    assert listed(tmp_path)[1] == []


def test_random_damage_never_raises_and_never_changes_a_members_key(tmp_path, listed):
    rng = random.Random(0)
    names = [f"{n}.jpg" for n in range(6)]
    options = {"format": tarfile.PAX_FORMAT}
    members = [(name, bytes(700)) for name in names] + [("ü" * 120 + ".jpg", b"x")]
    whole = build(tmp_path / "whole.tar", *members, **options).read_bytes()
    (tmp_path / "whole.tar").unlink()
    for _ in range(150):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 30)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        (tmp_path / "a.tar").write_bytes(raw[: rng.randint(0, len(raw))])
        refs = listed(tmp_path)[1]
        assert len({ref.key for ref in refs}) == len(refs)
        assert [ref.ordinal for ref in refs] == list(range(len(refs)))
