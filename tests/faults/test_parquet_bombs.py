"""A small Parquet file costs no more memory than the stated limits, as a source and as a set.

Each file is made here and read in a process of its own, whose peak is measured.
"""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import GenerateConfig
from pipeline.sources import Container, index_container, iter_reads, list_source, resolve_source
from pipeline.sources.spec import Notes
from schemas.dataset import open_dataset
from schemas.errors import ConfigError, Rejected
from tests.faults.test_hostile_set import SHARD, hostile, original  # noqa: F401

MOST_EXTRA_BYTES = 1_500_000_000


def peak():
    """Most memory that this process ever had; `getrusage` has the maximum of its parent, too."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def outcomes(source):
    config = GenerateConfig(source=source, output="out", conditions=("canny",))
    spec = resolve_source(config)
    for found in list_source(spec, Notes()):
        is_container = isinstance(found, Container)
        refs = list(index_container(found, spec, Notes()) if is_container else [found])
        yield from (str(ref.problem.reason) for ref in refs if ref.problem is not None)
        for _, fetch in iter_reads([ref for ref in refs if ref.problem is None], spec):
            try:
                read = fetch()
            except Rejected as rejected:
                yield str(rejected.reason)
            else:
                problem = read.caption_problem
                yield "kept" if problem is None else str(problem.reason)


def read_and_tell(kind, place, told):
    """Runs in a child: what becomes of the rows, and how much memory that took."""
    base = peak()
    try:
        found = len(list(open_dataset(place))) if kind == "set" else Counter(outcomes(place))
    except ConfigError as error:
        found = str(error)
    told.write_text(json.dumps([found, peak() - base]))


@pytest.fixture
def read_apart(crashes, tmp_path_factory):
    """What became of the rows, after its peak was asserted."""

    def read(kind, place):
        told = tmp_path_factory.mktemp("told") / "told.json"
        assert crashes.run(read_and_tell, kind, str(place), told)[0] == 0
        found, extra_bytes = json.loads(told.read_text())
        assert 0 <= extra_bytes < MOST_EXTRA_BYTES
        return found

    return read


def repeated(size_bytes, rows):
    """A column of one long value; as a dictionary it takes no memory here, either."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [b"\0" * size_bytes])


def good(path):
    pq.write_table(pa.table({"image": [b"x", b"y"], "text": ["one", "two"]}), path)


def test_a_page_that_unpacks_to_gigabytes_is_rejected_and_its_neighbours_are_read(
    read_apart, tmp_path
):
    pq.write_table(
        pa.table({"image": repeated(400_000_000, 5)}), tmp_path / "a.parquet", compression="zstd"
    )
    good(tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    assert read_apart("source", tmp_path) == {"broken_container": 5, "kept": 2}


def test_a_long_value_that_a_dictionary_repeats_is_read_a_few_rows_at_a_time(read_apart, tmp_path):
    pq.write_table(
        pa.table({"image": repeated(60_000_000, 12)}), tmp_path / "a.parquet", compression="zstd"
    )
    assert read_apart("source", tmp_path) == {"kept": 12}


def test_a_row_of_a_million_long_captions_loses_them_and_stays(read_apart, tmp_path):
    items = pa.DictionaryArray.from_arrays(
        pa.array([0] * 1_000_000, pa.int32()), pa.array(["a" * 60_000])
    )
    texts = pa.ListArray.from_arrays([0, 1_000_000, 1_000_000], items)
    pq.write_table(pa.table({"image": [b"x", b"y"], "text": texts}), tmp_path / "a.parquet")
    assert read_apart("source", tmp_path) == {"bad_caption": 1, "kept": 1}


def test_captions_of_a_hundred_megabytes_are_rejected_and_their_pictures_stay(read_apart, tmp_path):
    texts = pa.DictionaryArray.from_arrays([0] * 20 + [1], ["a" * 100_000_000, "a cat"])
    table = pa.table({"image": [b"x"] * 21, "text": texts})
    pq.write_table(table, tmp_path / "a.parquet", compression="snappy")
    assert read_apart("source", tmp_path) == {"bad_caption": 20, "kept": 1}


def test_a_caption_table_of_long_texts_is_bounded_and_its_pictures_stay(read_apart, tmp_path):
    names = [f"{number}.png" for number in range(21)]
    for name in names:
        Image.new("L", (8, 8)).save(tmp_path / name)
    texts = pa.DictionaryArray.from_arrays([0] * 20 + [1], ["a" * 100_000_000, "a cat"])
    table = pa.table({"file_name": names, "text": texts})
    pq.write_table(table, tmp_path / "metadata.parquet", compression="snappy")
    assert read_apart("source", tmp_path) == {"bad_caption": 20, "kept": 1}


def test_more_rows_than_bytes_are_one_problem(read_apart, tmp_path):
    table = pa.table({"image": pa.nulls(3_000_000, pa.binary())})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3_000_000)
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    assert read_apart("source", tmp_path) == {"broken_container": 1}


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_what_others_write_is_read_whole(tmp_path, listed_rows, codec, version):
    raws = [bytes([n % 7]) * 3000 for n in range(100)]
    texts = [["a", f"{n}", None] for n in range(100)]
    pq.write_table(
        pa.table({"image": [{"bytes": raw, "path": None} for raw in raws], "text": texts}),
        tmp_path / "a.parquet", compression=codec, data_page_version=version,
        data_page_size=5000, row_group_size=40,
    )  # fmt: skip
    assert listed_rows(tmp_path) == [(raw, "a") for raw in raws]


@pytest.fixture
def listed_rows():
    """Source -> bytes and caption of every row."""
    from pipeline.sources import iter_reads
    from tests.pipeline.sources.conftest import _listed

    def rows(source):
        spec, refs = _listed(source)
        reads = [fetch() for _, fetch in iter_reads(refs, spec)]
        return [(read.raw, read.caption) for read in reads]

    return rows


def test_a_shard_of_a_set_that_unpacks_to_gigabytes_is_refused(read_apart, hostile):  # noqa: F811
    path = hostile / SHARD
    table = pq.read_table(path)
    texts = pa.DictionaryArray.from_arrays([0] * table.num_rows, ["a" * 400_000_000])
    index = table.schema.get_field_index("text")
    pq.write_table(table.set_column(index, "text", texts), path, compression="zstd")
    document = json.loads((hostile / "manifest.json").read_text())
    document["shards"][0]["data"]["size_bytes"] = path.stat().st_size
    document["size_bytes"] = sum(one["data"]["size_bytes"] for one in document["shards"])
    (hostile / "manifest.json").write_text(json.dumps(document))
    assert f"{SHARD}: need " in read_apart("set", hostile)
