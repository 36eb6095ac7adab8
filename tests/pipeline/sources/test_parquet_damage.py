import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources import files, iter_reads
from schemas.errors import Reason, Rejected

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def cell(raw, path=None):
    return {"bytes": raw, "path": path}


def images(*raws):
    return pa.array([cell(raw) for raw in raws], STRUCT)


def outcomes(refs, spec):
    """Bytes, or the reason why not."""
    found = []
    for _, fetch in iter_reads(refs, spec):
        try:
            found.append(fetch().raw)
        except Rejected as rejected:
            found.append(rejected.reason)
    return found


@pytest.mark.parametrize("content", [b"", b"hello", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_what_is_not_parquet_is_one_problem_and_its_neighbours_are_read(
    tmp_path, listed, problems, content
):
    (tmp_path / "a.parquet").write_bytes(content)
    pq.write_table(pa.table({"image": images(b"x")}), tmp_path / "b.parquet")
    spec, refs = listed(tmp_path)
    assert problems(refs) == {"a.parquet": Reason.BROKEN_CONTAINER}
    assert outcomes(refs[1:], spec) == [b"x"]


def test_a_damaged_page_costs_the_rest_of_its_row_group_and_no_more(tmp_path, listed):
    rng = random.Random(0)
    raws = [rng.randbytes(2000) for _ in range(60)]
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"image": pa.array(raws)}), path, row_group_size=20, use_dictionary=False,
        compression="NONE", data_page_size=8000, write_batch_size=4,
    )  # fmt: skip
    raw = bytearray(path.read_bytes())
    at = raw.index(raws[32]) - 40  # the header of the page that starts with row 32
    raw[at : at + 36] = b"\xff" * 36
    path.write_bytes(raw)
    spec, refs = listed(tmp_path)
    found = outcomes(refs, spec)
    assert found[:20] == raws[:20]
    assert found[40:] == raws[40:]
    assert found[20] == raws[20]  # rows before the damage are given out
    lost = [n for n, result in enumerate(found) if result is Reason.BROKEN_CONTAINER]
    assert lost == list(range(lost[0], 40))
    assert 20 < lost[0] <= 32
    assert found[20 : lost[0]] == raws[20 : lost[0]]


def test_random_damage_loses_no_row_in_silence(tmp_path, listed):
    rng = random.Random(0)
    path = tmp_path / "a.parquet"
    table = pa.table({"image": images(*(rng.randbytes(300) for _ in range(40)))})
    pq.write_table(table, path, row_group_size=16, compression="snappy")
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for _ in range(60):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            raw[rng.randrange(4, footer)] = rng.randrange(256)
        path.write_bytes(raw)
        spec, refs = listed(tmp_path)
        assert len(outcomes([ref for ref in refs if ref.problem is None], spec)) == 40


def test_a_disks_error_flies(tmp_path, listed, monkeypatch):
    pq.write_table(pa.table({"image": images(*[b"x" * 5000] * 9)}), tmp_path / "a.parquet")
    spec, refs = listed(tmp_path)

    class Failing:
        def __init__(self, opened):
            self.opened = opened
            self.reads = 0

        def __getattr__(self, name):
            return getattr(self.opened, name)

        def read(self, *arguments):
            self.reads += 1
            if self.reads > 2:
                raise OSError(5, "Input/output error")
            return self.opened.read(*arguments)

    open_checked = files.open_checked
    monkeypatch.setattr(files, "open_checked", lambda place: Failing(open_checked(place)))
    with pytest.raises(OSError, match="Input/output error"):
        list(iter_reads(refs, spec))


def test_a_file_that_changes_after_the_listing_is_rejected_row_by_row(tmp_path, listed):
    pq.write_table(pa.table({"image": images(b"x", b"y")}), tmp_path / "a.parquet")
    spec, refs = listed(tmp_path)
    pq.write_table(pa.table({"image": images(b"longer", b"y")}), tmp_path / "a.parquet")
    assert outcomes(refs, spec) == [Reason.SOURCE_CHANGED] * 2
    (tmp_path / "a.parquet").unlink()
    assert outcomes(refs, spec) == [Reason.SOURCE_MISSING] * 2
