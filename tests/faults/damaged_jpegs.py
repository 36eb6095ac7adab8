"""How many damaged JPEGs become rows, and how many good ones are rejected.

`python -m tests.faults.damaged_jpegs --mutants 3000 --good 10000` prints both as JSON. A picture is
visibly damaged if over 1 % of its pixels differ by more than 32 grey levels from the undamaged
one's. Mutants and good ones are pure functions of their number. The good ones come from photographs
and from what is hardest to tell from damage: edges on the grid of blocks, black, white, gradients.
"""

import argparse
import io
import json
import random
import sys
from collections import Counter

import cv2
import numpy as np
import simplejpeg
import skimage
from PIL import Image, ImageDraw

from pipeline.images.decode import DecodeLimits, decode
from schemas.errors import Rejected

LIMITS = DecodeLimits(max_pixels=10**8, min_side=1, max_aspect=1e9)
VISIBLE_LEVELS, VISIBLE_SHARE = 32, 0.01
ENCODINGS: tuple[dict[str, int], ...] = (
    {},
    {"progressive": True},
    {"optimize": True},
    {"subsampling": 0},
    {"restart_marker_rows": 1},
)
DAMAGES = ("cut", "cut, end mark kept", "hole", "large hole", "one bit", "eight bits")


def photographs() -> list[Image.Image]:
    """Real photographs that scikit-image brings along; RGB."""
    names = (skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee, skimage.data.rocket)
    return [Image.fromarray(np.asarray(name())) for name in names]


def hard_pictures() -> list[Image.Image]:
    """Pictures whose true edges, clipped areas or gradients could be taken for damage; RGB."""
    pictures = photographs()
    for photograph in photographs():
        pixels = np.asarray(photograph).astype(np.float32)
        for gain, shift in ((2.2, 0), (1, -110), (1, 120)):  # over- and underexposed, and pale
            pictures.append(Image.fromarray(np.clip(pixels * gain + shift, 0, 255).astype("u1")))
        for paper in ("white", "black"):
            page = Image.new("RGB", (640, 480), paper)
            page.paste(photograph.resize((240, 208)), (160, 128))
            pictures.append(page)
    grey = (skimage.data.camera(), skimage.data.page(), skimage.data.text(), skimage.data.clock())
    pictures += [Image.fromarray(one).convert("RGB").resize((640, 400)) for one in grey]
    across, down = np.meshgrid(np.linspace(0, 255, 640), np.linspace(0, 255, 480))
    rings = 127.5 + 127.5 * np.sin((across**2 + down**2) / 900)
    bands = down // 32 * 32  # as high as blocks
    for planes in ((across, down, 255 - across), (bands, bands, bands), (rings, rings, rings)):
        pictures.append(Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8)))
    pictures.append(Image.fromarray(np.where(rings > 127, across, 255).astype(np.uint8)))
    return [picture.convert("RGB") for picture in [*pictures, *_drawn()]]


def _drawn() -> list[Image.Image]:
    """A page of text, a window with bars on the grid of blocks, a chart, stripes, a silhouette."""
    drawn = []
    for ink, paper in (("black", "white"), ("white", "black"), ((40, 60, 120), (240, 240, 250))):
        page = Image.new("RGB", (640, 480), paper)
        draw = ImageDraw.Draw(page)
        for line in range(8, 480, 16):
            draw.text((10, line), "the quick brown fox, again and again; " * 4, fill=ink)
        drawn.append(page)
        window = page.copy()
        draw = ImageDraw.Draw(window)
        draw.rectangle((0, 0, 639, 31), fill=(40, 60, 120))
        draw.rectangle((160, 32, 639, 47), fill=(40, 60, 120))  # a bar with a notch: a staircase
        draw.rectangle((0, 448, 639, 479), fill=(20, 20, 20))
        draw.rectangle((320, 128, 575, 383), fill=(250, 250, 250), outline=(120, 120, 120))
        drawn.append(window)
        chart = Image.new("RGB", (640, 480), paper)
        draw = ImageDraw.Draw(chart)
        for bar in range(16):
            draw.rectangle((16 + 38 * bar, 470 - 29 * bar, 40 + 38 * bar, 470), fill=(200, 80, 30))
            draw.line((0, 30 * bar, 639, 30 * bar), fill=ink)
        drawn.append(chart)
        stripes = Image.new("RGB", (640, 480), paper)
        draw = ImageDraw.Draw(stripes)
        for row in range(0, 480, 32):
            draw.rectangle((0, row, 8 * (row % 77), row + 15), fill=ink)
        drawn.append(stripes)
        blot = Image.new("RGB", (640, 480), paper)
        ImageDraw.Draw(blot).ellipse((80, 60, 560, 420), fill=ink)
        drawn.append(blot)
    return drawn


