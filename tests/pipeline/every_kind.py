"""Hand-made rows with a column of every kind: 1-bit, grey, 16-bit, RGB, nested, null."""

import cv2
import numpy as np

from annotators.captions import BlipSpec
from annotators.conditions.canny import CannySpec
from annotators.conditions.depth import DepthSpec
from annotators.conditions.mlsd import MlsdSpec
from annotators.conditions.plain import TileSpec, tile
from annotators.conditions.pose.openpose import OPENPOSE_BODY
from annotators.conditions.soft_edges import SoftedgeSpec
from annotators.protocol import weights_of
from annotators.registry import record_of, record_of_captioner
from annotators.weights import WeightsRecord
from schemas.pixels import encode_bilevel_png, encode_map_png
from tests.pipeline.handmade import row_of

DEPTH = DepthSpec(bits=16)
CAPTIONER = BlipSpec()


def recorded(weights):
    """Records as of weights that were found, with an invented hash."""
    return [
        WeightsRecord(source=one.hub_id, file=one.file, sha256="5a" * 32, licence=one.licence)
        for one in weights
    ]


POSE = {
    "revision": 1,
    "parameters": {"parts": ["hands"], "keep_empty": False, "precision": "fp32"},
    "hint_mode": "rgb",
    "hint_range": [0, 1],
    "color_order": "RGB",
    "stats": {"people": "int32", "visible_joints": "int32", "keypoints": "people"},
    "weights": [
        {"source": one.source, "file": one.file, "sha256": one.sha256, "licence": one.licence}
        for one in recorded([OPENPOSE_BODY])
    ],
    "licence": "Apache-2.0 (controlnet-aux)",
}

EVERY_KIND = {
    spec.name: record_of(spec, recorded(weights_of(spec)))
    for spec in (CannySpec(), SoftedgeSpec(), MlsdSpec(), DEPTH, TileSpec())
} | {"pose": POSE}

CAPTIONED = record_of_captioner(CAPTIONER, recorded(weights_of(CAPTIONER)))


def cell(stored):
    return {"bytes": stored, "path": "x.png"}


def soft_edges(rgb):
    """Blurred edges on black, as a network would draw them."""
    edges = cv2.Canny(rgb, 100, 200)
    return np.maximum(cv2.GaussianBlur(edges, (0, 0), 1.0), edges)


def person(joints, hands=0):
    """Somebody of whom so many joints were seen."""

    def seen(count):
        return [
            {"name": f"joint {n}", "x": 10.0 + n, "y": 20.0 + n, "score": 0.5} for n in range(count)
        ]

    return {"body": seen(joints), "left_hand": seen(hands), "right_hand": [], "face": []}


def pose_columns(people, rgb):
    """Columns of a pose map with these people; nulls where there is nobody."""
    if not people:
        return dict.fromkeys(("pose", "pose_people", "pose_visible_joints", "pose_keypoints"))
    drawn = np.zeros_like(rgb)
    for number, one in enumerate(people):
        x = 20 + 30 * number
        cv2.line(drawn, (x, 10), (x, 20 + 4 * len(one["body"])), (255, 85, 0), 3)
    return {
        "pose": cell(encode_map_png(drawn)),
        "pose_people": len(people),
        "pose_visible_joints": sum(len(one["body"]) for one in people),
        "pose_keypoints": people,
    }


def row_of_every_kind(rgb, source, text="a photograph", people=(), **changes):
    """A stored row with a map of every kind; `changes` replace any column."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    soft = soft_edges(rgb)
    lines = np.zeros_like(grey)
    cv2.line(lines, (0, 5), (grey.shape[1], 90), 255, 1)
    cv2.line(lines, (5, 0), (60, grey.shape[0]), 255, 1)
    columns = {
        "softedge": cell(encode_map_png(soft)),
        "softedge_edge_density": float((soft >= 128).mean()),
        "softedge_mean": float(soft.mean()) / 255,
        "mlsd": cell(encode_bilevel_png(lines)),
        "mlsd_lines": 2,
        "mlsd_edge_density": float((lines > 0).mean()),
        "depth": cell(encode_map_png(grey.astype(np.uint16) * 257)),
        "depth_min": 1.5,
        "depth_max": 11.5,
        "depth_flat": False,
        "tile": cell(encode_map_png(tile(rgb, factor=4))),
        **pose_columns(people, rgb),
    }
    return row_of(rgb, source, text) | columns | changes
