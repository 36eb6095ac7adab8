"""Planning many references: List -> Plan -> Group with shard bodies that only count.

    python -m benchmarks.plan_scale [--references 100000 300000 1000000]

The graph's own transforms on the local runner, as `controlset generate` wires them; the listing is
a generator of references as a bucket gives them, with a caption beside each; the shard body counts.
Each size is a process of its own; prints seconds, peak memory (PSS) and the growth exponent.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks.generate_throughput import machine
from benchmarks.memory import peak_of
from pipeline.config import GenerateConfig
from pipeline.generate import LOCAL_RUNNER
from pipeline.job import Job
from pipeline.plan import PlanShards
from pipeline.sources import SourceKind, SourceSpec
from schemas.records import ImageRef, Place, ShardPlan, key_of


def references(number: int) -> Iterator[ImageRef]:
    """What the listing of a bucket yields."""
    for index in range(number):
        name = f"{index % 997:03d}/{index:010d}.jpg"
        place = Place(
            uri=f"gs://some-bucket/photographs/{name}", file_bytes=150_000, modified_s=1.7e9
        )
        caption = Place(
            uri=f"gs://some-bucket/photographs/{name[:-4]}.txt", file_bytes=60, modified_s=1.7e9
        )
        yield ImageRef(key=key_of(name), source=name, place=place, caption_place=caption)


def _counted(plan: ShardPlan) -> tuple[int, int]:
    return 1, len(plan.refs)


def _sums(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    shards, rows = 0, 0
    for one, many in pairs:
        shards, rows = shards + one, rows + many
    return shards, rows


def plan(number: int, result: Path) -> None:
    """Plan in this process."""
    config = GenerateConfig(
        source="gs://some-bucket/photographs", output="out", conditions=("canny",), validation=0.01
    )
    source = SourceSpec(root=config.source, kind=SourceKind.IMAGES, selections=())
    job = Job(config=config, specs=(), source=source)
    options = PipelineOptions(["--direct_num_workers=2", "--direct_running_mode=in_memory"])
    began = time.perf_counter()
    seen = str(result) + ".seen"
    with beam.Pipeline(runner=LOCAL_RUNNER, options=options) as pipeline:
        (
            pipeline
            | beam.Create([number])
            | beam.FlatMap(references)
            | PlanShards(job)
            | beam.Map(_counted)
            | beam.CombineGlobally(_sums)
            | beam.Map(lambda sums: Path(seen).write_text(json.dumps(sums)))
        )
    shards, rows = json.loads(Path(seen).read_text())
    assert rows == number, (rows, number)
    seconds = time.perf_counter() - began
    result.write_text(json.dumps({"seconds": seconds, "shards": shards}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--references", nargs="+", type=int, default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--one", type=int)
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        plan(arguments.one, arguments.result)
        return
    print(f"on {machine()}\n")
    print("| references | shards | seconds | us a reference | peak memory, MB | exponent |")
    print("|---|---|---|---|---|---|")
    before = None
    for number in arguments.references:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            command = [sys.executable, "-m", "benchmarks.plan_scale", "--one", str(number)]
            peak = peak_of([*command, "--result", str(result)])
            got = json.loads(result.read_text())
        exponent = ""
        if before is not None:
            exponent = f"{math.log(got['seconds'] / before[1]) / math.log(number / before[0]):.2f}"
        before = number, got["seconds"]
        print(
            f"| {number:,} | {got['shards']:,} | {got['seconds']:.1f} "
            f"| {1e6 * got['seconds'] / number:.1f} | {peak.pss_bytes / 1e6:,.0f} | {exponent} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
