"""Measure the figures that `controlset scale` starts from: seconds and bytes of every part.

    python -m benchmarks.scale_figures [--images 48] [--save pipeline/scale/figures.json]
    python -m benchmarks.scale_figures --check    # sets of parts and pictures that were not fitted

512x512 images from 1024x768 photographs; networks at their real size with random weights, as no
others can be had here: seconds do not depend on weights, bytes of their maps do.
"""

import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
from pathlib import Path

from annotators.options import configured
from benchmarks.corpus import make_corpus
from benchmarks.one_pass import BLIP, generate_parts, write_bench_weights
from pipeline.config import GenerateConfig
from pipeline.scale.cost import CAPTION, shipped_figures
from pipeline.scale.pilot import measure
from tests.annotators import reference_weights

NETWORKS = ("lineart", "lineart_anime", "mlsd", "normal")
CONDITIONS = ("depth", "pose", "hed", "softedge", *NETWORKS)
PHOTOGRAPHS = 384


UNSEEN = (("canny", "hed", "pose"), ("canny", "depth", BLIP), ("softedge", "normal", "mlsd"))


def check(folder: Path, photographs: Path, weights: Path) -> None:
    """Generate from other pictures with sets of parts that no pilot ran; compare."""
    figures = shipped_figures()
    pictures, output = folder / "unseen", folder / "scale-check"
    pictures.mkdir(exist_ok=True)
    others = sorted(photographs.iterdir())[100:148]
    for path in others:
        shutil.copy(path, pictures)
    print("| parts | core seconds an image | estimated / measured | bytes, the same |")
    print("|---|---|---|---|")
    for parts in UNSEEN:
        shutil.rmtree(output, ignore_errors=True)
        seconds = generate_parts([*parts], str(pictures), str(weights), str(output))
        measured = seconds * len(os.sched_getaffinity(0)) / len(others)
        stored = sum(path.stat().st_size for path in output.rglob("*.parquet")) / len(others)
        named = [CAPTION if part == BLIP else part for part in parts]
        ratios = figures.core_seconds(named) / measured, figures.row_bytes(named) / stored
        print(f"| {', '.join(parts)} | {measured:.3f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--save", type=Path, default=Path("pipeline/scale/figures.json"))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / "controlset-bench"
    weights = write_bench_weights(folder / "weights")
    reference_weights.write(weights, *NETWORKS)
    photographs = make_corpus(folder / f"photographs-{PHOTOGRAPHS}", PHOTOGRAPHS)
    if options.check:
        check(folder, photographs, weights)
        return
    config = configured(
        GenerateConfig,
        source=str(photographs),
        output=str(folder / "unused"),
        conditions=CONDITIONS,
        caption="blip",
        caption_max_tokens=20,
        depth_model="midas",
        keep_empty_pose=True,
        weights=str(weights),
        offline=True,
    )
    figures = measure(
        config,
        images=options.images,
        on_run=lambda done, of: print(f"{done} of {of} runs", file=sys.stderr),
    )
    source = "benchmarks.corpus, 1024x768 JPEG; networks at real size with random weights"
    figures = dataclasses.replace(figures, source=source)
    options.save.write_text(figures.to_json())
    print(figures.to_json(), end="")


if __name__ == "__main__":
    main()
