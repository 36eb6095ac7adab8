"""The set that every runner makes, and what its folder holds."""

import hashlib
import subprocess
import sys
import time

import numpy as np
from PIL import Image

from pipeline.config import GenerateConfig
from tests.runners.services import ROOT

SHARDS = 10


def write_pictures(folder):
    """100 pictures that take a while: large, to be made small."""
    folder.mkdir()
    for number in range(10 * SHARDS):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).resize((900, 900)).save(folder / f"{number:03d}.jpg", quality=92)


def config_for(source, output, *beam_args):
    return GenerateConfig(
        source=str(source),
        output=str(output),
        conditions=("canny",),
        shard_rows=10,
        num_workers=1,
        beam_args=beam_args,
    )


def hashes(folder):
    """Relative path -> sha256 of every file, hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def external(endpoint, pool):
    return (
        "--runner=PortableRunner",
        f"--job_endpoint={endpoint}",
        "--environment_type=EXTERNAL",
        f"--environment_config={pool}",
    )


def committed(output):
    return len(list(output.glob(".controlset/train-*")))


def begun(source, output, *beam_args):
    """The command that makes the set, running, with three shards committed."""
    command = [sys.executable, "-m", "controlset", "generate", source, "--output", output]
    command += ["--conditions", "canny", "--shard-rows", "10", "--num-workers", "1"]
    client = subprocess.Popen(
        [*map(str, command), *beam_args],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while client.poll() is None and committed(output) < 3:
        time.sleep(0.01)
    return client
