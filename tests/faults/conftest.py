"""Photographs, a configuration, and what a data set's folder holds."""

import hashlib
import os

import numpy as np
import pytest
import skimage
from PIL import Image

from annotators.options import configured
from pipeline.config import GenerateConfig
from tests.faults.crashes import Crashes

IMAGES = 96
MODIFIED_S = 1_700_000_000  # one time for all copies of the source


def write_photographs(folder, names):
    """Small crops of photographs, every eighth one broken."""
    folder.mkdir(parents=True)
    photographs = [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    for number, name in names:
        rng = np.random.default_rng(number)
        whole = photographs[number % 3]
        top, left = (int(rng.integers(0, side - 150)) for side in whole.shape[:2])
        path = folder / name
        Image.fromarray(whole[top : top + 150, left : left + 150].copy()).save(path, quality=92)
        if number % 8 == 7:
            path.write_bytes(path.read_bytes()[:900])
        os.utime(path, (MODIFIED_S, MODIFIED_S))


def named(count=IMAGES):
    return [(number, f"{number:03d}.jpg") for number in range(count)]


def config_for(source, output, **changes):
    values = {
        "source": str(source),
        "output": str(output),
        "conditions": ("canny",),
        "canny_thresholds": "50-150,150-250",
        "resolution": 64,
        "shard_rows": 8,
        "validation": 0.2,
        "num_workers": 2,
    }
    return configured(GenerateConfig, **values | changes)


def contents(folder):
    """Relative path -> sha256 of every file, hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "photographs"
    write_photographs(folder, named())
    return folder


@pytest.fixture(scope="session")
def undisturbed(photographs, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    from pipeline.generate import generate

    output = tmp_path_factory.mktemp("undisturbed") / "dataset"
    generate(config_for(photographs, output))
    return output


@pytest.fixture(scope="session")
def crashes():
    """Runs functions in forked children that may be killed."""
    running = Crashes()
    yield running
    running.close()
