"""The drawn truth as what pictures are held to, instead of a map that an annotator drew.

`controlset draw DIR` leaves it beside its pictures. Samples are still seen through the annotator,
and so is the original picture: how far that is from the truth is the annotator's own error.
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from controlnet.evaluator.examples import JudgedRow
from controlnet.evaluator.metrics.base import Seen
from controlnet.nano.world.folder import COCO_JOINTS, PEOPLE, PICTURES, TRUTH
from schemas.documents import read_json
from schemas.errors import ConfigError
from schemas.pixels import decode_stored_map

MAPS: Mapping[str, str] = {
    **dict.fromkeys(("canny", "hed", "softedge"), "boundaries"),
    "depth": "depth",
    "normal": "normals",
    "pose": "",  # joints are no map
    "segmentation": "classes",
}
"""Condition -> folder below `truth/`."""

FLAG = "--judge truth"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DrawnTruth:
    """What is true of the picture that a row was made from."""

    folder: Path  # that `controlset draw` made
    condition: str
    colors_C3: np.ndarray | None = None  # uint8; of the world's classes, for a segmentation
    people: Mapping[str, Sequence[Mapping[str, Any]]] = dataclasses.field(default_factory=dict)

    def __call__(self, row: JudgedRow) -> Seen:
        """The truth in the form of the condition's maps: boundaries white, near things bright."""
        if self.condition == "pose":
            found = self.people.get(row.source, ())
            return Seen(pixels=row.wanted.pixels, stats={"keypoints": found})
        pixels = decode_stored_map(self.path(row).read_bytes())
        if self.condition == "depth":  # stored in mm; maps hold inverse depth
            pixels = np.rint(65535 * (pixels.min() / pixels.astype(np.float64))).astype(np.uint16)
        if self.condition == "segmentation":
            assert self.colors_C3 is not None
            pixels = self.colors_C3[pixels]
        return Seen(pixels=pixels, stats={})

    def path(self, row: JudgedRow) -> Path:
        """File with the truth of a row; of poses all of them are in one."""
        place = self.folder / TRUTH
        return (
            place / PEOPLE
            if self.condition == "pose"
            else (place / MAPS[self.condition] / row.source)
        )

    def check(self, rows: Sequence[JudgedRow]) -> None:
        """Refuse rows that were not made from these pictures, pixel for pixel.

        Raises:
            ConfigError: names the first one.
        """
        for row in rows:
            picture = self.folder / PICTURES / row.source
            try:
                raw = picture.read_bytes()
                self.path(row).stat()
            except OSError as error:
                raise ConfigError(
                    f"{FLAG}={self.folder}: need the picture that row {row.key} was made from, and "
                    f"its truth, got {error}; name the folder that `controlset draw` made"
                ) from error
            if hashlib.sha256(raw).hexdigest() != row.sha256:
                raise ConfigError(
                    f"{FLAG}={self.folder}: need the picture that row {row.key} was made from, got "
                    f"another {picture}; name the folder that this set was made from"
                )
            with Image.open(io.BytesIO(raw)) as opened:  # reads the header alone
                width, height = opened.size
            if (width, height) != row.size:
                raise ConfigError(
                    f"{FLAG}={self.folder}: need rows of the drawn size, {width}x{height} px, got "
                    f"{row.size[0]}x{row.size[1]} of {row.key}; generate with --resolution {width} "
                    f"--min-side {width}"
                )


def drawn_truth(folder: Path, condition: str, palette_C3: np.ndarray | None) -> DrawnTruth:
    """The truth of a condition.

    Args:
        folder: that `controlset draw` made.
        condition: its name.
        palette_C3: (C, 3) uint8, of ADE20K's classes, if it is a segmentation.

    Raises:
        ConfigError: no such folder, or a condition of which nothing true is drawn.
    """
    if condition not in MAPS:
        raise ConfigError(
            f"{FLAG}: need a condition whose truth is drawn ({', '.join(sorted(MAPS))}), got "
            f"{condition!r}; judge it without truth"
        )
    if not (folder / TRUTH).is_dir():
        raise ConfigError(
            f"{FLAG}: need the folder that `controlset draw` made, found no {folder / TRUTH}; say "
            "where it lies with --judge truth=DIR"
        )
    new = functools.partial(DrawnTruth, folder=folder, condition=condition)
    if condition == "pose":
        return new(people=_people(folder / TRUTH / PEOPLE))
    if condition == "segmentation":
        from controlnet.nano.eyes.segmentation import LABELS  # transformers
        from controlnet.nano.world import CLASSES

        assert palette_C3 is not None
        return new(colors_C3=palette_C3[[LABELS[name] for name in CLASSES]])
    return new()


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _Person(msgspec.Struct):
    image_id: int
    keypoints: list[float]


class _People(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Person]


def _people(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Picture -> its people."""
    said = read_json(path, _People, advice="draw it again")
    names = {image.id: image.file_name for image in said.images}
    people: dict[str, list[dict[str, Any]]] = {}
    for person in said.annotations:
        joints_J3 = np.reshape(person.keypoints, (-1, 3))
        people.setdefault(names[person.image_id], []).append(person_of(COCO_JOINTS, joints_J3))
    return people


def person_of(names: Sequence[str], joints_J3: np.ndarray) -> dict[str, Any]:
    """A drawn person as a data set stores one; joints outside of the picture are absent.

    Args:
        names: of the joints.
        joints_J3: x, y (px) and visibility; 0 is outside.
    """
    joints = zip(names, joints_J3.tolist(), strict=True)
    return {
        "body": [
            {"name": name, "x": x, "y": y, "score": 1.0} for name, (x, y, seen) in joints if seen
        ]
    }
