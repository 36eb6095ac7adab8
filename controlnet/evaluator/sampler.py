"""Requests in, pictures out: what a request gives depends on the request alone."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controlnet.architecture.backbone import Base
from controlnet.architecture.control import ControlNet
from controlnet.architecture.sampling import SampleOptions, sample
from controlnet.trainer.probe import to_pictures
from schemas.pixels import RgbU8

_DEEPEST = 65535
_SEED_BITS = 63


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """One picture to draw."""

    key: str
    prompt: str
    hint: np.ndarray | None  # map as stored; None draws with the base alone
    seed: int  # of the noise
    size: tuple[int, int]  # (width, height) in px


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
        control: None draws with the base alone.
        options: how.
        negative_prompt: for the unguided half.
        device: of the networks.
        autocast: number format of products.
    """

    def __init__(
        self,
        base: Base,
        control: ControlNet | None,
        options: SampleOptions,
        *,
        negative_prompt: str,
        device: torch.device,
        autocast: torch.dtype,
    ) -> None:
        assert base.text is not None, "the base was loaded without its text encoder"
        self._base, self._control, self._options = base, control, options
        self._text, self._device, self._autocast = base.text, device, autocast
        self._empty = self._text([negative_prompt])

    @torch.no_grad()
    def __call__(self, requests: Sequence[Request]) -> list[RgbU8]:
        """Draw a batch.

        Args:
            requests: of one size, all with a hint or none.

        Returns:
            RGB uint8 pictures in the same order.
        """
        width, height = requests[0].size
        space = self._base.space
        shape = (space.channels, height // space.factor, width // space.factor)
        noise_BCHW = torch.stack(
            [
                torch.randn(shape, generator=torch.Generator().manual_seed(one.seed))
                for one in requests
            ]
        )
        sizes_B6 = None
        if self._base.is_xl:
            sizes_B6 = torch.tensor(
                [[height, width, 0, 0, height, width]] * len(requests), device=self._device
            )
        enabled = self._autocast != torch.float32
        with torch.autocast(self._device.type, dtype=self._autocast, enabled=enabled):
            unit_BCHW = sample(
                self._base,
                self._control,
                self._text([one.prompt for one in requests]),
                self._empty,
                self._hints(requests, (width, height)),
                noise_BCHW.to(
                    self._device, self._base.unet.dtype, memory_format=torch.channels_last
                ),
                self._options,
                sizes_B6=sizes_B6,
            )
        return to_pictures(unit_BCHW)

    def _hints(self, requests: Sequence[Request], size: tuple[int, int]) -> Tensor:
        """(B, 3, H, W) in [0, 1]; black where there is none, which nobody looks at then."""
        if requests[0].hint is None:
            return torch.zeros(len(requests), 3, size[1], size[0], device=self._device)
        return torch.stack([hint_of(one.hint) for one in requests]).to(self._device)


def hint_of(pixels: Any) -> Tensor:
    """A stored map as a network reads it: (3, H, W) float32 in [0, 1].

    Args:
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8 in RGB order.
    """
    unit = np.asarray(pixels, np.float32) / (_DEEPEST if pixels.dtype == np.uint16 else 255)
    rgb_HWC = unit if unit.ndim == 3 else np.repeat(unit[..., None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(rgb_HWC)).permute(2, 0, 1)
