"""Cached latents: what a VAE made of every stored image, as mean and log-variance of its posterior.

Not one sample: the trainer draws another one in every epoch. C is the VAE's latent channels, h and
w are the image's height and width divided by its factor.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from jaxtyping import Float, Float16

from schemas.documents import as_record

LATENTS = "latent_moments"
"""Column: (2C, h, w) little-endian float16 in C order, first C means, then C log-variances, of the
stored image mapped to [-1, 1]; without the VAE's scaling factor."""

LATENTS_FLIPPED = "latent_moments_flipped"
"""Column: the same of the mirrored image; a mirrored latent is not the latent of it."""

_STORED = np.dtype("<f2")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LatentInfo:
    """What footer and manifest say of the moments, under `latents`."""

    base: str  # as it was given: folder, or name on the hub
    vae_sha256: str  # of the VAE's safetensors file
    channels: Annotated[int, msgspec.Meta(ge=1, le=1024)]  # C
    factor: Annotated[int, msgspec.Meta(ge=1, le=1024)]  # px of the image for one of the latent
    scaling_factor: float  # a sample times this is what the U-Net sees; not applied yet
    shift_factor: float | None
    dtype: Literal["float16"] = "float16"  # of the stored numbers
    flips: bool  # the mirrored images' moments are there, too
    precision: str  # that the VAE computed in: fp32, bf16 or fp16

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return latent_columns(flips=self.flips)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "LatentInfo":
        """The inverse of `to_json`.

        Raises:
            ConfigError: a field is not there, or cannot be.
        """
        return as_record(record, cls, where="record of the latents")


def latent_columns(*, flips: bool) -> tuple[str, ...]:
    """Names of the columns, in order.

    Args:
        flips: the mirrored images' moments are there, too.
    """
    return (LATENTS, LATENTS_FLIPPED) if flips else (LATENTS,)


def encode_moments(moments: Float[np.ndarray, "_ _ _"]) -> bytes:
    """Moments as they are stored.

    Args:
        moments: (2C, h, w), floats of any type.

    Returns:
        float16, 4 * C * h * w bytes: 64 KiB for 512x512 px, four channels and factor 8.

    Raises:
        ValueError: NaN, infinite, or too large for float16.
    """
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(moments, dtype=_STORED)
    if not np.isfinite(stored).all():
        raise ValueError("moments: need finite values within float16's range, got others")
    return stored.tobytes()


def decode_moments(
    stored: bytes, *, channels: int, height: int, width: int
) -> Float16[np.ndarray, "_ _ _"]:
    """Moments of one row.

    Args:
        stored: bytes of the column.
        channels: C of the VAE.
        height: h of the latent, not of the image.
        width: w of the latent.

    Returns:
        (2C, h, w) float16; the first C are means, the others log-variances.

    Raises:
        ValueError: of another length.
    """
    need = 2 * channels * height * width * _STORED.itemsize
    if len(stored) != need:
        raise ValueError(
            f"moments: need {need} bytes for {channels} channels of {width}x{height}, "
            f"got {len(stored)}"
        )
    moments = np.frombuffer(stored, _STORED).reshape(2 * channels, height, width)
    return moments.astype(np.float16)  # of this machine's byte order, and writable
