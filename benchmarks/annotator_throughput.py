"""Throughput of annotators beside controlnet-aux's own detectors; prints a Markdown table.

    python -m benchmarks.annotator_throughput [hed softedge ...] [--rounds 5] [--batches 4]

Both sides have the same random weights, 512x512 photographs and two threads: controlnet-aux one
image at a time with `torch.set_num_threads(2)`; ours as pipeline/worker.py runs it, two threads
with batches of 8 images. Sides take turns, each in a process of its own, so that neither settings
nor a drift of the machine's speed favour one of them; ratios are taken round by round.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from annotators.options import configured
from benchmarks import depth_contests, pose_contests
from benchmarks.generate_throughput import machine, spread

THREADS = 2
AT_ONCE = 8
SIDE = 512

Images = Sequence[np.ndarray]
Side = Callable[[Path], Callable[[Images], None]]  # weights' folder -> what is timed


def ours(condition: str, *, change: Callable[[Any], Any] | None = None, **asked: str) -> Side:
    """An annotator of ours, loaded as a worker loads it.

    Args:
        condition: its name.
        change: what to do to the loaded annotator, for networks that need to be told what to see.
        asked: options.
    """

    def loaded(weights: Path) -> Callable[[Images], None]:
        from concurrent.futures import ThreadPoolExecutor

        import cv2

        from annotators.options import AnnotateConfig
        from annotators.registry import specs_of
        from annotators.runtime import Runtime, use_one_thread_each
        from pipeline.worker import keep_buffers

        keep_buffers()
        cv2.setNumThreads(1)
        options = configured(
            AnnotateConfig, conditions=(condition,), device="cpu", weights=str(weights), **asked
        )
        (spec,) = specs_of(options)
        annotator = spec.load(Runtime(weights=str(weights)))
        annotator = annotator if change is None else change(annotator)
        pool = ThreadPoolExecutor(THREADS, initializer=use_one_thread_each)

        def run(images: Images) -> None:
            keys = [str(number) for number in range(len(images))]
            batches = range(0, len(images), AT_ONCE)
            parts = [slice(start, start + AT_ONCE) for start in batches]
            for results in pool.map(lambda part: annotator(images[part], keys[part]), parts):
                assert all(hasattr(result, "pixels") for result in results)

        return run

    return loaded


def detector(name: str) -> Side:
    """A detector of controlnet-aux, loaded and called as its README says."""

    def loaded(weights: Path) -> Callable[[Images], None]:
        import controlnet_aux
        import torch

        torch.set_num_threads(THREADS)
        one = getattr(controlnet_aux, name).from_pretrained(str(weights))

        def run(images: Images) -> None:
            for image in images:
                one(image, detect_resolution=SIDE, image_resolution=SIDE, output_type="np")

        return run

    return loaded


def write_reference_weights(condition: str) -> Callable[[Path], object]:
    """What fills a folder with random weights in the reference's format."""

    def write_into(folder: Path) -> object:
        from tests.annotators.reference_weights import write

        return write(folder, condition)

    return write_into


# Condition -> (writes weights, ours, theirs). Add yours here.
CONTESTS: dict[str, tuple[Callable[[Path], object], Side, Side]] = {
    condition: (write_reference_weights(condition), ours(condition), detector(name))
    for condition, name in (
        ("hed", "HEDdetector"),
        ("softedge", "PidiNetDetector"),
        ("lineart", "LineartDetector"),
        ("lineart_anime", "LineartAnimeDetector"),
        ("mlsd", "MLSDdetector"),
        ("normal", "NormalBaeDetector"),
    )
} | {
    "depth-midas": (
        depth_contests.write_midas,
        ours("depth", depth_model="midas"),
        detector("MidasDetector"),
    ),
    # Both at the 384x384 px of its processor; beside a loop over transformers itself.
    "depth-dpt": (
        depth_contests.write_dpt,
        ours("depth", depth_model=depth_contests.MODEL),
        depth_contests.transformers_loop,
    ),
    # The body alone, with two people made up in every picture.
    "pose": (
        pose_contests.write_body,
        ours("pose", change=lambda one: pose_contests.seeing_people(one, SIDE)),
        pose_contests.detector(SIDE, THREADS),
    ),
}


def photographs(count: int) -> list[np.ndarray]:
    """Crops and enlargements of scikit-image's pictures, SIDE x SIDE."""
    import cv2
    import skimage

    pictures = [getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea")]
    sized = [
        cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for picture in pictures
    ]
    return [np.roll(sized[number % 3], 37 * number, axis=1) for number in range(count)]


def measure_here(condition: str, side: str, weights: Path, batches: int) -> None:
    """One side in this process: print seconds for an image."""
    warnings.simplefilter("ignore")
    _, mine, theirs = CONTESTS[condition]
    run = (mine if side == "ours" else theirs)(weights)
    images = photographs(batches * AT_ONCE)
    run(images[: 2 * THREADS])  # the first calls choose kernels and fill the allocator
    start = time.perf_counter()
    run(images)
    print(json.dumps((time.perf_counter() - start) / len(images)))


def measure(condition: str, side: str, weights: Path, batches: int) -> float:
    """Images a second of one side, in a process of its own."""
    own = [condition, "--side", side, "--weights", str(weights), "--batches", str(batches)]
    command = [sys.executable, "-m", "benchmarks.annotator_throughput", *own]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{condition}, {side} failed:\n{finished.stderr[-3000:]}")
    return 1 / json.loads(finished.stdout.splitlines()[-1])


def contest(condition: str, rounds: int, batches: int) -> str:
    """One row of the table."""
    speeds: dict[str, list[float]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as folder:
        CONTESTS[condition][0](Path(folder))
        for number in range(rounds):
            for side in sorted(speeds, reverse=bool(number % 2)):
                speeds[side].append(measure(condition, side, Path(folder), batches))
    ratios = [mine / yours for mine, yours in zip(*speeds.values(), strict=True)]
    cells = [condition, *(spread(values, 2) for values in (*speeds.values(), ratios))]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("conditions", nargs="*", choices=[*CONTESTS, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4, help="of 8 images, a round")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure_here(options.conditions[0], options.side, options.weights, options.batches)
        return
    print(f"{machine()}; load average at the start {os.getloadavg()[0]:.1f}")
    print(f"{SIDE}x{SIDE}, batches of {AT_ONCE}, {THREADS} threads a side, {options.rounds} rounds")
    print("\n| condition | ours, images/s | controlnet-aux, images/s | ratio |")
    print("|---|---|---|---|")
    for condition in options.conditions or CONTESTS:
        print(contest(condition, options.rounds, options.batches), flush=True)
    print(f"\nload average at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
