"""From stored rows to one batch of CPU tensors, and all that is random about its samples.

What is drawn for a sample is a pure function of (seed, epoch, key). So results depend neither on
workers nor on the number of processes, a resumed run draws what it would have drawn, and what is
switched on does not change what else is drawn.

Shapes: B samples; H, W pixels; C channels; c, h, w channels and size of the latent.
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from jaxtyping import Bool, Float16, Float32, Int64, UInt8
from torch import Tensor

from schemas.errors import ConfigError, Rejected
from schemas.latents import decode_moments
from schemas.picture_headers import Header, stored_header
from schemas.pixels import MapU8, MapU16, RgbU8

_DEEPEST = 65535  # of a 16-bit map


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DrawOptions:
    """How often what happens to a sample."""

    num_train_timesteps: int = 1000
    prompt_dropout: float = 0.5  # the paper replaces half of the prompts by ""
    condition_dropout: float = 0.0
    flip: float = 0.0
    offset_noise: bool = False

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 1:
            raise ConfigError(
                f"num_train_timesteps: need at least 1, got {self.num_train_timesteps}"
            )
        for name in ("prompt_dropout", "condition_dropout", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: need a probability 0..1, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Draw:
    """What was drawn for one sample in one epoch."""

    noise_CHW: Float32[np.ndarray, "c h w"]  # N(0, 1), what the network has to find
    posterior_CHW: Float32[np.ndarray, "c h w"]  # N(0, 1), the point in the VAE's posterior
    offset_C11: Float32[np.ndarray, "c 1 1"] | None  # N(0, 1), one number a channel
    timestep: int  # 0..num_train_timesteps - 1
    drop_prompt: bool
    drop_condition: bool
    flip: bool  # mirror image and map, left to right


def draw(
    seed: int, epoch: int, key: str, *, latent_shape: tuple[int, int, int], options: DrawOptions
) -> Draw:
    """Everything random about a sample.

    Args:
        seed: of the run.
        epoch: each has its own draws.
        key: of the row.
        latent_shape: (C, height, width) of the latent.
        options: probabilities.

    Cost: 0.4 ms for a latent of 4x64x64 on one core of an AMD EPYC (measured 2026-11-23).
    """
    stream = functools.partial(_stream, f"{seed}:{epoch}:{key}")
    # Always all four in this order: another probability must not change the others' outcome.
    when, prompt, condition, mirror = stream("coins").random(4)
    offset_C11 = stream("offset").standard_normal((latent_shape[0], 1, 1), np.float32)
    return Draw(
        noise_CHW=stream("noise").standard_normal(latent_shape, np.float32),
        posterior_CHW=stream("posterior").standard_normal(latent_shape, np.float32),
        offset_C11=offset_C11 if options.offset_noise else None,
        timestep=int(when * options.num_train_timesteps),
        drop_prompt=bool(prompt < options.prompt_dropout),
        drop_condition=bool(condition < options.condition_dropout),
        flip=bool(mirror < options.flip),
    )


def _stream(whose: str, name: str) -> np.random.Generator:
    # A stream for each name: one that is drawn longer must not move the others.
    digest = hashlib.sha256(f"{name}:{whose}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], "<u8")))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Samples of one size, ready for the device. Pairs are (height, width) or (top, left), px."""

    keys: list[str]
    texts: list[str]  # "" where there is none or the prompt was dropped
    # uint8 0..255 (C = 1: bilevel and grey, C = 3: RGB), or float32 0..1 for 16-bit maps;
    # all zeros where the condition was dropped. Memory lies channels last.
    hint_BCHW: UInt8[Tensor, "B C H W"] | Float32[Tensor, "B C H W"]
    image_BHWC: UInt8[Tensor, "B H W 3"] | None  # 0..255, RGB; None: there are moments
    noise_BCHW: Float32[Tensor, "B c h w"]
    posterior_BCHW: Float32[Tensor, "B c h w"]  # N(0, 1): latent = mean + std * posterior
    moments_BCHW: Float16[Tensor, "B 2*c h w"] | None  # mean, then log-variance, not scaled
    timestep_B: Int64[Tensor, " B"]
    offset_BC11: Float32[Tensor, "B c 1 1"] | None
    drop_condition_B: Bool[Tensor, " B"]
    # SDXL's micro-conditioning: original_size, crops_coords_top_left, target_size. The crop is
    # that of the stored image, also where the sample is mirrored.
    original_size_B2: Int64[Tensor, "B 2"]
    crop_B2: Int64[Tensor, "B 2"]
    size_B2: Int64[Tensor, "B 2"]
    epoch: int
    index: int  # number of the batch in its epoch, counted over all processes together

    def __len__(self) -> int:
        return len(self.keys)

    def pinned(self) -> "Batch":
        """The same in page-locked memory, from which a copy to the device runs by itself."""
        tensors = {
            field.name: value.pin_memory()
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **tensors)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoredRow:
    """What was read of one row; pictures as they lie in the shard."""

    file: str
    key: str
    text: str | None
    map_png: bytes
    image: bytes | None  # None: not read, there are moments
    moments: bytes | None  # little-endian float16, (2c, h, w)
    moments_flipped: bytes | None
    original_size: tuple[int, int]  # height, width
    crop: tuple[int, int]  # top, left
    size: tuple[int, int]  # height, width

    def unreadable(self, column: str, found: str) -> ConfigError:
        """The error of a cell that does not hold what it should."""
        return ConfigError(
            f"{self.file}: row {self.key}: need a readable {column} of {self.size[1]}x"
            f"{self.size[0]} px, got {found}; run `controlset verify`"
        )


