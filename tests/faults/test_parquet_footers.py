"""A damaged footer is an error of ours; pyarrow's own look at it may end the process."""

import io
import mmap
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources.parquet import read_schema
from schemas.errors import ConfigError, Rejected
from schemas.parquet_footers import I32, Compact, check_footer
from schemas.records import Place
from schemas.shards import ShardReader


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.parquet"
    rows = [{"bytes": b"x", "path": "x.png"}] * 20
    lists = pa.array([[1.0, 2.0]] * 20, pa.list_(pa.float32()))
    table = pa.table({"key": ["a"] * 20, "image": rows, "v": lists})
    pq.write_table(table, path, compression="none", use_dictionary=False)
    return path


def checked(raw: bytes | bytearray) -> pq.ParquetFile:
    parquet = pq.ParquetFile(pa.BufferReader(raw))
    check_footer(io.BytesIO(raw), parquet)
    return parquet


def look(raw: bytearray) -> None:
    """As all of our readers: the records of all columns."""
    parquet = checked(raw)
    for number in range(parquet.metadata.num_columns):
        assert parquet.metadata.row_group(0).column(number).total_compressed_size is not None


def test_no_flipped_bit_of_a_footer_ends_the_process(whole: Path) -> None:
    raw = whole.read_bytes()
    start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    at = mmap.mmap(-1, 64)  # shared with the child
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for place in range(start, len(raw) - 8):
            for bit in (0, 4, 5):
                at[:] = f"{place} {bit}".encode().ljust(64)
                damaged = bytearray(raw)
                damaged[place] ^= 1 << bit
                try:
                    look(damaged)
                except (pa.ArrowException, OSError, ValueError, OverflowError, IndexError):
                    continue
        os._exit(0)
    _, status = os.waitpid(child, 0)
    reached = bytes(at).decode().strip()
    assert reached.startswith(f"{len(raw) - 9} ") or status, reached
    assert not os.WIFSIGNALED(status), f"signal {os.WTERMSIG(status)} at {reached}"
    assert os.WEXITSTATUS(status) == 0, reached


def test_a_text_in_a_footer_or_page_header_is_passed_over() -> None:
    text = bytes([0x03]) + b"abc"
    compact = Compact(bytes([0x18]) + text + bytes([0x15, 0x54, 0]))  # 1: text, 2: 42
    seen = {}
    for field, kind in compact.fields():
        if kind == I32:
            seen[field] = compact.signed(32)
        else:
            compact.skip(kind)
    assert seen == {2: 42}


def test_shards_and_sources_say_that_the_footer_is_damaged(whole: Path) -> None:
    raw = whole.read_bytes()
    start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    deadly = whole.with_name("deadly.parquet")
    found = 0
    for place in range(start, len(raw) - 8):
        for bit in range(4, 8):
            damaged = bytearray(raw)
            damaged[place] ^= 1 << bit
            try:
                checked(damaged)
                continue
            except (pa.ArrowException, OSError, ValueError) as error:
                if " counts for " not in str(error):
                    continue
            found += 1
            deadly.write_bytes(damaged)
            with pytest.raises(ConfigError, match=r"need a whole shard, got column .* counts for"):
                ShardReader(str(deadly), where="deadly.parquet")
            with pytest.raises(Rejected, match=r"footer is damaged: column .* counts for"):
                read_schema(Place(uri=str(deadly)))
            if found == 3:
                return
    pytest.fail("no flipped bit made a histogram of another length")
