"""Surface normals: the network and weights of the ControlNet 1.1 annotator NormalBae."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from annotators.network import NetworkAnnotator, as_batch, as_maps_u8, padded, placed
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.weights import NORMAL, Weights, load_state, locate
from schemas.errors import Rejected
from schemas.pixels import MapU8, RgbU8

if TYPE_CHECKING:
    import torch

_MULTIPLE = 32  # px: five halvings


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NormalSpec:
    """Normals as colours, (normal + 1) / 2, of the image's size.

    The network halves an image five times: other sizes than multiples of 32 are continued to the
    right and below by their mirror image, and the map is cut back. So no normal is blended with its
    neighbours and none is tilted, as it is when an image is resized to another shape, which the
    reference does.
    """

    name: ClassVar[str] = "normal"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "rgb"
    # Of the normals' third component, -1..1; a map that did not work is far off the others.
    stats: ClassVar[Mapping[str, str]] = {"mean_z": "float32"}
    background: ClassVar[tuple[int, int, int]] = (128, 128, 128)  # too short to be a normal
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux); MIT (NormalBae); Apache-2.0 (timm)"

    precision: Precision = "fp32"

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (NORMAL,)

    def load(self, runtime: Runtime) -> Annotator:
        from annotators.normal_network import load_normal_bae

        path = locate(NORMAL, runtime)
        network = load_normal_bae(load_state(path), path)

        def feed(images: Sequence[RgbU8]) -> "torch.Tensor":
            wide = padded(images, multiple=_MULTIPLE, smallest=_MULTIPLE)
            return as_batch(wide, runtime, self.precision)

        return NetworkAnnotator(
            runtime=runtime,
            feed=feed,
            network=placed(network, runtime, self.precision),
            draw=_drawn,
        )


def _drawn(normals: "torch.Tensor", height: int, width: int) -> list[Annotation | Rejected]:
    """Maps of normals, (B, 3, H, W) in -1..1."""
    colours = (normals.permute(0, 2, 3, 1)[:, :height, :width] + 1) * 0.5
    return [_with_statistics(image) for image in as_maps_u8(colours)]


def _with_statistics(colours: MapU8 | RgbU8 | Rejected) -> Annotation | Rejected:
    if isinstance(colours, Rejected):
        return colours
    mean_z = float(colours[..., 2].mean()) / 255 * 2 - 1
    return Annotation(pixels=colours, stats={"mean_z": mean_z})
