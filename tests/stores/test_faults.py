"""Buckets that are missing, refuse, hang up or lose their client: one clear error, nothing lost."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline.generate import generate
from pipeline.output.store import OutputError
from schemas.errors import ConfigError
from tests.stores.emulators import environment, free_port
from tests.stores.test_generate import config_for, data_of, expected, files_in  # noqa: F401

pytestmark = pytest.mark.slow


def test_a_missing_bucket_is_one_line_at_once(bucket, pictures):
    began = time.monotonic()
    place = f"{bucket.scheme}://not-there/set"
    said = f"{place}: need a bucket that answers, got HTTP 404 .*; make the bucket first"
    with pytest.raises(ConfigError, match=said):
        generate(config_for(pictures, place))
    with pytest.raises(ConfigError, match=said):
        generate(config_for(place, f"{bucket.root}/out"))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("pattern", ["set", "set/*.png", "{0..3}.tar"])
def test_a_place_that_may_not_be_listed_is_one_line(bucket, pattern):
    bucket.proxy.refuse = lambda request: 403
    with pytest.raises(ConfigError, match=r"HTTP 403 .*give this account the right"):
        generate(config_for(f"{bucket.root}/{pattern}", f"{bucket.root}/out"))


def test_a_place_that_may_not_be_written_is_one_line(bucket, pictures):
    bucket.proxy.refuse = lambda request: 403 if request.method in {"PUT", "POST"} else None
    with pytest.raises(OutputError, match=r"need to write here, got HTTP 403 .*the right to"):
        generate(config_for(pictures, f"{bucket.root}/out"))


def test_a_store_that_does_not_answer_is_one_line_in_seconds(bucket, pictures, monkeypatch):
    for name, value in environment(bucket.scheme, free_port()).items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    with pytest.raises(ConfigError, match="check the network, the endpoint and the credentials"):
        generate(config_for(pictures, f"{bucket.root}/out"))
    assert time.monotonic() - began < 30


def test_an_upload_that_is_cut_leaves_no_torn_file_and_the_next_run_repairs_it(
    bucket,
    pictures,
    expected,  # noqa: F811
):
    """The connection breaks in the middle of the third shard's upload; no second try is let in."""
    place = f"{bucket.root}/out"

    def tries():
        return sum(request.uploads("data/train-00002") for request in bucket.proxy.requests)

    bucket.proxy.cut = lambda request: request.uploads("train-00002") and tries() == 1
    bucket.proxy.refuse = lambda request: 403 if request.uploads("") and tries() > 1 else None
    with pytest.raises(OutputError, match="HTTP 403"):
        generate(config_for(pictures, place))
    assert tries() > 1
    left = files_in(place)
    assert "manifest.json" not in left
    for name, data in left.items():
        if name.endswith(".parquet"):
            assert data == expected[name]  # whole or not there
    bucket.proxy.cut = lambda request: False
    bucket.proxy.refuse = lambda request: None
    generate(config_for(pictures, place))
    assert data_of(place) == expected


def test_a_killed_run_goes_on_to_the_same_files(bucket, pictures, expected):  # noqa: F811
    place = f"{bucket.root}/out"
    command = [sys.executable, "-m", "controlset", "generate", str(pictures), "--output", place]
    command += ["--conditions", "canny", "--resolution", "64", "--shard-rows", "8"]
    clean = os.environ | bucket.environment | {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere"}
    process = subprocess.Popen([*command, "--num-workers", "1"], env=clean, stderr=subprocess.PIPE)
    while process.poll() is None and not bucket.proxy.count("train-00001-of-00004.json"):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "manifest.json" not in files_in(place)
    generate(config_for(pictures, place))
    assert data_of(place) == expected
