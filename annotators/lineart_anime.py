"""Line drawings of anime pictures: the network and weights of the ControlNet 1.1 annotator."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np

from annotators.network import (
    NetworkAnnotator,
    as_batch,
    not_finite,
    placed,
    read_weights,
    reference,
)
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.soft_edges import SOFT_STATS, finished
from annotators.weights import LINEART_ANIME, Weights
from schemas.errors import Rejected
from schemas.pixels import MapU8, RgbU8

if TYPE_CHECKING:
    import torch

_MULTIPLE = 256  # px: eight halvings


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LineartAnimeSpec:
    """White lines on black, of the image's size.

    The network halves an image eight times, so an image is enlarged to the next multiples of 256,
    and the drawing is brought back to the image's size, both by cubic interpolation: the reference
    does the same with any size, so maps are equal to its maps at all sizes. (Padding a 257 px image
    to 512 would show the network, which normalises over the whole image, a picture half made up.)
    """

    name: ClassVar[str] = "lineart_anime"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "grey"
    stats: ClassVar[Mapping[str, str]] = SOFT_STATS
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux); MIT (Anime2Sketch)"

    precision: Precision = "fp32"

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (LINEART_ANIME,)

    def load(self, runtime: Runtime) -> Annotator:
        from torch.nn import InstanceNorm2d

        norm = functools.partial(InstanceNorm2d, affine=False, track_running_stats=False)
        network = reference("lineart_anime").UnetGenerator(3, 1, 8, 64, norm_layer=norm)
        read_weights(network, LINEART_ANIME, runtime)

        def feed(images: Sequence[RgbU8]) -> "torch.Tensor":
            height, width = images[0].shape[:2]
            size = (_rounded_up(width), _rounded_up(height))
            large = [cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image in images]
            return as_batch(large, runtime, self.precision) / 127.5 - 1

        return NetworkAnnotator(
            runtime=runtime,
            feed=feed,
            network=placed(network, runtime, self.precision),
            draw=_drawn,
        )


def _drawn(papers: "torch.Tensor", height: int, width: int) -> list[Annotation | Rejected]:
    """Maps out of what the network drew: black on white, (B, 1, h, w) in -1..1."""
    levels = papers[:, 0].float() * 127.5 + 127.5
    return finished([drawing(paper, width, height) for paper in levels.cpu().numpy()], "soft")


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
