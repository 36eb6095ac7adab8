"""Golden maps of one small photograph and one made person: `python -m tests.golden.pictures`.

Look at them after a change: right side up, colours in order, the person's right arm yellow, green.
"""

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from annotators.conditions.canny import CannySpec
from annotators.conditions.plain import GreySpec, ShuffleSpec, TileSpec
from annotators.conditions.pose.people import Keypoint, Person, drawn
from annotators.runtime import Runtime
from tests.annotators.pose.people import standing

FOLDER = Path(__file__).parent / "pictures"
SPECS = (CannySpec(), GreySpec(), TileSpec(factor=8), ShuffleSpec(seed=1))


def photograph() -> np.ndarray:
    """The astronaut's head, 160x160."""
    return np.ascontiguousarray(skimage.data.astronaut()[20:180, 140:300])


def golden() -> dict[str, np.ndarray]:
    """Name -> map."""
    maps = {spec.name: spec.load(Runtime())([photograph()], ["key"])[0].pixels for spec in SPECS}
    body = [
        Keypoint(x=x, y=y, score=0.9) for _, (x, y) in sorted(standing(20, 5, 120, 150).items())
    ]
    return maps | {"pose": drawn([Person(body=body)], 160, 160)}


def main() -> None:
    """Write them anew."""
    FOLDER.mkdir(exist_ok=True)
    for name, pixels in golden().items():
        Image.fromarray(pixels).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
