"""The set that every runner makes, and what its folder holds."""

import subprocess
import sys
import time

from pipeline.config import GenerateConfig
from tools.clusters.services import ROOT


def config_for(source, output, *beam_args):
    return GenerateConfig(
        source=str(source),
        output=str(output),
        conditions=("canny",),
        shard_rows=10,
        num_workers=1,
        beam_args=beam_args,
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
