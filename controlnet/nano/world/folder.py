"""Scenes as a folder: pictures with captions, and the truth beside them."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from controlnet.nano.world.drawing import Drawn, DrawnPerson, draw
from controlnet.nano.world.layout import make_scene
from controlnet.nano.world.people import JOINTS, SKELETON
from controlnet.nano.world.scene import CLASSES, FAR_M
from controlnet.nano.world.words import WORDINGS, Facts, PersonFacts, caption, facts
from schemas.pixels import MapU16, RgbU8, encode_bilevel_png, encode_map_png

PICTURES = "images"
"""Folder of the pictures and their captions: what `controlset generate` takes."""

TRUTH = "truth"
PEOPLE = "people.json"
SHEET = "contact-sheet.png"
_FACTS = "facts.jsonl"

COCO_JOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    *("left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
"""COCO's 17 joints in COCO's order: OpenPose's without the neck."""

_BONES = (
    *((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9)),
    *((8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)),
)
_SHEET_ROWS = 8


def write_scenes(
    folder: Path,
    count: int,
    *,
    size_px: int,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Draw scenes 0 to `count` - 1 of a world and write them with all that is true of them.

    Args:
        folder: is made; nothing is there yet.
        count: of scenes, 1 or more.
        size_px: side of the pictures.
        seed: of the world.
        on_progress: is told how many are done, and of how many.
    """
    pictures, truth = folder / PICTURES, folder / TRUTH
    for part in (pictures, *(truth / name for name in _MAPS)):
        part.mkdir(parents=True)
    people: list[dict[str, Any]] = []
    listed: list[dict[str, Any]] = []
    shown: list[Drawn] = []
    with (
        (pictures / "metadata.jsonl").open("w", encoding="utf-8") as metadata,
        (truth / _FACTS).open("w", encoding="utf-8") as told,
    ):
        for number in range(count):
            scene = make_scene(seed, number)
            drawn = draw(scene, size_px)
            name = f"{number:06d}.png"
            (pictures / name).write_bytes(encode_map_png(drawn.rgb))
            for kind, encoded in _MAPS.items():
                (truth / kind / name).write_bytes(encoded(drawn))
            captions = [caption(scene, wording) for wording in range(WORDINGS)]
            line = {"file_name": name, "text": captions[number % WORDINGS], "captions": captions}
            metadata.write(json.dumps(line) + "\n")
            told.write(json.dumps({"file_name": name} | _as_json(facts(scene))) + "\n")
            listed.append({"id": number, "file_name": name, "width": size_px, "height": size_px})
            people += _annotations(drawn, number, first=len(people) + 1)
            if len(shown) < _SHEET_ROWS:
                shown.append(drawn)
            on_progress(number + 1, count)
    (truth / PEOPLE).write_text(json.dumps(_coco(listed, people)) + "\n", encoding="utf-8")
    Image.fromarray(contact_sheet(shown)).save(folder / SHEET)
    words = _README.format(
        count=f"{count:,}",
        size=size_px,
        seed=seed,
        wordings=WORDINGS,
        far=FAR_M,
        classes=", ".join(f"{number} {word}" for number, word in enumerate(CLASSES)),
    )
    (folder / "README.md").write_text(words, encoding="utf-8")


def depth_mm(drawn: Drawn) -> MapU16:
    """Depth as it is stored: millimetres."""
    return np.rint(drawn.depth_m * 1000).astype(np.uint16)


def normal_colors(drawn: Drawn) -> RgbU8:
    """Normals as colours: (normal + 1) / 2."""
    return np.rint((drawn.normals + 1) * 127.5).astype(np.uint8)


_MAPS: dict[str, Callable[[Drawn], bytes]] = {
    "depth": lambda drawn: encode_map_png(depth_mm(drawn)),
    "normals": lambda drawn: encode_map_png(normal_colors(drawn)),
    "instances": lambda drawn: encode_map_png(drawn.instances),
    "classes": lambda drawn: encode_map_png(drawn.classes),
    "boundaries": lambda drawn: encode_bilevel_png(drawn.boundaries.astype(np.uint8) * 255),
}


def _as_json(said: Facts) -> dict[str, Any]:
    things = [
        {"shape": "person"} | dataclasses.asdict(thing)
        if isinstance(thing, PersonFacts)
        else dataclasses.asdict(thing)
        for thing in said.things
    ]
    return dataclasses.asdict(said) | {"things": things}


# people, as COCO has them ------------------------------------------------------------------------


def _coco(listed: list[dict[str, Any]], people: list[dict[str, Any]]) -> dict[str, Any]:
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(COCO_JOINTS),
        "skeleton": [list(bone) for bone in _BONES],
    }
    return {"images": listed, "annotations": people, "categories": [category]}


def _annotations(drawn: Drawn, number: int, first: int) -> Iterator[dict[str, Any]]:
    for offset, person in enumerate(drawn.people):
        joints = {name: _rounded(row) for name, row in zip(JOINTS, person.joints, strict=True)}
        left, top, right, bottom = person.box
        yield {
            "id": first + offset,
            "image_id": number,
            "category_id": 1,
            "instance": person.instance,
            "keypoints": [value for name in COCO_JOINTS for value in joints[name]],
            "num_keypoints": sum(joints[name][2] > 0 for name in COCO_JOINTS),
            "neck": joints["neck"],
            "bbox": [left, top, right - left, bottom - top],
            "area": int((drawn.instances == person.instance).sum()),
            "iscrowd": 0,
        }


def _rounded(row: np.ndarray) -> list[float | int]:
    x, y, seen = row.tolist()
    return [round(x, 2), round(y, 2), int(seen)]


# to look at --------------------------------------------------------------------------------------

_RIGHT, _LEFT = (255, 120, 90), (90, 220, 130)


def contact_sheet(shown: Sequence[Drawn], side_px: int = 192) -> RgbU8:
    """A row for each picture: RGB, nearness, normals, instances, boundaries, joints.

    Args:
        shown: what was drawn.
        side_px: of each picture on the sheet.
    """
    return np.concatenate([_sheet_row(drawn, side_px) for drawn in shown])


def _sheet_row(drawn: Drawn, side_px: int) -> RgbU8:
    nearness = 1 / drawn.depth_m
    grey = np.rint(255 * np.clip(nearness / nearness.max(), 0, 1)).astype(np.uint8)
    palette = np.random.default_rng(3).integers(70, 255, (256, 3)).astype(np.uint8)
    palette[0] = 0
    edges = drawn.boundaries.astype(np.uint8) * 255
    pictures = (drawn.rgb, grey, normal_colors(drawn), palette[drawn.instances], edges)
    enlarged = [
        np.asarray(Image.fromarray(picture).resize((side_px, side_px), Image.Resampling.NEAREST))
        for picture in pictures
    ]
    row = [
        pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        for pixels in enlarged
    ]
    row.append(_with_joints(row[0], drawn.people, side_px / drawn.rgb.shape[0]))
    return np.concatenate(row, axis=1)


def _with_joints(rgb: RgbU8, people: Sequence[DrawnPerson], scale: float) -> RgbU8:
    """Skeletons: the person's right in red, the left in green; hidden joints are rings."""
    canvas = np.ascontiguousarray(rgb // 2)
    for person in people:
        points = [tuple(int(value * scale) for value in row[:2]) for row in person.joints]
        seen = person.joints[:, 2]
        for one, other in SKELETON[:-2]:
            if seen[one] and seen[other]:
                color = _RIGHT if JOINTS[max(one, other)].startswith("right") else _LEFT
                cv2.line(canvas, points[one], points[other], color, 1, cv2.LINE_AA)
        for point, how in zip(points, seen, strict=True):
            if how:
                cv2.circle(canvas, point, 2, (255, 240, 120), -1 if how == 2 else 1)
    return canvas


_README = """\
# {count} drawn scenes, with what is true of them

Pictures of {size} x {size} px, drawn by `controlset draw` with seed {seed}. Everything is exact: it
comes from the same pass as the pixels. `contact-sheet.png` shows the first scenes.

| file | holds |
|---|---|
| `images/000000.png` | the picture, RGB |
| `images/metadata.jsonl` | a line a picture: `file_name`, one caption (`text`), all (`captions`) |
| `truth/depth/` | 16-bit PNG: millimetres along the view; the sky is {far:.0f} m away |
| `truth/normals/` | RGB PNG: (normal + 1) / 2; x right, y up, z to the viewer; the sky is grey |
| `truth/instances/` | 8-bit PNG: 0 for background, else the number of the thing |
| `truth/classes/` | 8-bit PNG: numbers of the words below |
| `truth/boundaries/` | 1-bit PNG: where one thing ends before another, 1 px on the nearer side |
| `truth/people.json` | people in COCO's format: box and 17 joints; beside them the neck |
| `truth/facts.jsonl` | a line a picture: place, things and relations, as its captions say them |

Classes: {classes}.

Joints are x and y in pixels from the upper left corner, and 2 for seen, 1 for hidden, 0 for outside
the picture. Left and right are the picture's, but of sleeves and joints the person's own.
Each of the {wordings} wordings of a caption says all facts.

    controlset generate images --output set --conditions canny --resolution {size} --min-side {size}
"""
