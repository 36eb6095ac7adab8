"""How an image that had to change is stored."""

import io

import cv2
from PIL import Image

from pipeline.options import ImageFormat
from schemas.pixels import RgbU8


def encode_image(rgb: RgbU8, *, image_format: ImageFormat, quality: int) -> bytes:
    """Encode an image for the data set.

    Args:
        rgb: (H, W, 3) uint8, 0..255, RGB order.
        image_format: jpeg, webp (lossy) or png.
        quality: of JPEG and WebP, 1..100.

    Returns:
        A whole file without metadata; equal pixels give equal bytes.

    Cost: JPEG 0.5 ms per 512x512 on one core of an AMD EPYC (measured 2026-11-23). OpenCV encodes
    it, because Pillow keeps Python's lock meanwhile.
    """
    if image_format == "jpeg":
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not done:
            raise RuntimeError(f"OpenCV could not encode an image of shape {rgb.shape}")
        return encoded.tobytes()
    buffer = io.BytesIO()
    if image_format == "webp":
        Image.fromarray(rgb).save(buffer, "WEBP", quality=quality)
    else:
        Image.fromarray(rgb).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def is_lossless(image_format: ImageFormat) -> bool:
    """Whether decoding gives back exactly the pixels that were encoded."""
    return image_format == "png"
