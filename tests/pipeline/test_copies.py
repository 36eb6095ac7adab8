"""`--keep-copies-together`: no copy of a validation picture is trained on, whoever did the work."""

import io
import itertools
import os
import random
import tarfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
from PIL import Image

from pipeline.generate import dry_run, generate
from pipeline.inspection import inspect_dataset
from pipeline.inspection.duplicates import MIN_CORRELATION, Sets, join_near
from pipeline.plan import split_of
from pipeline.progress import PROGRESS, RunProgress, watched
from schemas.errors import ConfigError
from tests.pipeline.test_determinism import MODIFIED_S, config_for, hashes
from tests.runners.services import job_service

PICTURES = 30
EACH = 4  # the original and three copies
CONTAINER = 50  # pictures of a tar or a row group: copies lie in several


def encoded(picture, image_format, **options):
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def pictures():
    """Name -> bytes: crops of photographs; of each a byte copy, a poor JPEG, a larger PNG."""
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    found = {}
    for number in range(PICTURES):
        rng = np.random.default_rng(number)
        photograph = photographs[number % 3]
        top, left = (int(rng.integers(0, side - 100)) for side in photograph.shape[:2])
        crop = Image.fromarray(photograph[top : top + 100, left : left + 100])
        name = f"{number:02d}"
        found[f"{name}.jpg"] = found[f"same/{name}.jpg"] = encoded(crop, "JPEG", quality=90)
        found[f"again/{name}.jpg"] = encoded(crop, "JPEG", quality=50)
        found[f"large/{name}.png"] = encoded(crop.resize((160, 160)), "PNG")
    return found


def as_folder(folder):
    for name, raw in pictures().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        path.with_suffix(".txt").write_text(name)
    for path in folder.rglob("*"):
        os.utime(path, (MODIFIED_S, MODIFIED_S))


def as_tars(folder):
    folder.mkdir()
    for number, part in enumerate(parts()):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for name, raw in part:
                member = tarfile.TarInfo(name)
                member.size = len(raw)
                tar.addfile(member, io.BytesIO(raw))


def as_parquet(folder):
    folder.mkdir()
    images = [{"bytes": raw, "path": name} for part in parts() for name, raw in part]
    table = pa.table({"image": images})
    pq.write_table(table, folder / "pictures.parquet", row_group_size=CONTAINER)


def parts():
    """The pictures in an order that parts copies."""
    items = list(pictures().items())
    random.Random(0).shuffle(items)
    return [items[start : start + CONTAINER] for start in range(0, len(items), CONTAINER)]


def together(source, output, *beam_args, **changes):
    return config_for(source, output, *beam_args, keep_copies_together=True, **changes)


def rows_of(output):
    """(split, key, sha256, stored image, map, text) of every row."""
    columns = ["key", "sha256", "image", "canny", "text"]
    for path in sorted(output.glob("data/*.parquet")):
        for row in pq.read_table(path, columns=columns).to_pylist():
            yield path.name.split("-")[0], *row.values()


def flags_of(output):
    return {flag.name: flag.count for flag in inspect_dataset(str(output), workers=2).flags}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies") / "in"
    as_folder(folder)
    return folder


