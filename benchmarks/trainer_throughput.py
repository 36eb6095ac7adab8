"""`controlset train` beside diffusers' own script: speed, memory, gradients; prints Markdown.

    python -m benchmarks.trainer_throughput --script train_controlnet.py [--rounds 3] [--steps 6]

The script is diffusers' examples/controlnet/train_controlnet.py, which is not part of this project:
get it at the tag of the installed diffusers. It runs as it is, on the same base (Stable Diffusion
1.5's sizes, random weights), the same shards, batch and number format. Runs take turns, each in a
process of its own; ratios are taken round by round. Seconds are those between the ends of
optimizer steps, without the first two. What runs is in benchmarks/trainer_contest.py.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.generate_throughput import machine, spread
from benchmarks.trainer_contest import BATCH, PICTURES, SIZE_PX, write_base, write_set

WARM_UP = 2
FASTER = 1.8
SMALLER = 0.8
LABELS = {"ours": "`controlset train`", "diffusers": "diffusers' `train_controlnet.py`"}


def run_once(name: str, options: argparse.Namespace, flags: Sequence[str]) -> dict[str, float]:
    """One contestant in a process of its own.

    Returns:
        samples/s over steady steps; the largest resident set in bytes, up to the end of the last
        step, and of the whole run.
    """
    output = options.folder / "run"
    shutil.rmtree(output, ignore_errors=True)
    paths = (options.script, options.base, options.folder / "set", output, options.steps)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.trainer_contest", name]
    finished = subprocess.run(
        [*command, *map(str, paths), *flags],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
    )
    shutil.rmtree(output, ignore_errors=True)
    if finished.returncode:
        raise SystemExit(f"{name} failed:\n{finished.stderr[-3000:]}\n{finished.stdout[-1000:]}")
    seen = json.loads(finished.stdout.splitlines()[-1])
    steady_s = seen["ended_s"][-1] - seen["ended_s"][WARM_UP - 1]
    return {
        "speed": BATCH * (options.steps - WARM_UP) / steady_s,
        "steps_bytes": seen["bytes"][-1],
        "whole_bytes": seen["whole_bytes"],
        "first_s": seen["ended_s"][0],
    }


def contest(options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """All rounds."""
    flags = {"ours": options.our_flags.split(), "diffusers": options.their_flags.split()}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in LABELS}
    for number in range(options.rounds):
        for name in LABELS:
            results[name].append(run_once(name, options, flags[name]))
            print(f"round {number + 1}, {name}: {results[name][-1]}", file=sys.stderr, flush=True)
    return results


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: speed and memory of each, and ours / theirs round by round."""
    lines = [
        "| trainer | samples/s | peak resident in steps, GB | whole run, GB | first step, s |",
        "|---|---|---|---|---|",
    ]
    for name, rounds in results.items():
        cells = [
            spread([measured["speed"] for measured in rounds], 4),
            spread([measured["steps_bytes"] / 1e9 for measured in rounds], 2),
            spread([measured["whole_bytes"] / 1e9 for measured in rounds], 2),
            spread([measured["first_s"] for measured in rounds], 0),
        ]
        lines.append(f"| {LABELS[name]} | {' | '.join(cells)} |")
    cells = [
        spread(ratios(results, what), 2)
        for what in ("speed", "steps_bytes", "whole_bytes", "first_s")
    ]
    lines.append(f"| ours / theirs | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios(results: dict[str, list[dict[str, float]]], what: str) -> list[float]:
    """Ours / theirs of each round."""
    pairs = zip(results["ours"], results["diffusers"], strict=True)
    return [mine[what] / theirs[what] for mine, theirs in pairs]


def show_gradients(options: argparse.Namespace) -> None:
    """In a process of its own, so that its memory goes."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.trainer_contest", "gradients"]
    paths = (options.script, options.base, options.folder / "set")
    finished = subprocess.run(
        [*command, *map(str, paths)], stdout=subprocess.PIPE, text=True, check=True
    )
    print("\n| gradients of one step, ours against the script's | relative difference |\n|---|---|")
    for line in finished.stdout.splitlines():
        what, apart = json.loads(line)
        print(f"| {what} | {apart:.1e} |")


def main() -> None:
    """Measure and print; exit status 1 where the promise is broken."""
    temporary = Path(tempfile.gettempdir())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--base", type=Path, default=temporary / "controlset-bench/sd15-random")
    parser.add_argument("--folder", type=Path, default=temporary / "controlset-bench/trainer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--our-flags", default="")
    parser.add_argument("--their-flags", default="--set_grads_to_none")
    parser.add_argument("--only", choices=("contest", "gradients"))
    options = parser.parse_args()
    write_base(options.base)
    write_set(options.folder, options.base)
    print(
        f"{PICTURES} pictures of {SIZE_PX}x{SIZE_PX}, batch {BATCH}, fp32, {options.steps} steps,"
    )
    print(f"{options.rounds} rounds; on {machine()}; median (min-max)\n", flush=True)
    if options.only != "contest":
        show_gradients(options)
    if options.only == "gradients":
        return
    results = contest(options)
    print(f"\n{table(results)}")
    faster = statistics.median(ratios(results, "speed"))
    smaller = statistics.median(ratios(results, "whole_bytes"))
    if faster < FASTER or smaller > SMALLER:
        raise SystemExit(
            f"need {FASTER} times the samples/s and {SMALLER} times the memory, "
            f"got {faster:.2f} and {smaller:.2f}"
        )


if __name__ == "__main__":
    main()
