"""Peak memory of `generate` at two sizes of the same source; prints a Markdown table.

    python -m benchmarks.memory [--images 1000 8000] [--rounds 1]

Each run is a process of its own. Sampled every 50 ms: the proportional set size (PSS) of that
process and all its children, so that shared pages count once. Beside it stands the sum of what the
kernel says was each process's largest resident set, which no sampling can miss.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.contestants import PROCESSES
from benchmarks.corpus import make_corpus
from benchmarks.generate_throughput import machine

EVERY_S = 0.05
LARGEST_RATIO = 1.15
LARGEST_BYTES = 1e9


class Peak(NamedTuple):
    """Largest memory of one run, all processes together."""

    pss_bytes: int
    resident_bytes: int  # sum of each process's own maximum
    seconds: float


def peak_of(command: list[str]) -> Peak:
    """Run a command and watch its memory.

    Args:
        command: ends by itself; anything but exit status 0 ends this program.
    """
    pss, resident = 0, dict[int, int]()
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            now = 0
            try:
                for member in [watched, *watched.children(recursive=True)]:
                    now += member.memory_full_info().pss
                    largest = _largest_resident(member.pid)
                    resident[member.pid] = max(resident.get(member.pid, 0), largest)
            except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied, OSError):
                pass  # one of them has just ended
            pss = max(pss, now)
            time.sleep(EVERY_S)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{command} failed:\n{log.read()[-3000:]}")
    return Peak(pss, sum(resident.values()), time.monotonic() - start)


def _largest_resident(pid: int) -> int:
    """Not getrusage: its maximum is inherited from the process that forked."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 if "VmHWM:" in status else 0


def measure(photographs: Path, output: Path) -> Peak:
    """One `controlset generate`; its output is deleted again."""
    command = [sys.executable, "-m", "benchmarks.contestants", "controlset"]
    try:
        return peak_of([*command, str(photographs), str(output)])
    finally:
        shutil.rmtree(output, ignore_errors=True)


def main() -> None:
    """Measure and print; exit status 1 where the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 8000])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "controlset-bench"
    )
    options = parser.parse_args()
    peaks: dict[int, list[Peak]] = {}
    for count in options.images:
        photographs = make_corpus(options.folder / f"photographs-{count}", count)
        for number in range(options.rounds):
            peaks.setdefault(count, []).append(measure(photographs, options.folder / "output"))
            print(
                f"{count} images, round {number + 1}: {peaks[count][-1].pss_bytes / 1e6:.0f} MB",
                file=sys.stderr,
            )
    print(f"1024x768 JPEG -> 512x512, Canny, {PROCESSES} workers; {options.rounds} rounds, median")
    print(f"on {machine()}\n")
    print("| images | peak PSS, MB | peak resident, MB | seconds |")
    print("|---|---|---|---|")
    middle = {
        count: Peak(*map(statistics.median, zip(*runs, strict=True)))
        for count, runs in peaks.items()
    }
    for count, peak in middle.items():
        print(
            f"| {count:,} | {peak.pss_bytes / 1e6:.0f} | {peak.resident_bytes / 1e6:.0f} "
            f"| {peak.seconds:.0f} |"
        )
    smallest, largest = middle[min(middle)], middle[max(middle)]
    ratio = largest.pss_bytes / smallest.pss_bytes
    print(f"\n{max(middle):,} images / {min(middle):,} images: {ratio:.3f}")
    if ratio > LARGEST_RATIO or largest.pss_bytes >= LARGEST_BYTES:
        raise SystemExit(f"need a ratio <= {LARGEST_RATIO} and less than {LARGEST_BYTES / 1e6} MB")


if __name__ == "__main__":
    main()
