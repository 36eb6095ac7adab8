"""All conditions and captions in one pass against each alone; prints a Markdown table.

    python -m benchmarks.one_pass [--images 48] [--rounds 3]

Every run is a `generate` of its own over the same 512x512 images, with the networks at their real
size and random weights (MiDaS, OpenPose, HED, PiDiNet, BLIP base). Seconds are those from the first
image read to the last commit: without imports and loading. Each part alone reads, decodes and
stores the images once more, so the sum of the parts would flatter: what a run without any network
(grey) takes is taken off all but one of them.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from annotators.options import configured
from benchmarks.captioner_throughput import make_model
from benchmarks.corpus import make_corpus
from benchmarks.depth_contests import write_midas
from benchmarks.generate_throughput import machine
from benchmarks.memory import peak_of
from tests.annotators import reference_weights

NETWORKS = ("depth", "pose", "hed", "softedge")
ALLOWED = 1.05
BLIP = "blip"
ALONE = ("grey", *NETWORKS, BLIP)


def write_bench_weights(folder: Path) -> Path:
    """Random weights of networks at their real size; what is there already is kept."""
    done = folder / "done"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        reference_weights.write(folder, "hed", "softedge", "pose")
        write_midas(folder)
        make_model(folder / "Salesforce--blip-image-captioning-base")
        done.touch()
    return folder


def run_once(parts: tuple[str, ...], photographs: Path, weights: Path, output: Path) -> dict:
    """Seconds of work and peak memory of one `generate`."""
    result = output.with_suffix(".json")
    command = [sys.executable, "-m", "benchmarks.one_pass", "--run", *parts]
    peak = peak_of([*command, "--paths", *map(str, (photographs, weights, output, result))])
    shutil.rmtree(output)
    return {"seconds": json.loads(result.read_text()), "bytes": peak.pss_bytes}


def generate_parts(parts: list[str], photographs: str, weights: str, output: str) -> float:
    """Generate in this process; the seconds of work."""
    from pipeline.config import GenerateConfig
    from pipeline.generate import generate
    from pipeline.progress import PROGRESS

    generate(
        configured(
            GenerateConfig,
            source=photographs,
            output=output,
            conditions=tuple(part for part in parts if part != BLIP),
            caption="blip" if BLIP in parts else "none",
            caption_max_tokens=20,
            depth_model="midas",
            keep_empty_pose=True,
            weights=weights,
            offline=True,
        )
    )
    return PROGRESS.work_seconds


def main() -> None:
    """Measure and print; exit status 1 where the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--paths", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        seconds = generate_parts(options.run, *options.paths[:3])
        Path(options.paths[3]).write_text(json.dumps(seconds))
        return
    folder = Path(tempfile.gettempdir()) / "controlset-bench"
    photographs = make_corpus(folder / f"photographs-{options.images}", options.images)
    weights = write_bench_weights(folder / "weights")
    # A captioner alone needs a condition; grey costs next to nothing and is taken off again.
    runs = {part: (part,) if part != BLIP else ("grey", BLIP) for part in ALONE}
    runs["all"] = (*NETWORKS, BLIP)
    found: dict[str, list[dict]] = {name: [] for name in runs}
    for number in range(options.rounds):
        for name, parts in runs.items():
            found[name].append(run_once(parts, photographs, weights, folder / "one-pass"))
            print(f"round {number + 1}: {name} {found[name][-1]}", file=sys.stderr)
    print(f"{options.images} images to 512x512; {options.rounds} rounds, median; on {machine()}\n")
    print("| run | seconds | images/s | peak PSS, MB |")
    print("|---|---|---|---|")
    seconds = {}
    for name, several in found.items():
        seconds[name] = statistics.median(measured["seconds"] for measured in several)
        memory = statistics.median(measured["bytes"] for measured in several) / 1e6
        speed = options.images / seconds[name]
        print(f"| {name} | {seconds[name]:.1f} | {speed:.2f} | {memory:,.0f} |")
    parts = [seconds[name] - seconds["grey"] for name in (*NETWORKS, BLIP)]
    ratio = seconds["all"] / (sum(parts) + seconds["grey"])
    print(f"\nall in one pass / sum of the parts, reading and storing counted once: {ratio:.3f}")
    if ratio > ALLOWED:
        raise SystemExit(f"need a ratio <= {ALLOWED}")


if __name__ == "__main__":
    main()
