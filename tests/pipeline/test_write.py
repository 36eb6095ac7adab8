"""One Parquet file: its layout, and that nobody sees it before it is whole."""

import errno
import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.output.parquet
from pipeline.output.parquet import ParquetFileWriter, write_table
from pipeline.output.store import OutputError
from pipeline.verify.files import _layout_problems
from schemas.errors import Reason
from schemas.records import RejectRow
from schemas.triple import Condition, rejects_schema, triple_schema

NAME = "train-00000-of-00001"
SCHEMA = triple_schema([Condition(name="canny", stats={"low": "int32"})], {"recipe": {}})


def row_of(number, *, image_bytes=50, with_map=True, text="a photograph"):
    seeded = hashlib.sha256(str(number).encode()).digest()
    image = (seeded * (image_bytes // 32 + 1))[:image_bytes]
    return {
        "key": f"{number:032x}",
        "source": f"{number}.jpg",
        "sha256": hashlib.sha256(image).hexdigest(),
        "image": {"bytes": image, "path": f"{number}.jpg"},
        "text": text,
        "caption_source": None,
        "width": 64,
        "height": 64,
        "original_width": 64,
        "original_height": 64,
        "crop_x": 0,
        "crop_y": 0,
        "canny": {"bytes": seeded, "path": f"{number}.png"} if with_map else None,
        "canny_low": 100 if with_map else None,
    }


def named(schema):
    """As it lies in the file: it says which shard it is."""
    return schema.with_metadata({**schema.metadata, b"controlset.shard": NAME.encode()})


def write(folder, rows):
    record = write_table(str(folder), f"data/{NAME}.parquet", SCHEMA, rows)
    return record, pq.ParquetFile(folder / "data" / f"{NAME}.parquet")


def group_rows(reader):
    groups = range(reader.metadata.num_row_groups)
    return [reader.metadata.row_group(number).num_rows for number in groups]


def test_rows_come_back_in_order_with_their_nulls(tmp_path):
    rows = [row_of(number, with_map=number % 3 > 0) for number in range(250)]
    record, reader = write(tmp_path, rows)
    assert reader.read().to_pylist() == rows
    assert reader.schema_arrow.equals(named(SCHEMA), check_metadata=True)
    stored = (tmp_path / "data" / f"{NAME}.parquet").read_bytes()
    assert record.path == f"data/{NAME}.parquet"
    assert (record.rows, record.size_bytes) == (250, len(stored))
    assert record.sha256 == hashlib.sha256(stored).hexdigest()


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_a_row_group_has_100_rows_at_most_and_only_the_last_one_fewer(tmp_path, count):
    _, reader = write(tmp_path, [row_of(number) for number in range(count)])
    expected = [100] * (count // 100) + [count % 100] * (count % 100 > 0)
    assert group_rows(reader) == expected


def test_a_row_group_stays_below_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.output.parquet, "ROW_GROUP_BYTES", 100_000)
    rows = [row_of(number, image_bytes=1 + number * 401 % 30_000) for number in range(90)]
    _, reader = write(tmp_path, rows)
    sizes = [
        reader.metadata.row_group(number).total_byte_size
        for number in range(reader.metadata.num_row_groups)
    ]
    assert max(sizes) <= 100_000
    assert sum(sizes) / len(sizes) > 60_000  # full, as far as rows allow
    assert reader.read().to_pylist() == rows


@pytest.mark.parametrize("text", ["x" * 40_000, "中" * 14_000])
def test_long_captions_count_too(tmp_path, monkeypatch, text):
    monkeypatch.setattr(pipeline.output.parquet, "ROW_GROUP_BYTES", 100_000)
    _, reader = write(tmp_path, [row_of(number, text=text) for number in range(4)])
    groups = range(reader.metadata.num_row_groups)
    assert all(reader.metadata.row_group(n).total_byte_size <= 100_000 for n in groups)


def test_many_small_rows_are_not_cut_by_a_wrong_estimate(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.output.parquet, "ROW_GROUP_BYTES", 1_000_000)
    _, reader = write(tmp_path, [row_of(number, image_bytes=5_000) for number in range(100)])
    assert group_rows(reader) == [100]


def test_a_picture_larger_than_a_row_group_has_one_to_itself_and_passes_verification(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(pipeline.output.parquet, "ROW_GROUP_BYTES", 20_000)
    monkeypatch.setattr("pipeline.verify.files.ROW_GROUP_BYTES", 20_000)
    rows = [row_of(number, image_bytes=50_000 if number == 2 else 50) for number in range(5)]
    _, reader = write(tmp_path, rows)
    assert group_rows(reader) == [2, 1, 2]
    assert list(_layout_problems(reader.metadata)) == []


def test_columns_are_plain_uncompressed_and_indexed_by_page(tmp_path):
    _, reader = write(tmp_path, [row_of(number) for number in range(120)])
    for group in range(reader.metadata.num_row_groups):
        for number in range(reader.metadata.num_columns):
            column = reader.metadata.row_group(group).column(number)
            assert column.compression == "UNCOMPRESSED"
            assert "PLAIN" in column.encodings
            assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(column.encodings)
            assert column.has_offset_index
            is_picture = column.path_in_schema.endswith((".bytes", ".path"))
            assert column.is_stats_set != is_picture  # pictures' bytes do not belong in a footer
    assert list(_layout_problems(reader.metadata)) == []


def test_equal_rows_give_equal_bytes(tmp_path):
    rows = [row_of(number) for number in range(130)]
    first, second = (write(tmp_path / name, rows)[0] for name in ("a", "b"))
    assert first == second


def test_without_commit_nothing_remains(tmp_path):
    with ParquetFileWriter(str(tmp_path), f"data/{NAME}.parquet", SCHEMA) as writer:
        for number in range(150):
            writer.add(row_of(number))
        assert len(list((tmp_path / "data").iterdir())) == 1  # the temporary file
    assert list((tmp_path / "data").iterdir()) == []


def test_an_error_between_rows_flies_and_nothing_remains(tmp_path):
    def break_off():
        with ParquetFileWriter(str(tmp_path), f"data/{NAME}.parquet", SCHEMA) as writer:
            for number in range(150):
                writer.add(row_of(number))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert list((tmp_path / "data").iterdir()) == []


def test_a_file_whose_footer_lacks_rows_is_not_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(ParquetFileWriter, "_flush", lambda self: setattr(self, "_written", 5))
    with pytest.raises(OSError, match=r"0001\.parquet: wrote 5 rows, the footer says 0$"):
        write(tmp_path, [row_of(0)])
    assert list((tmp_path / "data").iterdir()) == []


def test_a_disk_that_is_full_before_the_first_row_leaves_nothing_either(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(pq, "ParquetWriter", full)
    with pytest.raises(OutputError) as caught:
        write(tmp_path, [row_of(0)])
    assert str(caught.value).startswith(
        f"{tmp_path}/data/{NAME}.parquet: need to write here, got no sp"
    )
    # While somebody still holds the error, and with it everything that its frames hold.
    assert list((tmp_path / "data").iterdir()) == []


def test_rejects_are_a_table_of_their_own(tmp_path):
    rejects = [
        RejectRow(key="k", source="a.jpg", stage="decode", reason=Reason.CORRUPT, detail="x"),
        RejectRow(
            key="l", source="b.jpg", stage="canny", reason=Reason.CORRUPT, detail="", kind="canny"
        ),
    ]
    rows = [{name: getattr(one, name) for name in rejects_schema().names} for one in rejects]
    write_table(str(tmp_path), f"rejects/{NAME}.parquet", rejects_schema(), rows)
    back = pq.read_table(tmp_path / "rejects" / f"{NAME}.parquet")
    assert back.schema.equals(named(rejects_schema()), check_metadata=True)
    assert back["kind"].to_pylist() == [None, "canny"]
    assert back["reason"].type == pa.string()
