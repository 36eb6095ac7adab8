import json

import cv2
import numpy as np
import pytest

from controlnet.trainer.curves import draw_curves
from controlnet.trainer.journal import METRICS, PROBES
from controlnet.trainer.probe import Bounds

STEPS = (0, 500, 250_000)


def drawn(folder, size):
    """`curves.png` of a run whose numbers are of a size, grey."""
    probes = [
        {
            "step": step,
            "loss_bins": [size * (3 - number)],
            "gain": size * number,
            "zero_norms": [size * number, size],
            "adherence": 0.3 * number,
            "shuffled": 0.1,
        }
        for number, step in enumerate(STEPS)
    ]
    metrics = [{"step": step, "loss": size * 1.3} for step in STEPS]
    for name, lines in ((PROBES, probes), (METRICS, metrics)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    bounds = Bounds(floor=0.1, ceiling=0.9)
    draw_curves(folder, bounds=bounds, snap=500, judge="canny F1 (1 px)")
    return cv2.imread(str(folder / "curves.png"), cv2.IMREAD_GRAYSCALE)


@pytest.mark.parametrize("size", [1e-7, 0.0123, 1.0, 1e4])
def test_no_text_is_cut_off_however_small_or_large_the_numbers(tmp_path, size):
    picture = drawn(tmp_path, size)
    border = [picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]]
    assert all((edge == 255).all() for edge in border)
    # between the upper panels' labels and the lower ones' titles there is air
    middle = (picture[330:450] == 255).all(axis=1)
    assert np.any(middle)
