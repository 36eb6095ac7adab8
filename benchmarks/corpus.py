"""Photographs to measure with: crops of the photographs that scikit-image installs."""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
WIDTH, HEIGHT = 1024, 768
_CHUNK = 250


def make_corpus(folder: Path, count: int) -> Path:
    """Write `count` different crops as 1024x768 JPEGs; what is there already is kept.

    Args:
        folder: made if it does not exist.
        count: number of files.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = [start for start in range(0, count, _CHUNK) if not _name(folder, start).exists()]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(_write, folder, start, min(start + _CHUNK, count)) for start in starts]
        for job in jobs:
            job.result()
    return folder


def _name(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.jpg"


def _write(folder: Path, start: int, stop: int) -> None:
    data = Path(skimage.__file__).parent / "data"
    photographs = [Image.open(data / name).convert("RGB") for name in PHOTOGRAPHS]
    for number in reversed(range(start, stop)):  # the first file of a chunk says that it is done
        rng = np.random.default_rng(number)
        photograph = photographs[number % len(photographs)]
        scale = rng.uniform(0.5, 1.0) * min(photograph.width / WIDTH, photograph.height / HEIGHT)
        width, height = int(WIDTH * scale), int(HEIGHT * scale)
        left = int(rng.integers(0, photograph.width - width + 1))
        top = int(rng.integers(0, photograph.height - height + 1))
        crop = photograph.resize(
            (WIDTH, HEIGHT),
            Image.Resampling.LANCZOS,
            box=(left, top, left + width, top + height),
        )
        crop.save(_name(folder, number), quality=92)