def good(number: int, pictures: list[Image.Image]) -> bytes:
    """A whole JPEG of some encoder, with some of its options; odd sizes, trailing bytes.

    One in four has been a JPEG before, so that another grid of blocks lies in it.
    """
    rng = random.Random(number)
    picture = rng.choice(pictures)
    if rng.random() < 0.25:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=rng.randrange(10, 90))
        picture = Image.open(buffer).convert("RGB")
    width, height = rng.randrange(17, 320), rng.randrange(17, 320)
    left, top = (
        rng.randrange(picture.width - width + 1),
        rng.randrange(max(1, picture.height - height + 1)),
    )
    picture = picture.crop((left, top, left + width, min(picture.height, top + height)))
    quality = rng.randrange(20, 101)
    encoder = rng.choice(("pillow", "opencv", "simplejpeg"))
    if encoder == "pillow":
        buffer = io.BytesIO()
        picture = picture.convert(rng.choice(("RGB", "RGB", "L", "CMYK")))
        options = {"quality": quality, "optimize": rng.random() < 0.3}
        options["progressive"] = rng.random() < 0.4
        if picture.mode == "RGB":
            options["subsampling"] = rng.choice((0, 1, 2))
        if rng.random() < 0.3:
            options["restart_marker_blocks"] = rng.randrange(1, 50)
        picture.save(buffer, "JPEG", **options)
        raw = buffer.getvalue()
    elif encoder == "opencv":
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, rng.randrange(2)]
        options += [cv2.IMWRITE_JPEG_PROGRESSIVE, rng.randrange(2)]
        options += [cv2.IMWRITE_JPEG_RST_INTERVAL, rng.choice((0, 0, 1, 9))]
        raw = cv2.imencode(".jpg", np.asarray(picture)[..., ::-1], options)[1].tobytes()
    else:
        raw = simplejpeg.encode_jpeg(
            np.ascontiguousarray(picture),
            quality=quality,
            colorsubsampling=rng.choice(("444", "422", "420", "440", "411")),
        )
    padding = rng.choice((b"", b"", b"\0" * rng.randrange(1, 40), b"\xff" * rng.randrange(1, 9)))
    behind = rng.choice((b"", b"", bytes(rng.randrange(1, 500)), rng.randbytes(20)))
    return raw[:-2] + padding + raw[-2:] + behind


def damaged(number: int, pictures: list[Image.Image]) -> tuple[str, bytes, bytes]:
    """(what was done, the whole JPEG, the damaged one)."""
    rng = random.Random(number)
    options = rng.choice(
        (
            {},
            {"progressive": True},
            {"optimize": True},
            {"subsampling": 0},
            {"restart_marker_rows": 1},
        )
    )
    buffer = io.BytesIO()
    picture = rng.choice(pictures)
    picture.save(buffer, "JPEG", quality=rng.choice((60, 75, 85, 90, 95)), **options)
    whole = buffer.getvalue()
    scan = whole.index(b"\xff\xda") + 14
    raw, at = bytearray(whole), rng.randrange(scan, len(whole) - 2)
    what = DAMAGES[number % len(DAMAGES)]
    if what.startswith("cut"):
        raw = raw[:at] + (b"\xff\xd9" if "kept" in what else b"")
    elif what.endswith("hole"):
        size = rng.choice((512, 4096) if "large" in what else (16, 64))
        raw[at : at + size] = bytes(len(raw[at : at + size]))
    else:
        for place in [at, *(rng.randrange(scan, len(raw) - 2) for _ in range(7))][
            : 8 if "eight" in what else 1
        ]:
            raw[place] ^= 1 << rng.randrange(8)
    return what, whole, bytes(raw)


def outcome(raw: bytes) -> str:
    """`row`, or the reason."""
    try:
        decode(raw, limits=LIMITS, smallest_useful=lambda *size: size)
    except Rejected as rejected:
        return str(rejected.reason)
    return "row"


def is_visible(whole: bytes, raw: bytes) -> bool:
    """Whether the damage shows in what a decoder makes of the picture."""
    before, after = (_pixels(one) for one in (whole, raw))
    if after is None or before is None or after.shape != before.shape:
        return True
    far = np.abs(after.astype(np.int16) - before).max(axis=-1) > VISIBLE_LEVELS
    return bool(far.mean() > VISIBLE_SHARE)


def _pixels(raw: bytes) -> np.ndarray | None:
    try:
        return simplejpeg.decode_jpeg(raw, "RGB", fastdct=False, fastupsample=False, strict=False)
    except ValueError:
        return None


def measure_damage(count: int) -> dict[str, object]:
    """Visibly damaged pictures, and how many of them became rows, of each kind of damage."""
    pictures = photographs()
    visible: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for number in range(count):
        what, whole, raw = damaged(number, pictures)
        if raw != whole and is_visible(whole, raw):
            visible[what] += 1
            passed[what] += outcome(raw) == "row"
    share = sum(passed.values()) / max(1, sum(visible.values()))
    return {"visible": dict(visible), "became rows": dict(passed), "share": round(share, 4)}


def measure_good(count: int) -> list[str]:
    """Good pictures that were rejected, with their numbers."""
    pictures = hard_pictures()
    outcomes = ((number, outcome(good(number, pictures))) for number in range(count))
    return [f"{number}: {one}" for number, one in outcomes if one != "row"]


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=2_000)
    parser.add_argument("--good", type=int, default=10_000)
    given = parser.parse_args()
    rejected = measure_good(given.good)
    report = {"damaged": measure_damage(given.mutants), "good": given.good, "rejected": rejected}
    print(json.dumps(report, indent=1))
    sys.exit(bool(rejected))


if __name__ == "__main__":
    _main()
