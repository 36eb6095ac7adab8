"""Line drawings: the networks and weights of the ControlNet 1.1 annotators lineart and coarse."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from annotators.network import (
    NetworkAnnotator,
    as_batch,
    as_maps_u8,
    padded,
    placed,
    read_weights,
    reference,
)
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.soft_edges import SOFT_STATS, finished
from annotators.weights import LINEART, LINEART_COARSE, Weights
from schemas.errors import Rejected
from schemas.pixels import MapU8, RgbU8

if TYPE_CHECKING:
    import torch

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
