"""Seconds a picture from and into buckets, against the emulators of `tests/stores`.

    python -m benchmarks.object_stores [s3 gs]

Prints for each store: reading pictures on four threads, a run of `generate` from the bucket into
it, and reading the columns of the finished set back.
"""

import io
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from gcsfs.core import GCSFileSystem
from PIL import Image
from s3fs import S3FileSystem

from pipeline.config import GenerateConfig
from pipeline.generate import generate
from pipeline.sources import files
from schemas.dataset import open_dataset
from schemas.records import Place
from tests.stores import emulators

PICTURES = 100
SIDE_PX = 256


def main() -> None:
    """Measure the stores that are named, or both."""
    for scheme in sys.argv[1:] or ("s3", "gs"):
        with emulators.emulator(scheme) as port:
            os.environ.update(emulators.environment(scheme, port))
            os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = "/nowhere"
            measure(scheme)


def measure(scheme: str) -> None:
    """Print three figures of one store."""
    root = f"{scheme}://{emulators.BUCKET}"
    raw = uploaded(scheme, root)
    places = [Place(uri=f"{root}/in/{number:04d}.png") for number in range(PICTURES)]
    files.read(places[0])  # the client is made once

    def read_all() -> None:
        with ThreadPoolExecutor(4) as threads:
            assert sum(map(len, threads.map(files.read, places))) == raw

    told(f"{scheme} read", read_all)
    config = GenerateConfig(
        source=f"{root}/in",
        output=f"{root}/out",
        conditions=("canny",),
        resolution=SIDE_PX,
        shard_rows=50,
        num_workers=2,
    )
    told(f"{scheme} generate", lambda: generate(config))
    told(f"{scheme} read back", lambda: [*open_dataset(f"{root}/out").batches()])


def uploaded(scheme: str, root: str) -> int:
    """Put pictures of noise there; their bytes in all."""
    client: Any = S3FileSystem() if scheme == "s3" else GCSFileSystem(token="anon")
    total = 0
    for number in range(PICTURES):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        client.pipe_file(f"{root}/in/{number:04d}.png", buffer.getvalue())
        total += buffer.tell()
    return total


def told(what: str, call: Callable[[], object]) -> None:
    """Run it, and print milliseconds a picture: on the clock, and on this process's cores."""
    began, cpu = time.perf_counter(), time.process_time()
    call()
    clock, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"{what:>14}  {1e3 * clock / PICTURES:6.2f} ms  cpu {1e3 * cpu / PICTURES:6.2f} ms")


if __name__ == "__main__":
    main()
