"""Pictures as a ControlNet might draw them, and what an edge detector makes of them."""

import cv2
import numpy as np
from PIL import Image


def edges(rgb):
    planes = (cv2.Canny(np.ascontiguousarray(rgb[..., channel]), 60, 120) for channel in range(3))
    return np.maximum.reduce(list(planes))


def scored(found, wanted):
    """F1 within one pixel, F1 and the ratio of densities."""
    kernel = np.ones((3, 3), np.uint8)
    numbers = []
    for near in (cv2.dilate(wanted, kernel), wanted):
        precision = (found[near > 0] > 0).sum() / max(1, (found > 0).sum())
        grown = cv2.dilate(found, kernel) if near is not wanted else found
        recall = (grown[wanted > 0] > 0).mean() if wanted.any() else 1.0
        numbers.append(float(2 * precision * recall / max(1e-9, precision + recall)))
    ratio = float((found > 0).sum() / max(1, (wanted > 0).sum()))
    return {"f1_1px": numbers[0], "f1": numbers[1], "density_ratio": ratio}


def shaken(rgb, rng, reach_px):
    """The picture with its outlines pulled about: what a ControlNet makes of it."""
    height, width = rgb.shape[:2]
    field = cv2.resize(rng.normal(0, reach_px, (5, 5, 2)), (width, height), None, 0, 0, 2)
    rows, columns = np.mgrid[:height, :width]
    where = np.stack([columns, rows], axis=-1) + field
    moved = cv2.remap(
        rgb, where.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return cv2.GaussianBlur(moved, (3, 3), 0)


def grainy(rgb, rng, noise):
    if not noise:
        return rgb
    return (rgb + rng.normal(0, noise, rgb.shape)).clip(0, 255).astype(np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)
