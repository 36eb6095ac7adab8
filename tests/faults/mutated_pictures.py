"""Mutants of pictures of all formats through the one decoder, in bounded processes.

`python -m tests.faults.mutated_pictures --count 100000 --processes 2` makes and decodes so many
and prints one JSON object: outcomes, crashes (with the number that makes the mutant again), the
slowest picture and the largest memory beyond the pixels that a picture declares. A mutant is a pure
function of its number.
"""

import argparse
import io
import json
import os
import random
import resource
import subprocess
import sys
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from tests.faults.bad_corpus import scene, valid_pictures

MOST_EXTRA_BYTES = 600_000_000
MOST_SECONDS = 5.0
PIXEL_BYTES = 12  # see schemas/pixels.py
_MAX_PIXELS = 20_000_000  # of the mutants: a claim of more is refused before anything happens
_PIECE = 2_000  # mutants a process
_INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFF, 0x7FFFFFFF, 0xFFFFFFFF, 65500, 10_000)


def originals() -> dict[str, bytes]:
    """Name -> bytes of whole pictures, small, in every format that is read."""
    rng = random.Random(0)
    files = valid_pictures(rng)
    picture = scene(rng)
    small = picture.resize((24, 18))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 50
    more = {
        "lines.tga": (picture, "TGA", {"compression": "tga_rle"}),
        "plain.tga": (small, "TGA", {}),
        "grey.pgm": (picture.convert("L"), "PPM", {}),
        "rgb.ppm": (small, "PPM", {}),
        "bits.pbm": (picture.convert("1"), "PPM", {}),
        "exif.png": (small, "PNG", {"exif": exif}),
        "exif.webp": (small, "WEBP", {"exif": exif}),
        "exif.tif": (small, "TIFF", {"exif": exif, "compression": "tiff_lzw"}),
        "exif.avif": (small, "AVIF", {"exif": exif, "speed": 10}),
        "tiles.jp2": (picture, "JPEG2000", {"tile_size": (32, 32), "irreversible": True}),
        "stream.j2k": (small, "JPEG2000", {"no_jp2": True}),
        "alpha.avif": (_with_alpha(small), "AVIF", {"speed": 10}),
        "alpha.jp2": (_with_alpha(small), "JPEG2000", {}),
    }
    for name, (one, kind, options) in more.items():
        buffer = io.BytesIO()
        one.save(buffer, kind, **options)
        files[name] = buffer.getvalue()
    return files


def _with_alpha(picture: Image.Image) -> Image.Image:
    rgba = picture.copy()
    rgba.putalpha(Image.linear_gradient("L").resize(picture.size))
    return rgba


