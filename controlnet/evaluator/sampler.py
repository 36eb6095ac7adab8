"""Requests in, pictures out: what a request gives depends on the request alone."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from controlnet.architecture.backbone import Base
from controlnet.architecture.control import ControlNet
from controlnet.architecture.sampling import Painted, SampleOptions, Steering, denoise
from controlnet.trainer.probe import to_pictures
from schemas.errors import ConfigError
from schemas.pixels import MapU8, RgbU8

_DEEPEST = 65535
_SEED_BITS = 63


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """One picture to draw."""

    key: str
    prompt: str
    hints: tuple[
        np.ndarray, ...
    ]  # a map as stored for each ControlNet; () draws with the base alone
    seed: int  # of the noise
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
    ) -> None:
        assert base.text is not None, "the base was loaded without its text encoder"
        self._base, self._controls, self._options = base, controls, options
        self._text, self._device, self._autocast = base.text, device, autocast
        self._empty = self._text([negative_prompt])

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
        generators = [torch.Generator().manual_seed(one.seed) for one in requests]
        painted = self._painted(requests, generators)
        noise_BCHW = self._noise(requests[0].size, generators)
        steering = [
            Steering(control=control, hint_BCHW=self._hints(requests, number), scale=scale)
            for number, (control, scale) in enumerate(self._controls)
        ]
        with self._casting():
            unit_BCHW = denoise(
                self._base,
                steering,
                self._text([one.prompt for one in requests]),
                self._empty,
                noise_BCHW,
                self._options,
                sizes_B6=self._sizes(requests) if self._base.is_xl else None,
                painted=painted,
            )
        pictures = to_pictures(unit_BCHW)
        for request, picture in zip(requests, pictures, strict=True):
            if (picture == picture[0, 0]).all():
                raise ConfigError(
                    f"sampling {request.key}: need a picture, got one colour all over "
                    f"{tuple(picture[0, 0].tolist())} (seed {request.seed}); use --precision fp32, "
                    "another --guidance or seed, or look at the weights of base and ControlNet"
                )
        return pictures

    def _noise(self, size: tuple[int, int], generators: Sequence[torch.Generator]) -> Tensor:
        space = self._base.space
        shape = (space.channels, size[1] // space.factor, size[0] // space.factor)
        drawn_BCHW = torch.stack([torch.randn(shape, generator=one) for one in generators])
        # on a CPU with this layout convolutions are up to 3 times as fast
        return drawn_BCHW.to(self._device, self._base.unet.dtype, memory_format=torch.channels_last)

    def _hints(self, requests: Sequence[Request], number: int) -> Tensor:
        hints = [hint_of(one.hints[number]) for one in requests]
        return torch.stack(hints).to(self._device, memory_format=torch.channels_last)

    def _sizes(self, requests: Sequence[Request]) -> Tensor:
        """SDXL's micro-conditioning: as if every picture had been of this size from the start."""
        width, height = requests[0].size
        row = [height, width, 0, 0, height, width]
        return torch.tensor([row] * len(requests), device=self._device)

    def _painted(
        self, requests: Sequence[Request], generators: Sequence[torch.Generator]
    ) -> Painted | None:
        """Latents of the given pictures, drawn like diffusers draws them, before the noise."""
        images = [one.image for one in requests if one.image is not None]
        if not images:
            return None
        unit_BCHW = torch.stack([hint_of(one) for one in images]).to(self._device)
        mean_BCHW, logvar_BCHW = self._base.moments(unit_BCHW * 2 - 1).float().chunk(2, dim=1)
        shape = mean_BCHW.shape[1:]
        draw_BCHW = torch.stack([torch.randn(shape, generator=one) for one in generators])
        std_BCHW = (0.5 * logvar_BCHW.clamp(-30, 20)).exp()
        space = self._base.space
        latent_BCHW = mean_BCHW + std_BCHW * draw_BCHW.to(self._device)
        latent_BCHW = (latent_BCHW - space.shift_factor) * space.scaling_factor
        masks = [one.mask for one in requests if one.mask is not None]
        mask_B1HW = None
        if masks:
            white_B1HW = torch.from_numpy(np.stack(masks) >= 128).float()[:, None]
            mask_B1HW = functional.interpolate(white_B1HW, size=shape[1:]).to(self._device)
        return Painted(latent_BCHW=latent_BCHW.to(self._base.unet.dtype), mask_B1HW=mask_B1HW)

    def _casting(self) -> torch.autocast:
        enabled = self._autocast != torch.float32
        return torch.autocast(self._device.type, dtype=self._autocast, enabled=enabled)


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
        fitting = " x ".join(str(max(step, round(one / step) * step)) for one in size)
        raise ConfigError(
            f"{where}: need a width and height that {step} px divides for this base, got "
            f"{width} x {height}; {fitting} would do"
        )
