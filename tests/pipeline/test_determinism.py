"""Equal input gives equal bytes, whoever does the work, in whatever order, how often."""

import contextlib
import hashlib
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from annotators.options import configured
from pipeline.config import GenerateConfig
from pipeline.generate import generate
from pipeline.progress import PROGRESS
from tests.golden import regenerate
from tests.runners.services import job_service
from tools.clusters.services import worker_pool

COUNT = 70
MODIFIED_S = 1_700_000_000


def write_photographs(folder, order):
    """Crops of photographs, some with captions, some broken, written in the given order."""
    folder.mkdir()
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    for number in order:
        rng = np.random.default_rng(number)
        photograph = photographs[number % 3]
        top, left = (int(rng.integers(0, side - 100)) for side in photograph.shape[:2])
        crop = photograph[top : top + 100, left : left + 100].copy()
        path = folder / ("ab"[number % 2]) / f"{number:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(crop).save(path, quality=90)
        if number % 10 == 7:
            path.write_bytes(path.read_bytes()[:700])
        if number % 4 == 0:
            path.with_suffix(".txt").write_text(f"crop {number}")
    for path in folder.rglob("*"):
        os.utime(path, (MODIFIED_S, MODIFIED_S))


def config_for(source, output, *beam_args, **changes):
    options = {
        "canny_thresholds": "50-150,150-250",
        "resolution": 64,
        "shard_rows": 9,
        "validation": 0.2,
        "num_workers": 2,
    } | changes
    return configured(
        GenerateConfig,
        source=str(source),
        output=str(output),
        conditions=("canny",),
        beam_args=beam_args,
        **options,
    )


def hashes(folder):
    """Relative path -> sha256 of everything, records and manifest included."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("determinism") / "in"
    write_photographs(folder, range(COUNT))
    return folder


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("expected") / "out"
    manifest = generate(config_for(source, output))
    assert len(manifest.shards) > 6
    assert len(manifest.splits) == 2
    assert manifest.rejected_images == 7
    return hashes(output)


def test_a_second_run_gives_the_same_bytes(source, expected, tmp_path):
    generate(config_for(source, tmp_path / "out"))
    assert hashes(tmp_path / "out") == expected


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_no_byte(source, expected, tmp_path, workers):
    generate(config_for(source, tmp_path / "out", num_workers=workers))
    assert hashes(tmp_path / "out") == expected


@pytest.mark.parametrize(
    "beam_args",
    [
        ["--direct_runner_bundle_repeat=2"],  # every bundle is done twice, as after a failure
        ["--runner=FnApiRunner", "--direct_num_workers=4", "--direct_running_mode=multi_threading"],
    ],
    ids=["every bundle twice", "four threads over gRPC"],
)
def test_no_way_to_run_on_this_machine_changes_a_byte(source, expected, tmp_path, beam_args):
    generate(config_for(source, tmp_path / "out", *beam_args))
    assert hashes(tmp_path / "out") == expected


def test_a_copy_whose_files_were_made_in_another_order_gives_the_same_shards(
    source, expected, tmp_path
):
    order = list(range(COUNT))
    random.Random(5).shuffle(order)
    write_photographs(tmp_path / "copy", order)
    generate(config_for(tmp_path / "copy", tmp_path / "out"))
    got = hashes(tmp_path / "out")
    assert got.keys() == expected.keys()
    different = {name for name in expected if got[name] != expected[name]}
    # The files that name the source's folder.
    assert different <= {"manifest.json", "README.md", "preview.html", ".controlset/run.json"}


def test_a_file_system_that_lists_backwards_changes_no_byte(
    source, expected, tmp_path, monkeypatch
):
    real = os.scandir

    @contextlib.contextmanager
    def backwards(path):
        with real(path) as entries:
            yield iter(list(entries)[::-1])

    monkeypatch.setattr("pipeline.sources.files.os.scandir", backwards)
    generate(config_for(source, tmp_path / "out"))
    monkeypatch.undo()
    assert hashes(tmp_path / "out") == expected


# Portable runners -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job_endpoint(tmp_path_factory):
    with job_service(tmp_path_factory.mktemp("job-service")) as (_, endpoint):
        yield endpoint


@pytest.mark.slow
def test_a_portable_runner_gives_the_same_bytes(source, expected, tmp_path, job_endpoint):
    portable = ["--runner=PortableRunner", f"--job_endpoint={job_endpoint}"]
    generate(config_for(source, tmp_path / "out", *portable, "--environment_type=LOOPBACK"))
    assert hashes(tmp_path / "out") == expected


@pytest.mark.slow
def test_a_worker_in_another_process_gives_the_same_bytes(source, expected, tmp_path, job_endpoint):
    with worker_pool(tmp_path) as (_, pool):
        generate(
            config_for(
                source,
                tmp_path / "out",
                "--runner=PortableRunner",
                f"--job_endpoint={job_endpoint}",
                "--environment_type=EXTERNAL",
                f"--environment_config={pool}",
            )
        )
    assert hashes(tmp_path / "out") == expected
    assert PROGRESS.done == 0  # nothing was made in this process


# Golden ---------------------------------------------------------------------------------------


def test_a_tiny_data_set_holds_what_it_always_held():
    """See tests/golden/regenerate.py for what is pinned and what to do about a difference."""
    golden = json.loads(regenerate.GOLDEN.read_text())
    got = json.loads(json.dumps(regenerate.contents()))
    assert got["recipe"] == golden["recipe"]
    assert got["annotators"] == golden["annotators"]
    assert got["shards"].keys() == golden["shards"].keys()
    for name, shard in golden["shards"].items():
        assert got["shards"][name] == shard
