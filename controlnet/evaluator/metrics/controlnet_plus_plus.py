"""What ControlNet++'s evaluation looks with, for numbers that can be held against its table."""

import numpy as np
import torch

from controlnet.evaluator.metrics.base import Seen
from schemas.errors import ConfigError
from schemas.pixels import RgbU8

LOW, HIGH = 0.1, 0.2


def kornia_canny(picture: RgbU8) -> Seen:
    """Edges as `eval/eval_edge.py` of ControlNet++ extracts them: kornia, thresholds on [0, 1].

    Args:
        picture: (H, W, 3) uint8.

    Returns:
        (H, W) uint8, 0 or 255. Not OpenCV's edges: F1 only compares within one implementation.

    Raises:
        ConfigError: kornia is not installed.
    """
    try:
        from kornia.filters import canny
    except ImportError as error:
        raise ConfigError(
            "--preset cnpp: need kornia for its edges, which is not installed; run "
            "`pip install controlset[quality]`"
        ) from error
    image_BCHW = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        _, edges_B1HW = canny(image_BCHW, LOW, HIGH)
    return Seen(pixels=(edges_B1HW[0, 0].numpy() > 0).astype(np.uint8) * 255, stats={})