def decode_image(row: StoredRow, into: RgbU8 | None = None) -> RgbU8:
    """Pixels of a row's image, equal to `schemas.pixels.decode_stored_rgb`.

    Args:
        row: whose image.
        into: (H, W, 3) of the row's size, which gets the pixels; None: a new array.

    Source: simplejpeg, OpenCV and Pillow use the same libjpeg-turbo, libpng and libwebp; of the
    formats that `generate` stores, 360 files of all qualities and subsamplings were equal to the
    bit.
    Cost: 1.1 ms per 512x512 JPEG where OpenCV and a copy take 1.3 (measured 2026-11-30, one core
        of an AMD EPYC).
    """
    header = _checked(row, row.image, "image")
    if into is None:
        into = np.empty((*row.size, 3), np.uint8)
    if header.format == "JPEG":
        # What it complains about, OpenCV may read all the same, or refuse.
        with contextlib.suppress(ValueError):
            return simplejpeg.decode_jpeg(
                header.lean, "RGB", fastdct=False, fastupsample=False, buffer=into
            )
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    into[...] = _decoded(row, header, flags, "image")
    return into


def decode_map(row: StoredRow) -> MapU8 | MapU16 | RgbU8:
    """Pixels of a row's map, equal to `schemas.pixels.decode_stored_map`.

    Cost: 0.45 ms per 512x512 bilevel map where Pillow takes 0.56, 6.5 instead of 7.7 for RGB.
    """
    header = _checked(row, row.map_png, "map")
    pixels = _decoded(row, header, cv2.IMREAD_UNCHANGED, "map")
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _checked(row: StoredRow, stored: bytes | None, column: str) -> Header:
    """What a cell says of itself, before a decoder makes room for what it claims to hold."""
    if not stored:
        raise row.unreadable(column, "nothing")
    try:
        header = stored_header(stored)
    except Rejected as rejected:
        raise row.unreadable(column, str(rejected)) from rejected
    if header is None:
        raise row.unreadable(column, f"{len(stored)} bytes that do not decode")
    if (header.height, header.width) != row.size:
        raise row.unreadable(column, f"{header.width}x{header.height} px")
    return header


