import errno
import io
import tarfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import GenerateConfig
from pipeline.sources import SourceKind, files, iter_reads, parquet, resolve_source
from schemas import filesystems
from schemas.errors import ConfigError, Reason, Rejected
from schemas.records import Place, key_of
from tests.memory_store import OBJECTS as STORED
from tests.memory_store import MemoryStore


@pytest.fixture(autouse=True)
def bucket():
    fsspec.register_implementation("mem", MemoryStore, clobber=True)
    STORED.clear()
    yield STORED
    STORED.clear()


def store(**files):
    for name, content in files.items():
        STORED[f"mem://bucket/{name}"] = content


def sources(refs):
    return [ref.source for ref in refs]


def test_a_bucket_is_listed_like_a_folder(tmp_path, listed, read_all):
    contents = {
        "z.jpg": b"z",
        "cats/a.jpg": b"a",
        "cats/a.txt": b"a cat",
        "cats/deep/b.png": b"b",
        "cats/deep/.hidden.png": b"h",
        "__MACOSX/c.png": b"h",
        "album.jpg/d.jpg": b"d",
        ".git/metadata.jsonl": b"not ours",
        "metadata.jsonl": b'{"file_name": "cats/deep/b.png", "text": "from metadata"}\n',
    }
    store(**{f"set/{name}": raw for name, raw in contents.items()})
    store(**{"set/folder/": b"", "settings/other.jpg": b"o"})
    for name, raw in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(raw)
    spec, refs = listed("mem://bucket/set/")
    assert spec.root == "mem://bucket/set"
    on_disk = [ref for ref in listed(tmp_path)[1] if ref.problem is None]
    assert sources(refs) == sources(on_disk)
    assert [ref.key for ref in refs] == [ref.key for ref in on_disk]
    assert refs[0].place.modified_s == 7.0
    assert read_all("mem://bucket/set") == read_all(tmp_path)


def test_a_whole_bucket_a_glob_a_file_and_a_brace_list_are_sources(listed, read_all):
    store(**{"a/1.jpg": b"1", "a/1.txt": b"one", "b/2.jpg": b"2"})
    store(**{"b/c/3.jpg": b"3", "b/x[1].jpg": b"x"})
    everything = ["a/1.jpg", "b/2.jpg", "b/x[1].jpg", "b/c/3.jpg"]
    assert sources(listed("mem://bucket")[1]) == everything
    assert sources(listed("mem://bucket/*/?.jpg")[1]) == ["a/1.jpg", "b/2.jpg"]
    assert sources(listed("mem://bucket/b/**/?.jpg")[1]) == ["2.jpg", "c/3.jpg"]
    assert sources(listed("mem://bucket/{a,b/c}")[1]) == ["a/1.jpg", "b/c/3.jpg"]
    assert read_all("mem://bucket/a/1.jpg")["1.jpg"].caption == "one"
    with pytest.raises(ConfigError, match=r"mem://bucket/b/4.jpg"):
        listed("mem://bucket/b/{2,4}.jpg")


def test_a_tar_in_a_bucket_is_read_by_seeking(listed, read_all):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, raw in (("1.jpg", b"one"), ("1.txt", b"caption"), ("2.jpg", b"two")):
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    store(**{"0.tar": buffer.getvalue(), "1.tar": buffer.getvalue()[:1024]})
    spec, refs = listed("mem://bucket/{0..1}.tar")
    assert spec.kind is SourceKind.TAR
    assert sources(refs) == ["0.tar/1.jpg", "0.tar/2.jpg", "1.tar/1.jpg", "1.tar"]
    assert refs[0].key == key_of("0.tar/1.jpg")
    assert refs[3].problem.reason is Reason.BROKEN_CONTAINER
    read = read_all("mem://bucket/0.tar")
    assert (read["0.tar/1.jpg"].raw, read["0.tar/1.jpg"].caption) == (b"one", "caption")
    assert read["0.tar/2.jpg"].raw == b"two"


def test_parquet_in_a_bucket_is_read(read_all):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"jpg": [b"x", b"y"], "text": ["1", "2"]}), buffer)
    store(**{"data/a.parquet": buffer.getvalue()})
    read = read_all("mem://bucket")
    assert {name: (image.raw, image.caption) for name, image in read.items()} == {
        "data/a.parquet#0": (b"x", "1"),
        "data/a.parquet#1": (b"y", "2"),
    }


