"""Training out of a bucket: the weights of a run on the local folder, by ranged reads."""

import pytest

from pipeline.object_stores import file_systems
from schemas.errors import ConfigError
from tests.controlnet import tiny_runs
from tests.stores.emulators import environment, free_port
from tests.stores.test_generate import upload

pytestmark = pytest.mark.slow

PLAN = {"steps": 6, "batch_size": 4}


@pytest.fixture
def place(bucket, monkeypatch):
    """The tiny data set in a bucket that pyarrow's client reaches (see emulators.py)."""
    for variable, value in bucket.direct.items():
        monkeypatch.setenv(variable, value)
    upload(tiny_runs.data(), f"{bucket.root}/set")
    return f"{bucket.root}/set"


def test_a_bucket_trains_the_same_weights_as_the_folder(place, tmp_path):
    there = tiny_runs.trained(tmp_path / "there", **PLAN, data=place)
    here = tiny_runs.trained(tmp_path / "here", **PLAN)
    assert tiny_runs.weights_of(there) == tiny_runs.weights_of(here)
    assert tiny_runs.losses_of(there) == tiny_runs.losses_of(here)


def test_a_shard_that_is_gone_is_one_line_that_names_it(place, tmp_path):
    (shard,) = file_systems().match([f"{place}/data/train-00000-*"])[0].metadata_list
    file_systems().delete([shard.path])
    with pytest.raises(ConfigError, match="train-00000-of-"):
        tiny_runs.trained(tmp_path / "run", **PLAN, data=place)


@pytest.mark.parametrize("name", ["nothing-here", "../not-there/set"])
def test_a_bucket_or_a_set_that_is_missing_is_one_line(bucket, place, tmp_path, name):
    wrong = place.removesuffix("/set") + f"/{name}"
    if ".." in name:
        wrong = f"{bucket.scheme}://not-there/set"
    with pytest.raises(ConfigError, match="need a complete data set"):
        tiny_runs.trained(tmp_path / "run", **PLAN, data=wrong)


def test_a_store_that_does_not_answer_is_one_line(bucket, tmp_path, monkeypatch):
    for variable, value in environment(bucket.scheme, free_port()).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{bucket.root}/set: need a place that answers"):
        tiny_runs.trained(tmp_path / "run", **PLAN, data=f"{bucket.root}/set")
