"""A bucket of S3 and of GCS, on loopback, for tests in this process."""

import uuid

import numpy as np
import pytest
from PIL import Image

from tests.stores import emulators


@pytest.fixture(scope="session")
def ports():
    with emulators.emulator("gs") as gs, emulators.emulator("s3") as s3:
        yield {"gs": gs, "s3": s3}


@pytest.fixture(params=["gs", "s3"])
def bucket(request, ports, monkeypatch):
    """An empty place in a bucket; this process's clients find it and need no login."""
    name = uuid.uuid4().hex[:8]
    with emulators.store(request.param, ports[request.param], name) as made:
        for variable, value in made.environment.items():
            monkeypatch.setenv(variable, value)
        yield made


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """30 pictures, captions beside some, one that is no picture."""
    folder = tmp_path_factory.mktemp("stores") / "in"
    (folder / "more").mkdir(parents=True)
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (72, 96, 3), np.uint8)
        path = folder / ("more" if number % 3 else ".") / f"{number:02d}.png"
        Image.fromarray(pixels).save(path)
        if number % 2:
            path.with_suffix(".txt").write_text(f"noise number {number}")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 but not really")
    return folder