def mutant(number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """A name that says what it was made from, and its bytes."""
    rng = random.Random(number)
    name = list(files)[number % len(files)]
    raw = bytearray(files[name])
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if len(raw) > 4:
            _CHANGES[rng.randrange(len(_CHANGES))](rng, raw, files)
    if name.endswith("png") and rng.random() < 0.8:
        _mend_sums(raw)  # or nothing behind the sums is ever reached
    return f"{number}-{name}", bytes(raw)


def _place(rng: random.Random, raw: bytearray) -> int:
    return rng.randrange(min(len(raw), 120)) if rng.random() < 0.5 else rng.randrange(len(raw))


def _flip(rng: random.Random, raw: bytearray, files: dict[str, bytes]) -> None:
    raw[_place(rng, raw)] ^= 1 << rng.randrange(8)


def _number(rng: random.Random, raw: bytearray, files: dict[str, bytes]) -> None:
    size = rng.choice((1, 2, 4, 4, 8))
    value = rng.choice((*_INTERESTING, rng.getrandbits(32))) & (1 << 8 * size) - 1
    at = _place(rng, raw)
    raw[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _cut(rng: random.Random, raw: bytearray, files: dict[str, bytes]) -> None:
    del raw[rng.randrange(1, len(raw)) :]


def _hole(rng: random.Random, raw: bytearray, files: dict[str, bytes]) -> None:
    at = _place(rng, raw)
    stop = min(len(raw), at + rng.choice((4, 16, 256)))
    raw[at:stop] = rng.choice((bytes(stop - at), b"\xff" * (stop - at), rng.randbytes(stop - at)))


def _double(rng: random.Random, raw: bytearray, files: dict[str, bytes]) -> None:
    start = _place(rng, raw)
    part = raw[start : start + rng.choice((2, 12, 64, 1000))]
    raw[start:start] = part * rng.choice((1, 2, 50))


def _drop(rng: random.Random, raw: bytearray, files: dict[str, bytes]) -> None:
    start = _place(rng, raw)
    del raw[start : start + rng.choice((1, 2, 12, 64))]


def _splice(rng: random.Random, raw: bytearray, files: dict[str, bytes]) -> None:
    other = files[rng.choice(list(files))]
    start = rng.randrange(len(other))
    at = _place(rng, raw)
    raw[at:at] = other[start : start + rng.choice((16, 200, 3000))]


_CHANGES = (_flip, _flip, _number, _number, _number, _cut, _hole, _double, _drop, _splice)


def _mend_sums(raw: bytearray) -> None:
    at = 8
    while at + 12 <= len(raw):
        end = at + 12 + int.from_bytes(raw[at : at + 4], "big")
        if end > len(raw):
            break
        raw[end - 4 : end] = zlib.crc32(raw[at + 4 : end - 4]).to_bytes(4, "big")
        at = end


def measured(raw: bytes, max_pixels: int = _MAX_PIXELS) -> dict[str, object]:
    """Decode one picture in this process: outcome, seconds, memory beyond its declared pixels."""
    from pipeline.images.decode import DecodeLimits, decode
    from pipeline.images.formats import source_header
    from schemas.errors import Rejected

    limits = DecodeLimits(max_pixels=max_pixels, min_side=1, max_aspect=1e9)
    pixels = 0
    try:
        header = source_header(raw)
        pixels = 0 if header is None else header.width * header.height
    except Rejected:
        pass
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = _memory("VmRSS"), time.process_time()
    try:
        decode(raw, limits=limits, smallest_useful=lambda *size: size)
        outcome = "row"
    except Rejected as rejected:
        outcome = str(rejected.reason)
    own = PIXEL_BYTES * pixels if pixels <= max_pixels else 0
    return {
        "outcome": outcome,
        "seconds": time.process_time() - start,
        "extra_bytes": _memory("VmHWM") - before - own,
    }


def _memory(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) * 1024


def bounded(limit_bytes: int) -> None:
    """Give this process so much address space beyond what it has."""
    limit = _memory("VmSize") + limit_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _child(start: int, stop: int, progress: str) -> None:
    files = originals()
    outcomes: Counter[str] = Counter()
    crashes, slowest, largest = [], (0.0, ""), (0, "")
    measured(files["baseline.jpg"])  # imports
    bounded(MOST_EXTRA_BYTES + PIXEL_BYTES * _MAX_PIXELS + 400_000_000)
    with open(progress, "wb", buffering=0) as place:
        for number in range(start, stop):
            place.seek(0)
            place.write(b"%012d" % number)
            name, raw = mutant(number, files)
            try:
                got = measured(raw)
            except Exception as error:  # noqa: BLE001  # that there is none is what is tested
                crashes.append(f"{name}: {type(error).__name__}: {error}"[:300])
                continue
            outcomes[f"{name.rpartition('.')[2]} {got['outcome']}"] += 1
            slowest = max(slowest, (got["seconds"], name))
            largest = max(largest, (got["extra_bytes"], name))
    print(
        json.dumps(
            {"outcomes": outcomes, "crashes": crashes, "slowest": slowest, "largest": largest}
        )
    )


def run(count: int, *, first: int = 0, processes: int = 1) -> dict[str, object]:
    """Decode mutants `first` to `first + count` in bounded processes; the sums."""
    outcomes: Counter[str] = Counter()
    crashes: list[str] = []
    slowest, largest = (0.0, ""), (0, "")
    pieces = [
        (start, min(first + count, start + _PIECE)) for start in range(first, first + count, _PIECE)
    ]
    begin = time.monotonic()
    with ThreadPoolExecutor(processes) as pool:
        for report in pool.map(lambda piece: _piece(*piece), pieces):
            outcomes.update(report["outcomes"])
            crashes += report["crashes"]
            slowest = max(slowest, tuple(report["slowest"]))
            largest = max(largest, tuple(report["largest"]))
    return {
        "mutants": sum(outcomes.values()) + len(crashes),
        "crashes": crashes,
        "slowest": slowest,
        "largest": largest,
        "seconds": round(time.monotonic() - begin, 1),
        "outcomes": dict(sorted(outcomes.items())),
    }


def _piece(start: int, stop: int) -> dict[str, object]:
    progress = f"/tmp/mutants-{os.getpid()}-{start}"
    try:
        finished = subprocess.run(
            [
                *(sys.executable, "-m", "tests.faults.mutated_pictures", "--child", progress),
                *("--first", str(start), "--count", str(stop - start)),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if finished.returncode == 0:
            return json.loads(finished.stdout)
        died_at = int(Path(progress).read_bytes() or b"-1")
    finally:
        Path(progress).unlink(missing_ok=True)
    died = f"{died_at}: the process ended with {finished.returncode}: {finished.stderr[-300:]}"
    rest = _piece(died_at + 1, stop) if start <= died_at < stop - 1 else {}
    return {
        "outcomes": rest.get("outcomes", {}),  # those before it in this piece are not counted
        "crashes": [died, *rest.get("crashes", [])],
        "slowest": rest.get("slowest", (0.0, "")),
        "largest": rest.get("largest", (0, "")),
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child(given.first, given.first + given.count, given.child)
        return
    report = run(given.count, first=given.first, processes=given.processes)
    print(json.dumps(report, indent=1))
    fine = (
        not report["crashes"]
        and report["slowest"][0] <= MOST_SECONDS
        and report["largest"][0] <= MOST_EXTRA_BYTES
    )
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    _main()
