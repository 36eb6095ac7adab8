"""Line drawings of anime pictures: the network and weights of the ControlNet 1.1 annotator."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np

from annotators.networks import as_batch, in_equal_sizes, load_into, not_finite, placed, reference
from annotators.options import EyeOptions
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.soft_edges import SOFT_STATS, finished
from annotators.weights import LINEART_ANIME, Weights, load_state, locate
from schemas.errors import Rejected
from schemas.pixels import MapU8, RgbU8

_MULTIPLE = 256  # px: eight halvings


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LineartAnimeSpec:
    """Nothing to choose but the precision."""

    name: ClassVar[str] = "lineart_anime"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "grey"
    stats: ClassVar[Mapping[str, str]] = SOFT_STATS
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux); MIT (Anime2Sketch)"

    precision: Precision = "fp32"

    @classmethod
    def from_options(cls, options: EyeOptions, precision: Precision) -> "LineartAnimeSpec":
        return cls(precision=precision)

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (LINEART_ANIME,)

    def load(self, runtime: Runtime) -> Annotator:
        from torch.nn import InstanceNorm2d

        norm = functools.partial(InstanceNorm2d, affine=False, track_running_stats=False)
        network = reference("lineart_anime").UnetGenerator(3, 1, 8, 64, norm_layer=norm)
        path = locate(LINEART_ANIME, runtime)
        load_into(network, load_state(path), path)
        return _LineartAnime(
            spec=self, runtime=runtime, network=placed(network, runtime, self.precision)
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _LineartAnime:
    """White lines on black, of the image's size.

    The network halves an image eight times, so an image is enlarged to the next multiples of 256,
    and the drawing is brought back to the image's size, both by cubic interpolation: the reference
    does the same with any size, so maps are equal to its maps at all sizes. (Padding a 257 px image
    to 512 would show the network, which normalises over the whole image, a picture half made up.)
    """

    spec: LineartAnimeSpec
    runtime: Runtime
    network: Any

    def __call__(self, images: Sequence[RgbU8], keys: Sequence[str]) -> list[Annotation | Rejected]:
        return in_equal_sizes(images, keys, self._look, at_once=self.runtime.images_at_once)

    def _look(
        self, images: Sequence[RgbU8], keys: Sequence[str]
    ) -> Sequence[Annotation | Rejected]:
        import torch

        height, width = images[0].shape[:2]
        size = (_rounded_up(width), _rounded_up(height))
        large = [cv2.resize(one, size, interpolation=cv2.INTER_CUBIC) for one in images]
        with torch.inference_mode():
            batch = as_batch(large, self.runtime, self.spec.precision)
            drawn = self.network(batch / 127.5 - 1)[:, 0].float() * 127.5 + 127.5
        return finished([drawing(one, width, height) for one in drawn.cpu().numpy()], "soft")


def drawing(paper: np.ndarray, width: int, height: int) -> MapU8 | Rejected:
    """White lines on black, out of what the network drew.

    Args:
        paper: (h, w) float32, about 0..255; 255 = paper.
        width: of the map.
        height: of the map.
    """
    if not np.isfinite(paper).all():
        return not_finite()
    lines = cv2.resize(paper, (width, height), interpolation=cv2.INTER_CUBIC)
    return 255 - lines.clip(0, 255).astype(np.uint8)


def _rounded_up(side: int) -> int:
    return -(-side // _MULTIPLE) * _MULTIPLE
