"""One shard from plan to commit: every reference is a row or a reject, or there is no shard."""

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pipeline.shard
from annotators.options import configured
from annotators.registry import specs_of
from annotators.runtime import Runtime
from pipeline.annotate import load_annotator
from pipeline.batch import BatchResult
from pipeline.config import GenerateConfig
from pipeline.job import BATCH_IMAGES, Job
from pipeline.output.store import TEMP_PREFIX
from pipeline.plan import lay_out, shard_plan
from pipeline.progress import PROGRESS, RunProgress
from pipeline.shard import committed_record, make_shard, record_path
from pipeline.sources import list_source, resolve_source
from pipeline.worker import OnWorker, Worker, closing_workers
from schemas.manifest import read_record
from schemas.pixels import decode_stored_map, decode_stored_rgb

COUNT = 43  # not a multiple of the batch
BROKEN = {"03.png", "17.png", "41.png"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shard") / "in"
    folder.mkdir()
    for number in range(COUNT):
        path = folder / f"{number:02d}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (64, 70, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        if path.name in BROKEN:
            path.write_bytes(path.read_bytes()[:500])
    (folder / "folder.png").mkdir()
    return folder


def job_of(source, output, **changes):
    options = {"resolution": 64, "canny_thresholds": "50-150,150-250"} | changes
    config = configured(
        GenerateConfig, source=str(source), output=str(output), conditions=("canny",), **options
    )
    return Job(config=config, specs=specs_of(config), source=resolve_source(config))


def plan_of(job, count=None):
    refs = list(list_source(job.source))[:count]
    layout = lay_out({("train", ""): len(refs) or 1}, shard_rows=1000)
    return shard_plan("train", 0, refs, layout)


@pytest.fixture
def make(source, tmp_path):
    """Make the shard of the source, or of its first `count`; with one thread or more."""

    def run(count=None, workers=2, output=tmp_path, **changes):
        job = job_of(source, output, **changes)
        annotators = {spec.name: load_annotator(spec, Runtime()) for spec in job.specs}
        with ThreadPoolExecutor(workers) as pool:
            worker = Worker(pool=pool, threads=workers, annotators=annotators, captioner=None)
            return make_shard(plan_of(job, count), job, worker)

    return run


def test_every_reference_is_a_row_or_a_reject_in_the_order_of_the_plan(make, source, tmp_path):
    record = make()
    plan = plan_of(job_of(source, tmp_path))
    rows = pq.read_table(tmp_path / record.data.path, columns=["key", "source"]).to_pylist()
    rejects = pq.read_table(tmp_path / record.rejects.path).to_pylist()
    assert [row["key"] for row in rows] == [
        ref.key for ref in plan.refs if ref.source not in BROKEN | {"folder.png"}
    ]
    assert {row["source"]: (row["stage"], row["reason"]) for row in rejects} == {
        **dict.fromkeys(BROKEN, ("decode", "truncated")),
        "folder.png": ("list", "not_a_file"),
    }
    assert (record.planned, record.data.rows, record.rejected_images) == (COUNT + 1, COUNT - 3, 4)
    assert record.reasons == {"not_a_file": 1, "truncated": 3}


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
def test_a_map_is_that_of_the_stored_bytes_in_every_format(make, source, tmp_path, image_format):
    record = make(count=3, image_format=image_format)
    (spec,) = job_of(source, tmp_path).specs
    look = load_annotator(spec, Runtime())
    rows = pq.read_table(tmp_path / record.data.path).to_pylist()
    for row in rows:
        rgb = decode_stored_rgb(row["image"]["bytes"])
        (seen,) = look([rgb], [row["key"]])
        assert seen.pixels.any()
        assert np.array_equal(decode_stored_map(row["canny"]["bytes"]), seen.pixels)
    assert Image.open(io.BytesIO(rows[0]["image"]["bytes"])).format == image_format.upper()


def test_the_number_of_threads_changes_nothing(make, tmp_path):
    records = [make(workers=workers, output=tmp_path / str(workers)) for workers in (1, 2, 5)]
    assert records[0] == records[1] == records[2]


def test_batches_are_cut_by_the_plan(make, monkeypatch):
    sizes = []
    real = pipeline.shard.make_batch

    def spy(reads, *arguments):
        sizes.append(len(reads))
        return real(reads, *arguments)

    monkeypatch.setattr(pipeline.shard, "make_batch", spy)
    make(workers=1)
    assert sizes == [BATCH_IMAGES] * 5 + [(COUNT + 1) % BATCH_IMAGES]


def test_few_batches_are_under_way_at_a_time(make, monkeypatch):
    started, counted, most = [], [], []
    real_batch, real_count = pipeline.shard.make_batch, PROGRESS.batch_done

    def spy_batch(*arguments):
        started.append(1)
        most.append(len(started) - len(counted))
        return real_batch(*arguments)

    def spy_count(**counts):
        counted.append(1)
        real_count(**counts)

    monkeypatch.setattr(pipeline.shard, "BATCH_IMAGES", 1)
    monkeypatch.setattr(pipeline.shard, "make_batch", spy_batch)
    monkeypatch.setattr(RunProgress, "batch_done", lambda _, **counts: spy_count(**counts))
    make(workers=2)
    assert len(started) == COUNT + 1
    assert max(most) <= 2 * 2 + 2


def test_a_shard_without_references_is_still_a_file(make, tmp_path):
    record = make(count=0)
    assert (record.planned, record.data.rows, record.rejects) == (0, 0, None)
    table = pq.read_table(tmp_path / record.data.path)
    assert table.num_rows == 0
    assert "canny" in table.column_names


def losing(result):
    return {"rows": result.rows[1:]}


def inventing(result):
    return {"rows": [*result.rows, *result.rows[:1]]}


def forgetting_rejects(result):
    return {"rejects": ()}


@pytest.mark.parametrize("mistake", [losing, inventing, forgetting_rejects])
def test_a_sum_that_is_not_balanced_is_a_bug_and_no_shard(make, monkeypatch, tmp_path, mistake):
    real = pipeline.shard.make_batch

    def wrong(*arguments):
        result = real(*arguments)
        fields = {name: getattr(result, name) for name in ("rows", "rejects", "images", "seconds")}
        return BatchResult(**fields | mistake(result))

    monkeypatch.setattr(pipeline.shard, "make_batch", wrong)
    with pytest.raises(ValueError, match=r"^train-00000-of-00001: planned 44 images, but \d+ rows"):
        make()
    assert not os.path.exists(record_path(str(tmp_path), "train-00000-of-00001"))
    monkeypatch.undo()
    assert make().planned == COUNT + 1  # the file without a record did not count


def test_a_bug_in_one_batch_flies_and_nothing_remains(make, monkeypatch, tmp_path):
    def fail(reads, *_):
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline.shard, "make_batch", fail)
    with pytest.raises(ZeroDivisionError):
        make()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_committed_shard_is_not_made_again(make, monkeypatch):
    first = make()
    monkeypatch.setattr(pipeline.shard, "ParquetFileWriter", None)
    assert make() == first