@pytest.mark.parametrize("codec", ["none", "snappy"])
def test_long_values_that_a_dictionary_repeats_come_few_at_a_time(monkeypatch, codec):
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 3 << 20)
    monkeypatch.setattr(parquet, "measure_pages", lambda *_: pytest.fail("a request a page"))
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 9, pa.int32()), [b"x" * (1 << 20)])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": values}), buffer, compression=codec)
    assert len(buffer.getvalue()) < 2 << 20
    store(**{"a.parquet": buffer.getvalue()})
    with parquet._Reader(Place(uri="mem://bucket/a.parquet")) as reader:
        rows = [batch.num_rows for batch in reader.batches(0, ["image"])]
    assert sum(rows) == 9
    assert max(rows) <= 3


def test_a_file_that_is_gone_or_shorter_is_rejected_and_an_outage_flies(listed, monkeypatch):
    store(**{"a.jpg": b"aaaa", "b.jpg": b"bbbb", "c.jpg": b"cccc"})
    spec, refs = listed("mem://bucket")
    del STORED["mem://bucket/a.jpg"]
    STORED["mem://bucket/b.jpg"] = b"b"
    gone, shorter, outage = (fetch for _, fetch in iter_reads(refs, spec))
    with pytest.raises(Rejected) as caught:
        gone()
    assert caught.value.reason is Reason.SOURCE_MISSING
    with pytest.raises(Rejected, match="listed with 4 bytes, read 1 bytes") as caught:
        shorter()
    assert caught.value.reason is Reason.SOURCE_CHANGED

    def failing(*_, **__):
        raise OSError("503 try again")

    monkeypatch.setattr(MemoryStore, "cat_file", failing)
    with pytest.raises(OSError, match="503"):
        outage()


@pytest.mark.parametrize("lost", [PermissionError("Access Denied"), OSError("Forbidden: x\n")])
def test_a_right_that_is_lost_on_the_way_rejects_no_picture(listed, monkeypatch, lost):
    store(**{"a.jpg": b"a"})
    spec, refs = listed("mem://bucket")

    def refusing(*_, **__):
        raise lost

    monkeypatch.setattr(MemoryStore, "cat_file", refusing)
    ((_, fetch),) = iter_reads(refs, spec)
    with pytest.raises(ConfigError, match=r"mem://bucket/a.jpg: .*HTTP 403 .*give this account"):
        fetch()


@pytest.mark.parametrize("error", [ValueError("Bad Request: x"), OSError("no number"), EOFError()])
def test_what_a_store_says_in_the_middle_of_a_container_is_not_taken_for_damage(
    listed, monkeypatch, error
):
    """gcsfs raises ValueErrors and bare OSErrors, which are damage where a disk's file is read."""

    class Breaking(io.BytesIO):
        def read(self, *_):
            raise error

    store(**{"a.tar": b"x" * 2048, "a.parquet": b"PAR1" + b"x" * 100})
    monkeypatch.setattr(MemoryStore, "open", lambda *_, **__: Breaking())
    for name in ("a.tar", "a.parquet"):
        with pytest.raises(OSError, match=r"Input/output error|mem://bucket") as caught:
            files.open_checked(Place(uri=f"mem://bucket/{name}")).read(10)
        assert caught.value.errno == errno.EIO


def test_the_kind_of_a_large_bucket_is_known_from_its_first_names(listed, monkeypatch):
    asked = []

    def pages(files, folder, **_):
        found = [filesystems.Entry(name, 0, None) for name in sorted(names)]
        for start in range(0, len(found), 2):
            asked.append(start)
            yield found[start : start + 2]

    monkeypatch.setattr(files, "_FIRST_PAGE", 2)
    monkeypatch.setattr(filesystems, "pages", pages)
    names = [f"{n}.txt" for n in range(5)] + ["x.tar"]
    assert listed("mem://bucket")[0].kind is SourceKind.TAR  # past the first look
    names.append("00.jpg")
    asked.clear()
    config = GenerateConfig(source="mem://bucket", output="out", conditions=("canny",))
    assert resolve_source(config).kind is SourceKind.IMAGES
    assert asked == [0]  # once, for the kind and for splits


def test_what_is_not_there_and_unknown_schemes_are_clear_errors(listed, tmp_path):
    with pytest.raises(ConfigError, match=r"mem://bucket/none: need images, tars or Parquet"):
        listed("mem://bucket/none")
    with pytest.raises(ConfigError, match=r"nope://x.*: need a file system that fsspec knows"):
        listed("nope://x")
    store(**{"a.jpg": b"x"})
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match="need all parts local or all remote, got both"):
        listed(f"{{mem://bucket/,{tmp_path}/}}a.jpg")
