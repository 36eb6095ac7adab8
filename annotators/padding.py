"""Make images as large as a network needs without moving a pixel."""

from collections.abc import Sequence

import cv2

from schemas.pixels import RgbU8


def padded(images: Sequence[RgbU8], *, multiple: int, smallest: int) -> Sequence[RgbU8]:
    """Images continued to the right and below by their mirror image.

    A mirror image has the picture's own textures and no edge at the seam. Whoever pads cuts the
    map back: `map[:height, :width]`.

    Args:
        images: of one size.
        multiple: height and width become multiples of it, px.
        smallest: and at least this, px.

    Returns:
        The images themselves if they fit already.
    """
    height, width = images[0].shape[:2]
    below = max(smallest, -(-height // multiple) * multiple) - height
    right = max(smallest, -(-width // multiple) * multiple) - width
    if not below and not right:
        return images
    return [cv2.copyMakeBorder(one, 0, below, 0, right, cv2.BORDER_REFLECT) for one in images]
