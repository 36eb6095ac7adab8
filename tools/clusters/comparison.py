"""What two runners are compared by: pictures to make a set of, and the hashes of what they made."""

import hashlib

import numpy as np
from PIL import Image

SHARDS = 10


def write_pictures(folder):
    """100 pictures that take a while: large, to be made small."""
    folder.mkdir()
    for number in range(10 * SHARDS):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).resize((900, 900)).save(folder / f"{number:03d}.jpg", quality=92)


def hashes(folder):
    """Relative path -> sha256 of every file, hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
