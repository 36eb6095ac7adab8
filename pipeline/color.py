"""From whatever colours a picture has to sRGB on white."""

import functools
import io

import numpy as np
from PIL import Image, ImageChops, ImageCms

from schemas.errors import Reason, Rejected
from schemas.pixels import RgbU8

_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_KNOWN_RANGE = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"})
_ALSO_CONVERTED = frozenset({"CMYK", "YCbCr", "HSV"})
_PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_srgb(picture: Image.Image, *, is_jpeg: bool) -> RgbU8:
    """Pixels as sRGB: profile applied, 16 bit scaled to 8, transparency laid on white.

    Args:
        picture: loaded; any mode.
        is_jpeg: how CMYK is to be read.

    Returns:
        (H, W, 3) uint8, 0..255.

    Raises:
        Rejected: UNSUPPORTED_PIXELS where the range of the values is not known (float, 32-bit).
    """
    if picture.mode in _SIXTEEN_BIT:
        return _from_sixteen_bit(picture)
    if picture.mode not in _KNOWN_RANGE | _ALSO_CONVERTED:
        raise Rejected(
            Reason.UNSUPPORTED_PIXELS,
            f"pixels of mode {picture.mode} have no known range; convert to 8 or 16 bit first",
        )
    if is_jpeg and picture.mode == "CMYK" and "adobe" not in picture.info:
        # Pillow takes every CMYK JPEG for Adobe's, which are stored inverted.
        picture = _with_info(ImageChops.invert(picture), picture)
    alpha = None
    if picture.has_transparency_data:
        picture = _with_info(picture.convert("RGBA"), picture)
        alpha = picture.getchannel("A")
    rgb = _through_profile(picture)
    if alpha is not None:
        canvas = Image.new("RGB", rgb.size, "white")
        canvas.paste(rgb, mask=alpha)
        rgb = canvas
    return np.asarray(rgb)


def needs_profile(picture: Image.Image) -> bool:
    """Whether the picture carries a colour profile that is not sRGB."""
    profile = picture.info.get("icc_profile")
    return bool(profile) and _profile_space(profile) is not None


def _from_sixteen_bit(picture: Image.Image) -> RgbU8:
    """Scale, where Pillow's own conversion would clip."""
    values = np.asarray(picture).astype(np.uint32)
    grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _with_info(changed: Image.Image, original: Image.Image) -> Image.Image:
    changed.info = original.info
    return changed


def _through_profile(picture: Image.Image) -> Image.Image:
    profile = picture.info.get("icc_profile")
    space = _profile_space(profile) if profile else None
    if profile and space is not None:
        mode = _PROFILE_MODES[space]
        fits = mode == ("RGB" if picture.mode not in {"1", "L", "CMYK"} else picture.mode)
        transform = _transform(profile, mode) if fits else None
        if transform is not None:
            inside = picture if picture.mode == mode else picture.convert(mode)
            return transform.apply(inside)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


@functools.lru_cache(maxsize=64)
def _profile_space(profile: bytes) -> str | None:
    """Colour space of a profile that must be applied; None for sRGB and for broken ones.

    A profile that cannot be read is ignored, as browsers do: the picture is fine.
    """
    try:
        opened = ImageCms.core.profile_frombytes(profile)
        space = opened.xcolor_space
        description = opened.profile_description or ""
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if space not in _PROFILE_MODES or description.startswith("sRGB"):
        return None
    return space


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        return ImageCms.ImageCmsTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            mode,
            "RGB",
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
