"""Throughput of `generate` beside a hand-written loop and `datasets.map`; prints a Markdown table.

    python -m benchmarks.generate_throughput [--images 4000] [--rounds 5]

Contestants take turns, so that a drift of the machine's speed hits all of them; ratios are taken
round by round. What they do is in benchmarks/contestants.py.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.corpus import make_corpus
from schemas.machine import processor

CONTESTANTS = ("controlset", "loop", "datasets")
LABELS = {
    "controlset": "`controlset generate`, 2 workers",
    "loop": "hand-written loop, 2 processes, same functions",
    "datasets": "`datasets.map(num_proc=2)` + controlnet-aux `CannyDetector`",
}


def measure(name: str, photographs: Path, output: Path) -> dict[str, float]:
    """One run of one contestant in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.contestants", name, photographs, output]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{name} failed:\n{finished.stderr[-3000:]}")
    result = json.loads(finished.stdout.splitlines()[-1])
    speed = result["images"] / result["seconds"]
    return {"speed": speed, "whole": result["images"] / result["wall_s"]}


def spread(values: list[float], digits: int = 0) -> str:
    """`median (min-max)`."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: speeds, and ratios of `controlset` to each contestant, round by round."""
    lines = [
        "| contestant | images/s after start-up | images/s, whole process | controlset / this |",
        "|---|---|---|---|",
    ]
    ours = [result["speed"] for result in results["controlset"]]
    for name, rounds in results.items():
        speeds = [result["speed"] for result in rounds]
        whole = [result["whole"] for result in rounds]
        ratios = [mine / theirs for mine, theirs in zip(ours, speeds, strict=True)]
        lines.append(
            f"| {LABELS[name]} | {spread(speeds)} | {spread(whole)} | {spread(ratios, 2)} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """Processor, cores and Python, in one line."""
    return f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "controlset-bench"
    )
    options = parser.parse_args()
    photographs = make_corpus(options.folder / f"photographs-{options.images}", options.images)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for number in range(options.rounds):
        for name in CONTESTANTS:
            output = options.folder / "output"
            results[name].append(measure(name, photographs, output))
            shutil.rmtree(output)
            print(
                f"round {number + 1}, {name}: {results[name][-1]['speed']:.0f} images/s",
                file=sys.stderr,
            )
    print(
        f"{options.images} crops of photographs, 1024x768 JPEG -> 512x512; {options.rounds} rounds"
    )
    print(f"on {machine()}; median (min-max)\n")
    print(table(results))


if __name__ == "__main__":
    main()
