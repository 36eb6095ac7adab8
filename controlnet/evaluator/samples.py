"""Sampled pictures: what a request gives depends on it alone; on disk until they are judged.

Files are lossless, named by row and number, and taken up again after a stop.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional

from controlnet.architecture.backbone import Base, Embedded
from controlnet.architecture.control import ControlNet
from controlnet.architecture.sampling import (
    Painted,
    SampleOptions,
    Steering,
    casting,
    sampled,
)
from controlnet.evaluator.examples import JudgedRow
from schemas.documents import read_checked, with_digest
from schemas.errors import ConfigError, Rejected
from schemas.files import (
    clear_temporary,
    file_name,
    read_plain,
    replacing,
    write_json,
    writing,
)
from schemas.picture_headers import png_text
from schemas.pixels import MapU8, RgbU8, decode_stored_rgb

_DEEPEST = 65535
_SEED_BITS = 63


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """One picture to draw."""

    key: str
    prompt: str
    # a map as stored for each ControlNet; () draws with the base alone
    hints: tuple[np.ndarray, ...]
    seed: int  # of the noise
    noise_CHW: np.ndarray | None = None  # float32 latent, instead of what the seed would draw
    size: tuple[int, int]  # (width, height) in px
    image: RgbU8 | None = None  # to start from
    mask: MapU8 | None = None  # (H, W): what is white is painted anew


def seed_of(seed: int, key: str, number: int) -> int:
    """Seed of a row's picture: the same in every process, batch and run.

    Args:
        seed: of the evaluation.
        key: of the row.
        number: of the picture among the row's.

    Returns:
        63 bits of sha256.
    """
    digest = hashlib.sha256(f"{seed}/{key}/{number}".encode()).digest()
    # 63 bits are a seed wherever integers have 64, signed or not.
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


class Sampler:
    """Networks that draw.

    Args:
        base: with VAE and text encoder, on its device.
        controls: ControlNets, and how loud each is; none draws with the base alone.
        options: how.
        negative_prompt: for the unguided half.
        device: of the networks.
        autocast: number format of products.
        text: embeds prompts; None is the base's own encoder.
        may_be_flat: whether a picture of one colour is a result; else it is refused.
    """

    def __init__(
        self,
        base: Base,
        controls: Sequence[tuple[ControlNet, float]],
        options: SampleOptions,
        *,
        negative_prompt: str,
        device: torch.device,
        autocast: torch.dtype,
        text: Callable[[Sequence[str]], Embedded] | None = None,
        may_be_flat: bool = False,
    ) -> None:
        text = text or base.text
        assert text is not None, "the base was loaded without its text encoder"
        self._base, self._controls, self._options = base, controls, options
        self._text, self._device, self._autocast = text, device, autocast
        self._may_be_flat = may_be_flat
        self._empty = self._text([negative_prompt])  # the same for every picture

    @torch.no_grad()
    def __call__(self, requests: Sequence[Request]) -> list[RgbU8]:
        """Draw a batch.

        Args:
            requests: of one size, with one hint for each ControlNet; all with a picture to start
                from, or none; likewise masks.

        Returns:
            RGB uint8 pictures in the same order.

        Raises:
            ConfigError: a picture that is not finite, or of one colour all over: a black one is
                what overflowing networks leave, and no result.
        """
        # One for each, on the CPU: a picture depends neither on its batch nor on the device.
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        painted = self._painted(requests, generators)
        noise_BCHW = self._noise(requests, generators)
        base, steering = self.steered([request.hints for request in requests])
        with casting(self._device.type, self._autocast):
            prompts = self._text([request.prompt for request in requests])
        pictures = sampled(
            base,
            steering,
            prompts,
            self._empty,
            noise_BCHW,
            self._options,
            autocast=self._autocast,
            sizes_B6=self._sizes(requests) if self._base.is_xl else None,
            painted=painted,
        )
        for request, picture in zip(requests, pictures, strict=True):
            if not self._may_be_flat and (picture == picture[0, 0]).all():
                raise ConfigError(
                    f"sampling {request.key}: need a picture, got one colour all over "
                    f"{tuple(picture[0, 0].tolist())} (seed {request.seed}); use --precision fp32, "
                    "another --guidance or seed, or look at the weights of base and ControlNet"
                )
        return pictures

    def steered(self, hints: Sequence[tuple[np.ndarray, ...]]) -> tuple[Base, list[Steering]]:
        """The base and its ControlNets, shown the maps of a batch."""
        return self._base, [
            Steering(control=control, hint_BCHW=self.hints(of_control), scale=scale)
            for (control, scale), of_control in zip(
                self._controls, zip(*hints, strict=True), strict=True
            )
        ]

    def hints(self, maps: Sequence[np.ndarray]) -> Tensor:
        """Stored maps as a batch of hints on the device."""
        hints_BCHW = torch.stack([hint_of(pixels) for pixels in maps])
        return hints_BCHW.to(self._device, memory_format=torch.channels_last)

    def _noise(self, requests: Sequence[Request], generators: Sequence[torch.Generator]) -> Tensor:
        space, (width, height) = self._base.space, requests[0].size
        shape = (space.channels, height // space.factor, width // space.factor)
        drawn_BCHW = torch.stack(
            [
                torch.randn(shape, generator=generator)
                if request.noise_CHW is None
                else torch.from_numpy(request.noise_CHW)
                for request, generator in zip(requests, generators, strict=True)
            ]
        )
        # on a CPU with this layout convolutions are up to 3 times as fast
        return drawn_BCHW.to(self._device, self._base.unet.dtype, memory_format=torch.channels_last)

    def _sizes(self, requests: Sequence[Request]) -> Tensor:
        """SDXL's micro-conditioning: as if every picture had been of this size from the start."""
        width, height = requests[0].size
        row = [height, width, 0, 0, height, width]
        return torch.tensor([row] * len(requests), device=self._device)

    def _painted(
        self, requests: Sequence[Request], generators: Sequence[torch.Generator]
    ) -> Painted | None:
        """Latents of the given pictures, drawn like diffusers draws them, before the noise."""
        images = [request.image for request in requests if request.image is not None]
        if not images:
            return None
        unit_BCHW = torch.stack([hint_of(image) for image in images]).to(self._device)
        moments_BCHW = self._base.moments(unit_BCHW * 2 - 1)
        shape = (moments_BCHW.shape[1] // 2, *moments_BCHW.shape[2:])
        draw_BCHW = torch.stack(
            [torch.randn(shape, generator=generator) for generator in generators]
        )
        latent_BCHW = self._base.space.drawn(moments_BCHW, draw_BCHW.to(self._device))
        masks = [request.mask for request in requests if request.mask is not None]
        mask_B1HW = None
        if masks:
            white_B1HW = torch.from_numpy(np.stack(masks) >= 128).float()[:, None]
            mask_B1HW = functional.interpolate(white_B1HW, size=shape[1:]).to(self._device)
        return Painted(latent_BCHW=latent_BCHW.to(self._base.unet.dtype), mask_B1HW=mask_B1HW)


def hint_of(pixels: np.ndarray) -> Tensor:
    """A stored map as a network reads it: (3, H, W) float32 in [0, 1].

    Args:
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8 in RGB order.
    """
    unit = np.asarray(pixels, np.float32) / (_DEEPEST if pixels.dtype == np.uint16 else 255)
    rgb_HWC = unit if unit.ndim == 3 else np.repeat(unit[..., None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(rgb_HWC)).permute(2, 0, 1)


def check_size(size: tuple[int, int], base: Base, where: str) -> None:
    """Refuse a size that the base cannot draw.

    Args:
        size: (width, height) in px.
        base: whose VAE shrinks pictures.
        where: what has that size, for the error.

    Raises:
        ConfigError: says which size would do.
    """
    step = base.space.factor  # as in training: the U-Net itself takes sizes that it cannot halve
    width, height = size
    if width % step or height % step:
        fitting = " x ".join(str(max(step, round(side / step) * step)) for side in size)
        raise ConfigError(
            f"{where}: need a width and height that {step} px divides for this base, got "
            f"{width} x {height}; {fitting} would do"
        )


def take_folder(folder: Path, record: str, identity: Mapping[str, Any], *, what: str) -> None:
    """Take a folder for the samples of an evaluation or a table, or go on with what it began.

    Args:
        folder: it is there, and nobody else writes to it.
        record: name of the file in it that says whose it is.
        identity: everything that decides about a pixel or a score.
        what: evaluation or table, for the error.

    Raises:
        ConfigError: it holds something else, or another one; says what differs.
    """
    clear_temporary(folder)
    path, now = folder / record, with_digest(identity)
    if path.exists():
        before = read_checked(path, dict, advice="take another --output")
        changed = sorted(
            f"{name} {before.get(name)!r} -> {now.get(name)!r}"
            for name in before.keys() | now.keys()
            if before.get(name) != now.get(name) and name != "sha256"
        )
        if changed:
            raise ConfigError(
                f"{folder}: holds another {what} ({'; '.join(changed)[:400]}); use its options, or "
                "take another --output"
            )
        return
    if any(folder.iterdir()):
        raise ConfigError(
            f"{folder}: need an empty folder or an unfinished {what}, got something else; take "
            "another --output"
        )
    write_json(path, now)


CODEC = "png"

# A row of the data set, and which of its pictures.
Place = tuple[JudgedRow, int]

State = Literal["whole", "absent", "foreign"]
_SEAL = "controlset-seal"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SampleFolder:
    """The pictures of one setting: of one network with one setting.

    Each file carries a hash of what it was sampled for and of its pixels: a picture of another
    setting, row or evaluation is not taken for this one's, nor is a damaged one.
    """

    folder: Path
    purpose: str  # what decides about these pictures: the evaluation's digest and the setting

    def path(self, key: str, number: int) -> Path:
        """Where the picture of a row lies."""
        return self.folder / f"{file_name(key)}-{number}.{CODEC}"

    def read(self, key: str, number: int) -> RgbU8:
        """A picture that is there.

        Raises:
            ConfigError: it is not the one that was sampled.
        """
        found = self._found(key, number)
        if isinstance(found, str):
            raise ConfigError(
                f"{self.path(key, number)}: need the picture that was sampled for this row, got "
                f"{'none' if found == 'absent' else 'another one'}; run the same command again"
            )
        return found

    def state(self, row: JudgedRow, number: int) -> State:
        """What is there: the row's picture, none (or a torn one), or a picture of something else.

        Raises:
            ConfigError: nobody can say, since the folder may not be read.
        """
        found = self._found(row.key, number)
        if isinstance(found, str):
            return found
        return "whole" if (found.shape[1], found.shape[0]) == row.size else "foreign"

    def write(self, key: str, number: int, picture: np.ndarray) -> Path:
        """Store a picture, whole or not at all."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(key, number)
        info = PngInfo()
        info.add_text(_SEAL, self._seal(key, number, picture))
        with replacing(path, durable=False) as temporary:
            Image.fromarray(picture).save(temporary, CODEC, compress_level=1, pnginfo=info)
        return path

    def _found(self, key: str, number: int) -> RgbU8 | Literal["absent", "foreign"]:
        path = self.path(key, number)
        try:
            raw = read_plain(path)
            pixels = decode_stored_rgb(raw)
            sealed = png_text(raw, _SEAL)
        except PermissionError as error:
            raise ConfigError(f"{path}: need a file that can be read, got {error}") from error
        except (OSError, Rejected):
            return "absent"  # or torn
        return pixels if sealed == self._seal(key, number, pixels) else "foreign"

    def _seal(self, key: str, number: int, pixels: np.ndarray) -> str:
        """Cost: 0.6 ms for 512x512 where the processor has SHA, 2 ms elsewhere."""
        digest = hashlib.sha256(json.dumps([self.purpose, key, number, pixels.shape]).encode())
        digest.update(np.ascontiguousarray(pixels).data)
        return digest.hexdigest()


def fill(
    folder: SampleFolder,
    places: Sequence[Place],
    sample: Callable[[Sequence[Place]], Sequence[RgbU8]],
    *,
    batch_size: int,
    on_picture: Callable[[], None] = lambda: None,
) -> int:
    """Sample what is not there yet.

    Args:
        folder: gets the pictures.
        places: what belongs there, or this process's share of it, ordered by size.
        sample: draws a batch of one size.
        batch_size: pictures at once.
        on_picture: called after each, those that were there already included.

    Returns:
        How many were there that were something else, and were sampled again.
    """
    absent, foreign = [], 0
    for row, number in places:  # decoded and hashed each, but that is little beside sampling
        state = folder.state(row, number)
        foreign += state == "foreign"
        if state == "whole":
            on_picture()
        else:
            absent.append((row, number))
    for batch in _batches(absent, batch_size):
        for (row, number), picture in zip(batch, sample(batch), strict=True):
            folder.write(row.key, number, picture)
            on_picture()
    return foreign


def _batches(places: Sequence[Place], batch_size: int) -> Iterator[list[Place]]:
    """Batches of one size; rows come ordered by size."""
    for _, of_size in itertools.groupby(places, key=lambda place: place[0].size):
        alike = list(of_size)
        yield from (alike[start : start + batch_size] for start in range(0, len(alike), batch_size))
