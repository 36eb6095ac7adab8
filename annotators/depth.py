"""Depth maps, near = bright, from MiDaS as ControlNet 1.1 has it or from a transformers model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from annotators.depth_networks import DepthNetwork, load_midas, load_transformers
from annotators.networks import in_equal_sizes, not_finite
from annotators.options import DEPTH_MODEL, EyeOptions, need
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.weights import MIDAS, Weights, model
from schemas.errors import Rejected
from schemas.pixels import RgbU8

if TYPE_CHECKING:
    import torch

# A range below this part of the largest value is the format's rounding noise, not a scene.
_NOISE: Mapping[Precision, float] = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 8e-3}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DepthSpec:
    """Which network looks, and how finely its map is stored.

    Raises:
        ConfigError: 16 bits of a network that computes in 8 or 11.
    """

    name: ClassVar[str] = "depth"
    revision: ClassVar[int] = 1
    # min, max: what the map's darkest and brightest value stand for: inverse distance up to the
    # network's unknown scale and shift; 1 / metres if it is metric. flat: no range, map is black.
    stats: ClassVar[Mapping[str, str]] = {"min": "float32", "max": "float32", "flat": "bool"}
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux, transformers)"

    model: str = DEPTH_MODEL  # hub name or folder; `midas`: of controlnet-aux
    bits: Literal[8, 16] = 8
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        need(self.bits in (8, 16), "depth", "8 or 16 bits", self.bits)
        need(
            self.bits == 8 or self.precision == "fp32",
            "depth with 16 bits",
            "precision fp32",
            self.precision,
        )

    @classmethod
    def from_options(cls, options: EyeOptions, precision: Precision) -> "DepthSpec":
        bits = options.depth_bits
        return cls(
            model=options.depth_model, bits=bits, precision="fp32" if bits == 16 else precision
        )

    @property
    def hint_mode(self) -> HintMode:
        return "grey16" if self.bits == 16 else "grey"

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (MIDAS,) if self.model == "midas" else (model(self.model),)

    def load(self, runtime: Runtime) -> Annotator:
        load = load_midas if self.model == "midas" else load_transformers
        return _Depth(
            spec=self, runtime=runtime, network=load(self.weights[0], runtime, self.precision)
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Depth:
    spec: DepthSpec
    runtime: Runtime
    network: DepthNetwork

    def __call__(self, images: Sequence[RgbU8], keys: Sequence[str]) -> list[Annotation | Rejected]:
        return in_equal_sizes(images, keys, self._look, at_once=self.runtime.images_at_once)

    def _look(
        self, images: Sequence[RgbU8], keys: Sequence[str]
    ) -> Sequence[Annotation | Rejected]:
        import torch

        with torch.inference_mode():
            return finished(
                self.network(images), bits=self.spec.bits, noise=_NOISE[self.spec.precision]
            )


def finished(
    nearness: "torch.Tensor", *, bits: int, noise: float = 1e-5
) -> list[Annotation | Rejected]:
    """Depth maps with their statistics, each over its own range.

    Args:
        nearness: (B, H, W) float32 inverse distance, in any unit and from any zero.
        bits: of the map's pixels.
        noise: part of the largest value up to which a range counts as none.

    Returns:
        For each image (H, W) uint8 or uint16, 0 = farthest, 255 or 65535 = nearest, cut off as
        controlnet-aux does; all zeros where the scene is flat. A reject where a value is NaN or
        infinite.
    """
    import torch

    finite = torch.isfinite(nearness).flatten(1).all(1).tolist()
    lowest, highest = nearness.amin((1, 2)).tolist(), nearness.amax((1, 2)).tolist()
    above = nearness - nearness.amin((1, 2), keepdim=True)
    top = 2**bits - 1
    scaled = above / above.amax((1, 2), keepdim=True) * top
    pixels = scaled.clamp_(0, top).to(torch.int32).cpu().numpy()
    results: list[Annotation | Rejected] = []
    for number, (low, high) in enumerate(zip(lowest, highest, strict=True)):
        if not finite[number]:
            results.append(not_finite())
            continue
        flat = high - low <= noise * max(abs(low), abs(high))
        one = np.zeros_like(pixels[number]) if flat else pixels[number]
        stats = {"min": low, "max": high, "flat": flat}
        results.append(
            Annotation(pixels=one.astype(np.uint16 if bits == 16 else np.uint8), stats=stats)
        )
    return results
