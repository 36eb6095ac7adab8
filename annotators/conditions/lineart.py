"""Line drawings: the networks and weights of the ControlNet 1.1 annotators, anime's among them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from annotators.conditions.soft_edges import SOFT_STATS, finished
from annotators.network import (
    NetworkAnnotator,
    as_batch,
    as_maps_u8,
    not_finite,
    padded,
    placed,
    read_weights,
    reference,
)
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.weights import ANNOTATORS, Weights
from schemas.errors import Rejected
from schemas.pixels import MapU8, RgbU8

if TYPE_CHECKING:
    import torch

LINEART = Weights(
    hub_id=ANNOTATORS,
    file="sk_model.pth",
    licence="MIT",
    size_mb=17,
    sha256="c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6",
)
LINEART_COARSE = Weights(
    hub_id=ANNOTATORS,
    file="sk_model2.pth",
    licence="MIT",
    size_mb=17,
    sha256="30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0",
)
LINEART_ANIME = Weights(
    hub_id=ANNOTATORS,
    file="netG.pth",
    licence="MIT",
    size_mb=218,
    sha256="ccabdcc3f5cf3c07cf65d58776acb21df7dfda825cdc70c9766a93fd62bfc488",
)

_ANIME_MULTIPLE = 256  # px: eight halvings
_MULTIPLE = 4  # px: two halvings; the network rounds other sizes up
_SMALLEST = 8  # px: what its reflecting borders need


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LineartSpec:
    """White lines on black, fine or coarse, of the image's size.

    The network halves an image twice and enlarges it twice: other sizes than multiples of 4 are
    continued to the right and below by their mirror image (1 to 3 px, so that no pixel moves), and
    the map is cut back. controlnet-aux resizes to multiples of 64 instead.
    """

    name: ClassVar[str] = "lineart"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "grey"
    stats: ClassVar[Mapping[str, str]] = SOFT_STATS
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux); MIT (informative-drawings)"
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"coarse": True},)

    coarse: bool = False
    """Draw with fewer, bolder strokes: the `coarse` network of ControlNet 1.1."""

    precision: Precision = "fp32"

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (LINEART_COARSE if self.coarse else LINEART,)

    def load(self, runtime: Runtime) -> Annotator:
        network = read_weights(reference("lineart").Generator(3, 1, 3), self.weights[0], runtime)

        def feed(images: Sequence[RgbU8]) -> "torch.Tensor":
            wide = padded(images, multiple=_MULTIPLE, smallest=_SMALLEST)
            return as_batch(wide, runtime, self.precision) / 255

        return NetworkAnnotator(
            runtime=runtime,
            feed=feed,
            network=placed(network, runtime, self.precision),
            draw=_drawn,
        )


def _drawn(paper: "torch.Tensor", height: int, width: int) -> list[Annotation | Rejected]:
    """Maps out of what the network drew: black on white, (B, 1, H, W) in 0..1."""
    maps = as_maps_u8(paper[:, 0, :height, :width])
    return finished([inverted(drawing) for drawing in maps], "soft")


def inverted(drawing: MapU8 | RgbU8 | Rejected) -> MapU8 | RgbU8 | Rejected:
    """White on black out of black on white; a reject stays one."""
    return drawing if isinstance(drawing, Rejected) else 255 - drawing


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
            draw=_anime_drawn,
        )


def _anime_drawn(papers: "torch.Tensor", height: int, width: int) -> list[Annotation | Rejected]:
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
    return -(-side // _ANIME_MULTIPLE) * _ANIME_MULTIPLE