def test_a_record_that_belongs_to_other_references_does_not_count(make):
    first = make(count=20)
    second = make(count=21)
    assert (first.planned, second.planned) == (20, 21)
    assert make(count=20) == first


def test_from_the_first_new_byte_on_the_old_manifest_is_gone(make, monkeypatch, tmp_path):
    make(count=20)
    (tmp_path / "manifest.json").write_text("complete")
    make(count=20)
    assert (tmp_path / "manifest.json").exists()
    seen = []
    real = pipeline.shard.make_batch

    def look(*arguments):
        names = {path.name for path in tmp_path.rglob("*")}
        seen.append({"manifest.json", "train-00000-of-00001.json"} & names)
        return real(*arguments)

    monkeypatch.setattr(pipeline.shard, "make_batch", look)
    make(count=21)
    assert seen[0] == set()


DAMAGE = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "zeros": lambda text: "\0" * len(text),
    "a list": lambda text: "[]",
    "null": lambda text: "null",
    "no data": lambda text: json.dumps(json.loads(text) | {"data": None}),
    "strange data": lambda text: json.dumps(json.loads(text) | {"data": {"x": 1}}),
    "unbalanced": lambda text: json.dumps(json.loads(text) | {"planned": 1}),
    "another field": lambda text: json.dumps(json.loads(text) | {"future": 1}),
    "a field less": lambda text: text.replace('"fingerprint"', '"finger"'),
    "another fingerprint": lambda text: text.replace('"fingerprint": "', '"fingerprint": "0'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_replaced(make, tmp_path, damage):
    first = make()
    path = tmp_path / ".controlset" / "train-00000-of-00001.json"
    whole = path.read_text()
    path.write_text(DAMAGE[damage](whole))
    assert path.read_text() != whole
    assert make() == first
    assert path.read_text() == whole


def test_a_record_of_arbitrary_bytes_is_replaced(make, tmp_path):
    first = make()
    path = tmp_path / ".controlset" / "train-00000-of-00001.json"
    path.write_bytes(b"\xff\xfe\x80")
    assert make() == first


@pytest.mark.parametrize("folder", ["data", "rejects"])
@pytest.mark.parametrize("damage", ["deleted", "cut", "grown"])
def test_a_record_without_its_whole_files_does_not_count(make, tmp_path, folder, damage):
    first = make()
    path = tmp_path / folder / "train-00000-of-00001.parquet"
    whole = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] if damage == "cut" else whole + b"x")
    assert committed_record(str(tmp_path), first.name) is None
    assert make() == first
    assert path.read_bytes() == whole


def test_the_record_is_what_it_says_and_comes_last(make, monkeypatch, tmp_path):
    from pipeline.output import store

    order = []
    real = store.commit
    monkeypatch.setattr(
        store, "commit", lambda temporary, final: (order.append(final), real(temporary, final))
    )
    record = make()
    assert [path.removeprefix(f"{tmp_path}/") for path in order] == [
        "data/train-00000-of-00001.parquet",
        "rejects/train-00000-of-00001.parquet",
        ".controlset/train-00000-of-00001.json",
    ]
    text = (tmp_path / ".controlset" / "train-00000-of-00001.json").read_text()
    assert read_record(text, where=record_path(str(tmp_path), record.name)) == record
    assert not list(tmp_path.rglob(f"{TEMP_PREFIX}*"))


def test_after_a_run_has_ended_no_shard_is_made_and_nothing_is_said(source, tmp_path):
    job = job_of(source, tmp_path)
    made = []
    maker = OnWorker(lambda shard, _job, _worker: made.append(shard) or shard, job)
    PROGRESS.reset()
    with closing_workers(job):
        maker.setup()
        assert list(maker.process("first")) == ["first"]
    assert list(maker.process("late")) == []  # as Beam does when another shard has failed
    assert made == ["first"]
    assert PROGRESS.failure is None
