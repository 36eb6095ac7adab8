"""Run the main job on a Flink or Spark on this machine, and compare with local threads.

    python -m tools.clusters flink [SOURCE] [--output flink-output]

Starts two task managers or workers, Beam's job server and a pool of Python workers, all on
loopback; runs `controlset generate` on them and once more on local threads; says whether every
byte agrees.
Exit status: 0 equal, 1 not equal, 2 a run failed or something is not here.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.clusters.comparison import hashes, write_pictures
from tools.clusters.flink import flink
from tools.clusters.java import NotHere
from tools.clusters.services import external, worker_pool
from tools.clusters.spark import spark

CLUSTERS = {"flink": flink, "spark": spark}
EXTRA = {"flink": ["--parallelism=2"], "spark": []}


def generated(source: Path, output: Path, *beam_args: str) -> float:
    """Seconds of the command; its progress goes to the terminal.

    Raises:
        CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", "controlset", "generate", str(source), "--output", str(output)]
    command += ["--conditions", "canny", "--shard-rows", "25", "--validation", "0.1"]
    began = time.monotonic()
    subprocess.run([*command, *beam_args], check=True)
    return time.monotonic() - began


def on_cluster(name: str, source: Path, output: Path, folder: Path) -> float:
    """Start everything, run the job, end everything."""
    with CLUSTERS[name](folder) as cluster, worker_pool(folder) as (_, pool):
        print(f"{name}: up, job server at {cluster.endpoint}, worker pool at {pool}", flush=True)
        arguments = external(cluster.endpoint, pool)
        return generated(source, output, *arguments, *EXTRA[name])


def main() -> int:
    """Two runs and a comparison."""
    parser = argparse.ArgumentParser(prog="python -m tools.clusters")
    parser.add_argument("cluster", choices=sorted(CLUSTERS))
    parser.add_argument("source", nargs="?", type=Path, help="pictures; default: 100 made ones")
    parser.add_argument("--output", type=Path, help="default: CLUSTER-output")
    chosen = parser.parse_args()
    output = chosen.output or Path(f"{chosen.cluster}-output")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = chosen.source or folder / "pictures"
        if chosen.source is None:
            write_pictures(source)
        shutil.rmtree(output, ignore_errors=True)
        try:
            there = on_cluster(chosen.cluster, source, output / "cluster", folder)
            here = generated(source, output / "threads")
        except NotHere as reason:
            print(f"make {chosen.cluster}: {reason}", file=sys.stderr)
            return 2
        except subprocess.CalledProcessError:
            return 2
    equal = hashes(output / "cluster") == hashes(output / "threads")
    files = len(hashes(output / "threads"))
    print(
        f"{chosen.cluster}: {there:.0f} s with its start of workers, local threads: {here:.0f} s; "
        f"{files} files, {'every byte equal' if equal else 'NOT EQUAL'}: {output}"
    )
    return 0 if equal else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
