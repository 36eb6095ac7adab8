"""Throughput of this checkout beside an earlier one; prints a Markdown table.

    git worktree add ../before COMMIT && make -C ../before setup
    python -m benchmarks.before_and_after --before ../before [--images 2000] [--rounds 5]

Both generate the same pictures, and each reads back what it wrote itself: with `controlset.open`
(every row decoded) and with the trainer's loader. The two take turns, and ratios are taken round by
round, so that a drift of the machine's speed hits both.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.corpus import make_corpus
from benchmarks.generate_throughput import machine, spread

HERE = Path(__file__).resolve().parents[1]

_OPEN = """
import json, sys, time
import controlset
data = controlset.open(sys.argv[1])
started = time.perf_counter()
rows = sum(1 for row in data)
print(json.dumps({"images": rows, "seconds": time.perf_counter() - started}))
"""

WORK = {
    "generate": ("-m", "{benchmarks}.contestants", "controlset", "{photographs}", "{place}/set"),
    "open": ("-c", _OPEN, "{place}/set"),
    "loader": ("-m", "{benchmarks}.loader_contestants", "ours", "{place}"),
}


def _filled(word: str, names: dict[str, Path | str]) -> str:
    for name, value in names.items():
        word = word.replace(name, str(value))
    return word


def images_a_second(checkout: Path, work: str, photographs: Path, place: Path) -> float:
    """One run in a process of the checkout's own."""
    python = checkout / ".venv/bin/python"
    benchmarks = "benchmarks" if (checkout / "benchmarks").is_dir() else "tests.bench"  # until 0.2
    names = {"{photographs}": photographs, "{place}": place, "{benchmarks}": benchmarks}
    words = [_filled(word, names) for word in WORK[work]]
    finished = subprocess.run(
        [python, *words],
        cwd=checkout,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise SystemExit(f"{work} in {checkout} failed:\n{finished.stderr[-3000:]}")
    result = json.loads(finished.stdout.splitlines()[-1])
    return result["images"] / result["seconds"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "controlset-bench"
    )
    options = parser.parse_args()
    folder = options.folder.resolve()
    photographs = make_corpus(folder / f"photographs-{options.images}", options.images)
    checkouts = {"before": options.before.resolve(), "now": HERE}
    speeds: dict[tuple[str, str], list[float]] = {}
    for number in range(-1, options.rounds):  # the first round warms files and caches
        for work in WORK:
            for name, checkout in checkouts.items():
                place = folder / f"{name}-and-its-set"
                if work == "generate":
                    shutil.rmtree(place, ignore_errors=True)
                    place.mkdir(parents=True)
                elif work not in options.work:
                    continue
                speed = images_a_second(checkout, work, photographs, place)
                print(f"round {number + 1}, {work}, {name}: {speed:.0f} images/s", file=sys.stderr)
                if number >= 0:
                    speeds.setdefault((work, name), []).append(speed)
    print(f"{options.images} pictures of 1024x768, {options.rounds} rounds on {machine()}\n")
    print("| images/s, median (min-max) | before | now | now / before |\n|---|---|---|---|")
    for work in options.work:
        before, now = speeds[work, "before"], speeds[work, "now"]
        ratios = [mine / theirs for mine, theirs in zip(now, before, strict=True)]
        cells = (spread(before), spread(now), spread(ratios, 3))
        print(f"| {work} | {' | '.join(cells)} |")
    lowest = min(
        statistics.median(
            mine / theirs
            for mine, theirs in zip(speeds[work, "now"], speeds[work, "before"], strict=True)
        )
        for work in options.work
    )
    print(f"\nlowest median ratio: {lowest:.3f}")


if __name__ == "__main__":
    main()