@pytest.fixture(scope="module")
def kept(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("kept") / "out"
    generate(together(source, output))
    return output


def test_copies_are_in_the_split_that_the_smallest_key_draws(source, kept, tmp_path):
    generate(config_for(source, tmp_path / "plain"))
    assert "leakage" in flags_of(tmp_path / "plain")
    flags = flags_of(kept)
    assert "leakage" not in flags
    assert flags["exact_duplicates"] == PICTURES
    names = {}
    for path in kept.glob("data/*.parquet"):
        for row in pq.read_table(path, columns=["key", "source"]).to_pylist():
            copies = names.setdefault(row["source"][-6:-4], [])
            copies.append((row["key"], path.name.split("-")[0]))
    assert {len(copies) for copies in names.values()} == {EACH}
    for copies in names.values():
        smallest, _ = min(copies)
        expected = split_of(smallest, validation=0.2, seed=0)
        assert {split for _, split in copies} == {expected}
    # Nothing but the split differs from the plain run.
    plain, ours = (
        sorted(rows_of(output), key=lambda row: row[1]) for output in (tmp_path / "plain", kept)
    )
    assert [row[1:] for row in plain] == [row[1:] for row in ours]
    assert {row[0] for row in ours} == {"train", "validation"}


@pytest.mark.parametrize("write", [as_tars, as_parquet])
def test_copies_in_several_containers_are_kept_together(write, tmp_path):
    write(tmp_path / "in")
    manifest = generate(together(tmp_path / "in", tmp_path / "out"))
    assert manifest.rows == PICTURES * EACH
    assert len(manifest.splits) == 2
    assert "leakage" not in flags_of(tmp_path / "out")


@pytest.mark.parametrize(
    ("workers", "beam_args"), [(1, []), (4, []), (2, ["--direct_runner_bundle_repeat=2"])]
)
def test_whoever_finds_copies_the_bytes_are_the_same(source, kept, tmp_path, workers, beam_args):
    generate(together(source, tmp_path / "out", *beam_args, num_workers=workers))
    assert hashes(tmp_path / "out") == hashes(kept)


def test_a_run_that_lost_a_shard_goes_on_to_the_same_bytes(source, kept, tmp_path):
    output = tmp_path / "out"
    generate(together(source, output))
    (output / "manifest.json").unlink()
    next(output.glob("data/train-00001-*")).unlink()
    generate(together(source, output))
    assert 0 < PROGRESS.kept < PICTURES * EACH  # the other shards were not made again
    assert hashes(output) == hashes(kept)


@pytest.mark.slow
def test_a_portable_runner_keeps_the_same_copies_together(source, kept, tmp_path):
    with job_service(tmp_path) as (_, endpoint):
        portable = ["--runner=PortableRunner", f"--job_endpoint={endpoint}"]
        generate(together(source, tmp_path / "out", *portable, "--environment_type=LOOPBACK"))
    assert hashes(tmp_path / "out") == hashes(kept)


def test_manifest_card_and_command_tell_it(kept):
    card = (kept / "README.md").read_text()
    assert "Exact and near copies of a picture are in one split" in card
    assert "--keep-copies-together" in card
    assert '"keep_copies_together": true' in (kept / "manifest.json").read_text()


def test_a_plain_run_says_nothing_of_it(source, tmp_path):
    manifest = generate(config_for(source, tmp_path / "out", limit=5))
    assert "keep_copies_together" not in manifest.recipe
    assert "one split" not in (tmp_path / "out" / "README.md").read_text()


def test_a_dry_run_says_that_the_splits_need_a_pass(source, tmp_path):
    said = "splits: about as below; the run first reads every picture to find copies\n"
    assert said in dry_run(together(source, tmp_path / "out"))
    assert said not in dry_run(config_for(source, tmp_path / "out"))


def test_without_a_validation_split_there_is_nothing_to_keep_together(source, tmp_path):
    with pytest.raises(ConfigError) as refused:
        together(source, tmp_path / "out", validation=0.0)
    assert str(refused.value) == ("--keep-copies-together: need --validation above 0, got 0.0")


def test_the_bar_shows_the_pass(monkeypatch, capsys):
    monkeypatch.setattr("schemas.terminal.LINE_EVERY_S", 0.01)
    progress = RunProgress(planned=200)
    progress.copies_sought(8)
    progress.copies_sought(8)
    with watched(progress):
        assert is_told(capsys, "finding copies: 16 of 200 images")
        progress.copies_known()
        assert is_told(capsys, " 0 of 200 images, ")


def is_told(capsys, text):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if text in capsys.readouterr().err:
            return True
        time.sleep(0.01)
    return False


def test_near_copies_do_not_depend_on_the_order_of_rows():
    """The middle one is like both others, they are not like each other; all have one hash."""
    ends = np.random.default_rng(0).normal(0, 1, (2, 192))
    ends[1] = 0.93 * ends[0] + 0.37 * ends[1]
    looks = np.stack([ends[0], ends.mean(axis=0), ends[1]])
    looks = np.clip(128 + 30 * looks, 0, 255).astype(np.uint8)
    near = np.corrcoef(looks) >= MIN_CORRELATION
    assert near[0, 1]
    assert near[1, 2]
    assert not near[0, 2]
    found = set()
    for order in itertools.permutations(range(3)):
        sets = Sets(3)
        rows = np.array(order)
        join_near(sets, np.full(3, 7, np.uint64), looks[rows], rows)
        found.add(tuple(sets.labels()))
    assert len(found) == 1
