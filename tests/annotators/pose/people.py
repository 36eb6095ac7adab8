"""Synthetic people: joints, and the network output that would have found them."""

import numpy as np

from annotators.conditions.pose.openpose import _FIELDS, _LIMBS

# A person that stands and faces the camera: its right is on the image's left. Relative to a box.
STANDING = {
    0: (0.50, 0.10), 1: (0.50, 0.22), 2: (0.36, 0.24), 3: (0.28, 0.38), 4: (0.24, 0.52),
    5: (0.64, 0.24), 6: (0.72, 0.38), 7: (0.76, 0.52), 8: (0.42, 0.54), 9: (0.40, 0.74),
    10: (0.39, 0.94), 11: (0.58, 0.54), 12: (0.60, 0.74), 13: (0.61, 0.94), 14: (0.47, 0.08),
    15: (0.53, 0.08), 16: (0.43, 0.10), 17: (0.57, 0.10),
}  # fmt: skip


def standing(left, top, width, height, without=()):
    """Joint -> (x, y) px."""
    return {
        joint: (left + x * width, top + y * height)
        for joint, (x, y) in STANDING.items()
        if joint not in without
    }


def answers(people, height, width, grid):
    """Heat maps (19, h, w) and affinity fields (38, h, w) of a network that sees these people."""
    rows, columns = np.mgrid[: grid[0], : grid[1]].astype(np.float64)
    scale = (width / grid[1], height / grid[0])
    heat, field = np.zeros((19, *grid)), np.zeros((38, *grid))
    for person in people:
        small = {
            joint: ((x + 0.5) / scale[0] - 0.5, (y + 0.5) / scale[1] - 0.5)
            for joint, (x, y) in person.items()
        }
        for joint, (x, y) in small.items():
            blob = 0.9 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2)
            heat[joint] = np.maximum(heat[joint], blob)
        for (start, end), channels in zip(_LIMBS, _FIELDS, strict=True):
            if start in small and end in small:
                _draw_limb(field, channels, small[start], small[end], rows, columns)
    return heat.astype(np.float32), field.astype(np.float32)


def _draw_limb(field, channels, start, end, rows, columns):
    vector = np.subtract(end, start)
    length = max(float(np.hypot(*vector)), 1e-6)
    unit = vector / length
    along = (columns - start[0]) * unit[0] + (rows - start[1]) * unit[1]
    beside = np.abs((columns - start[0]) * unit[1] - (rows - start[1]) * unit[0])
    near = (along > -1) & (along < length + 1) & (beside < 1.2)
    for channel, part in zip(channels, unit, strict=True):
        field[channel][near] = part
