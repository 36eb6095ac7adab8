"""Throughput of this checkout beside an earlier one; prints a Markdown table.

    git worktree add ../before COMMIT && make -C ../before setup
    python -m benchmarks.before_and_after --before ../before [--images 2000] [--rounds 5]
    python -m benchmarks.before_and_after --before ../before --work train sample [--rounds 5]

Both generate the same photographs, and both read the set that the earlier one wrote, the very same
files: with `controlset.open` (every row decoded) and with the trainer's loader. (Of two equal sets
one can be a tenth slower to read, because of where its pages lie in memory.) Both train on the same
drawn scenes with the bundled base, and both sample with it. Start-up does not count. The two take
turns, another one first each round, and ratios are taken round by round, so that a drift of the
machine's speed hits both.
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
from controlset.commands.demo import draw_shapes

HERE = Path(__file__).resolve().parents[1]

_OPEN = """
import json, sys, time
import controlset
data = controlset.open(sys.argv[1])
started = time.perf_counter()
rows = sum(1 for row in data)
print(json.dumps({"images": rows, "seconds": time.perf_counter() - started}))
"""

# Without the first ten steps, which warm the allocator and fill the loader's queue.
_TRAIN = """
import json, shutil, subprocess, sys, time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_post_hook
from controlnet.nano import base_folder
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.train import train
scenes, place = sys.argv[1], Path(sys.argv[2])
data = place / "scenes"
if not (data / "manifest.json").exists():
    words = ["generate", scenes, "--output", str(data), "--conditions", "canny"]
    subprocess.run([sys.executable, "-m", "controlset", *words, "--resolution", "64"], check=True)
ended_s = []
register_optimizer_step_post_hook(lambda *_: ended_s.append(time.perf_counter()))
shutil.rmtree(place / "run", ignore_errors=True)
config = TrainConfig(
    data=str(data), condition="canny", base=str(base_folder()), output=str(place / "run"),
    steps=60, batch_size=8, learning_rate=1e-3, probe_every=0, tracker="none", device="cpu",
)
train(config)
counted_s = ended_s[10:]
print(json.dumps({"images": 8 * (len(counted_s) - 1), "seconds": counted_s[-1] - counted_s[0]}))
"""

# As `controlset sample` samples: eight pictures together. One batch goes unmeasured.
_SAMPLE = """
import json, time
import numpy as np, torch
from controlnet.architecture.backbone import load_base, new_control
from controlnet.architecture.control import hint_widths
from controlnet.architecture.sampling import SampleOptions
from controlnet.nano import base_folder
try:
    from controlnet.evaluator.samples import Request, Sampler
except ModuleNotFoundError:  # until 0.2
    from controlnet.evaluator.sampler import Request, Sampler
torch.set_flush_denormal(True)
base = load_base(str(base_folder()), offline=True)
control = new_control(base, widths=hint_widths(base.space.factor)).requires_grad_(False).eval()
sampler = Sampler(
    base, [(control, 1.0)], SampleOptions(steps=20, guidance=3.0), negative_prompt="",
    device=torch.device("cpu"), autocast=torch.float32,
)
hint = np.zeros((64, 64), np.uint8)
hint[16:48, 16:48] = 255
requests = [
    Request(key=str(seed), prompt="a red square", hints=(hint,), seed=seed, size=(64, 64))
    for seed in range(8)
]
sampler(requests)
started_s, batches = time.perf_counter(), 5
for _ in range(batches):
    sampler(requests)
print(json.dumps({"images": 8 * batches, "seconds": time.perf_counter() - started_s}))
"""

WORK = {
    "generate": ("-m", "{benchmarks}.contestants", "controlset", "{photographs}", "{place}/set"),
    "open": ("-c", _OPEN, "{place}/set"),
    "loader": ("-m", "{benchmarks}.loader_contestants", "ours", "{place}"),
    "train": ("-c", _TRAIN, "{scenes}", "{place}"),
    "sample": ("-c", _SAMPLE),
}
READS_BACK, READ = {"open", "loader"}, "read-by-both"
SCENES = 800


def _filled(word: str, names: dict[str, Path | str]) -> str:
    for name, value in names.items():
        word = word.replace(name, str(value))
    return word


def images_a_second(checkout: Path, work: str, sources: dict[str, Path], place: Path) -> float:
    """One run in a process of the checkout's own.

    Args:
        checkout: with its environment in `.venv`.
        work: of `WORK`.
        sources: pictures by the name that `WORK` has for them.
        place: folder of what this checkout makes.
    """
    python = checkout / ".venv/bin/python"
    benchmarks = "benchmarks" if (checkout / "benchmarks").is_dir() else "tests.bench"  # until 0.2
    names = {**sources, "{place}": place, "{benchmarks}": benchmarks}
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
    works = [work for work in WORK if work in options.work]
    sources: dict[str, Path] = {}
    if {"generate", *READS_BACK} & {*works}:
        photographs = folder / f"photographs-{options.images}"
        sources["{photographs}"] = make_corpus(photographs, options.images)
    if "train" in works:
        sources["{scenes}"] = folder / f"scenes-{SCENES}"
        draw_shapes(sources["{scenes}"], SCENES, seed=0)
    checkouts = {"before": options.before.resolve(), "now": HERE}
    for name in (*checkouts, READ):  # of another commit, perhaps
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    if READS_BACK & {*works}:
        images_a_second(checkouts["before"], "generate", sources, folder / READ)
    speeds: dict[tuple[str, str], list[float]] = {}
    for number in range(-1, options.rounds):  # the first round warms files and caches
        for work in works:
            for name in list(checkouts)[:: 1 if number % 2 else -1]:
                place = folder / (READ if work in READS_BACK else name)
                speed = images_a_second(checkouts[name], work, sources, place)
                print(f"round {number + 1}, {work}, {name}: {speed:.1f} images/s", file=sys.stderr)
                if number >= 0:
                    speeds.setdefault((work, name), []).append(speed)
    of_what = f"; {options.images} photographs of 1024x768" if "{photographs}" in sources else ""
    print(f"{options.rounds} rounds on {machine()}{of_what}\n")
    print("| images/s, median (min-max) | before | now | now / before |\n|---|---|---|---|")
    for work in options.work:
        before, now = speeds[work, "before"], speeds[work, "now"]
        ratios = [mine / theirs for mine, theirs in zip(now, before, strict=True)]
        cells = (spread(before, 1), spread(now, 1), spread(ratios, 3))
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
