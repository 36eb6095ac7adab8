"""The pictures that every runner gets, and the set that local threads make of them."""

import pytest

from pipeline.generate import generate
from tests.runners.made_sets import config_for
from tools.clusters.comparison import hashes, write_pictures


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runners") / "in"
    write_pictures(folder)
    return folder


@pytest.fixture(scope="session")
def expected(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("expected") / "out"
    generate(config_for(source, output))
    return hashes(output)
