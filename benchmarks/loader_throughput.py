"""The trainer's loader beside three others on the same pictures; prints Markdown tables.

    python -m benchmarks.loader_throughput [--rounds 3] [--images 2000] [--peers-python PYTHON]

webdataset and mosaicml-streaming run under PYTHON, of an environment that has them, torch and
opencv; without it they are left out. A sample is a 512x512 JPEG and a 1-bit Canny map, both decoded
to uint8 by the same OpenCV calls; batches of 8, shuffled, two workers (ours: threads, theirs:
processes of a torch DataLoader). Each run is a process of its own, contestants take turns, ratios
are taken round by round, and every contestant must come to the same sum of pixels.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from benchmarks.corpus import make_corpus
from benchmarks.generate_throughput import machine, spread
from benchmarks.loader_contestants import BATCH, CONTESTANTS
from benchmarks.memory import peak_of
from pipeline.config import GenerateConfig
from pipeline.generate import generate
from schemas.dataset import open_dataset

LABELS = {
    "ours": "ours, equal work (image and map only)",
    "trainer": "ours as the trainer runs it (and both 4x64x64 noises of each sample)",
    "datasets": "`datasets` {datasets}, Parquet, `Image(decode=False)`",
    "webdataset": "webdataset {webdataset}, tar shards of 250",
    "streaming": "mosaicml-streaming {mosaicml-streaming}, MDS",
}
OURS = ("ours", "trainer", "datasets")  # need nothing but our own environment
TAR_IMAGES = 250


def prepare(folder: Path, photographs: Path, count: int, peers: str | None) -> Path:
    """The same pictures in every contestant's own format; what is there already is kept."""
    target = folder / f"loader-{count}"
    if (target / "ready").exists():
        return target
    config = GenerateConfig(
        source=str(photographs),
        output=str(target / "set"),
        conditions=("canny",),
        limit=count,
        num_workers=2,
    )
    generate(config)
    data = open_dataset(str(target / "set"))
    (target / "tars").mkdir(exist_ok=True)
    for start in range(0, len(data), TAR_IMAGES):
        with tarfile.open(target / f"tars/{start:06d}.tar", "w") as tar:
            for number in range(start, min(start + TAR_IMAGES, len(data))):
                row = data.row(number, ["key", "image", "canny"])
                for column, suffix in (("image", "jpg"), ("canny", "png")):
                    member = tarfile.TarInfo(f"{row['key']}.{suffix}")
                    member.size = len(row[column]["bytes"])
                    tar.addfile(member, io.BytesIO(row[column]["bytes"]))
    if peers is not None:
        command = [peers, "-m", "benchmarks.loader_contestants", "write-mds", str(target)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (target / "ready").touch()
    return target


def command_of(name: str, folder: Path, peers: str | None) -> list[str]:
    """The process of one contestant."""
    python = sys.executable if name in OURS else str(peers)
    return [python, "-m", "benchmarks.loader_contestants", name, str(folder)]


def measure(name: str, folder: Path, peers: str | None) -> dict[str, float]:
    """One run in a process of its own."""
    finished = subprocess.run(
        command_of(name, folder, peers), capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise SystemExit(f"{name} failed:\n{finished.stderr[-3000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def table(results: dict[str, list[dict[str, float]]], versions: dict[str, str]) -> str:
    """Markdown: speeds, time to the first batch, ratio of `ours` to each contestant."""
    lines = [
        "| loader | images/s | ours / this | CPU ms an image | first batch after, ms |",
        "|---|---|---|---|---|",
    ]
    ours = [result["images"] / result["seconds"] for result in results["ours"]]
    for name, rounds in results.items():
        speeds = [result["images"] / result["seconds"] for result in rounds]
        ratios = [mine / theirs for mine, theirs in zip(ours, speeds, strict=True)]
        first = [1000 * result["first_s"] for result in rounds]
        cpu = [1000 * result["cpu_s"] / result["images"] for result in rounds]
        label = LABELS[name].format_map(versions)
        cells = (spread(speeds), spread(ratios, 2), spread(cpu, 2), spread(first))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def versions_of(python: str) -> dict[str, str]:
    """Distribution -> version, as that interpreter sees them; `not installed` where it does not."""
    code = (
        "import json, importlib.metadata as m; "
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    printed = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(printed.stdout)


def compare(options: argparse.Namespace, photographs: Path) -> None:
    """The contest."""
    folder = prepare(options.folder, photographs, options.images, options.peers_python)
    names = OURS if options.peers_python is None else tuple(CONTESTANTS)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names:
            results[name].append(measure(name, folder, options.peers_python))
            one = results[name][-1]
            speed = one["images"] / one["seconds"]
            print(f"round {number + 1}, {name}: {speed:.0f} images/s", file=sys.stderr)
    sums = {
        name: {(result["images"], result["total"]) for result in runs}
        for name, runs in results.items()
    }
    if len(set().union(*sums.values())) != 1:
        raise SystemExit(f"need equal pixels from all, got (images, sum) {sums}")
    print(table(results, versions_of(options.peers_python or sys.executable)))


def watch_memory(options: argparse.Namespace, photographs: Path) -> None:
    """Peak memory of one epoch of ours at two sizes of the data set."""
    print("\n| images | peak PSS, MB | peak resident, MB |\n|---|---|---|")
    for count in options.memory:
        folder = prepare(options.folder, photographs, count, options.peers_python)
        peaks = [peak_of(command_of("trainer", folder, None)) for _ in range(options.rounds)]
        pss = statistics.median(peak.pss_bytes for peak in peaks)
        resident = statistics.median(peak.resident_bytes for peak in peaks)
        print(f"| {count:,} | {pss / 1e6:.0f} | {resident / 1e6:.0f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--memory", type=int, nargs="*", default=[1000, 4000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers-python")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "controlset-bench"
    )
    options = parser.parse_args()
    most = max(4000, options.images, *options.memory)
    photographs = make_corpus(options.folder / f"photographs-{most}", most)
    print(f"{options.images} images of 512x512, batches of {BATCH}, {options.rounds} rounds")
    print(f"on {machine()}; median (min-max)\n")
    compare(options, photographs)
    watch_memory(options, photographs)


if __name__ == "__main__":
    main()