def _decoded(row: StoredRow, header: Header, flags: int, column: str) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(header.lean, np.uint8), flags)
    if pixels is None or pixels.shape[:2] != row.size:
        raise row.unreadable(column, f"{len(header.lean)} bytes that do not decode")
    return pixels


def collate(
    rows: Sequence[StoredRow],
    draws: Sequence[Draw],
    *,
    epoch: int,
    index: int,
) -> Batch:
    """Decode, mirror, drop and stack.

    Args:
        rows: B of one size, all with an image or all with moments.
        draws: what was drawn for each, likewise.
        epoch: for the record.
        index: likewise.

    Raises:
        ConfigError: names the file and key of a cell that does not decode.
    """
    pairs = list(zip(rows, draws, strict=True))
    with_image, offsets = rows[0].image is not None, draws[0].offset_C11 is not None
    return Batch(
        keys=[row.key for row in rows],
        texts=["" if drawn.drop_prompt else row.text or "" for row, drawn in pairs],
        hint_BCHW=_hints(rows, draws),
        image_BHWC=_images(rows, draws) if with_image else None,
        moments_BCHW=None if with_image else _stacked([_moments(*pair) for pair in pairs]),
        noise_BCHW=_stacked([drawn.noise_CHW for drawn in draws]),
        posterior_BCHW=_stacked([drawn.posterior_CHW for drawn in draws]),
        timestep_B=torch.tensor([drawn.timestep for drawn in draws]),
        offset_BC11=_stacked([drawn.offset_C11 for drawn in draws]) if offsets else None,
        drop_condition_B=torch.tensor([drawn.drop_condition for drawn in draws]),
        original_size_B2=torch.tensor([row.original_size for row in rows]),
        crop_B2=torch.tensor([row.crop for row in rows]),
        size_B2=torch.tensor([row.size for row in rows]),
        epoch=epoch,
        index=index,
    )


def _images(rows: Sequence[StoredRow], draws: Sequence[Draw]) -> Tensor:
    image_BHWC = np.empty((len(rows), *rows[0].size, 3), np.uint8)
    for n, (row, drawn) in enumerate(zip(rows, draws, strict=True)):
        pixels = decode_image(row, into=image_BHWC[n])
        if drawn.flip:
            image_BHWC[n] = pixels[:, ::-1].copy()
    return torch.from_numpy(image_BHWC)


def _hints(rows: Sequence[StoredRow], draws: Sequence[Draw]) -> Tensor:
    first = decode_map(rows[0])
    kind, shape = first.dtype, first.shape
    stored = np.zeros((len(rows), *shape), np.float32 if kind == np.uint16 else np.uint8)
    for n, (row, drawn) in enumerate(zip(rows, draws, strict=True)):
        pixels = decode_map(row) if n else first
        if (pixels.dtype, pixels.shape) != (kind, shape):
            found = f"{pixels.dtype} {pixels.shape} after {kind} {shape}"
            raise row.unreadable("map of one kind", found)
        if not drawn.drop_condition:
            stored[n] = _mirrored(pixels, drawn)
    if kind == np.uint16:
        stored /= _DEEPEST
    hint_BHWC = stored.reshape(*stored.shape[:3], -1)
    return torch.from_numpy(hint_BHWC).permute(0, 3, 1, 2)


def _mirrored(pixels: np.ndarray, drawn: Draw) -> np.ndarray:
    return pixels[:, ::-1] if drawn.flip else pixels


def _moments(row: StoredRow, drawn: Draw) -> np.ndarray:
    """(2c, h, w) float16; a mirrored image has other moments than mirrored moments."""
    channels, height, width = drawn.noise_CHW.shape
    stored = row.moments_flipped if drawn.flip else row.moments
    try:
        return decode_moments(stored or b"", channels=channels, height=height, width=width)
    except ValueError as error:
        raise row.unreadable("pair of latents", str(error)) from error


def _stacked(arrays: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
