"""Line drawings: the networks and weights of the ControlNet 1.1 annotators lineart and coarse."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from annotators.networks import as_batch, as_maps_u8, in_equal_sizes, load_into, placed, reference
from annotators.options import EyeOptions
from annotators.padding import padded
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.soft_edges import SOFT_STATS, finished
from annotators.weights import LINEART, LINEART_COARSE, Weights, load_state, locate
from schemas.errors import Rejected
from schemas.pixels import MapU8, RgbU8

_MULTIPLE = 4  # px: two halvings; the network rounds other sizes up
_SMALLEST = 8  # px: what its reflecting borders need


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LineartSpec:
    """Fine or coarse lines."""

    name: ClassVar[str] = "lineart"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "grey"
    stats: ClassVar[Mapping[str, str]] = SOFT_STATS
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux); MIT (informative-drawings)"

    coarse: bool = False
    precision: Precision = "fp32"

    @classmethod
    def from_options(cls, options: EyeOptions, precision: Precision) -> "LineartSpec":
        return cls(coarse=options.lineart_coarse, precision=precision)

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (LINEART_COARSE if self.coarse else LINEART,)

    def load(self, runtime: Runtime) -> Annotator:
        network = reference("lineart").Generator(3, 1, 3)
        path = locate(self.weights[0], runtime)
        load_into(network, load_state(path), path)
        return _Lineart(
            spec=self, runtime=runtime, network=placed(network, runtime, self.precision)
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Lineart:
    """White lines on black, of the image's size.

    The network halves an image twice and enlarges it twice: other sizes than multiples of 4 are
    continued to the right and below by their mirror image (1 to 3 px, so that no pixel moves), and
    the map is cut back. controlnet-aux resizes to multiples of 64 instead.
    """

    spec: LineartSpec
    runtime: Runtime
    network: Any

    def __call__(self, images: Sequence[RgbU8], keys: Sequence[str]) -> list[Annotation | Rejected]:
        return in_equal_sizes(images, keys, self._look, at_once=self.runtime.images_at_once)

    def _look(
        self, images: Sequence[RgbU8], keys: Sequence[str]
    ) -> Sequence[Annotation | Rejected]:
        import torch

        height, width = images[0].shape[:2]
        wide = padded(images, multiple=_MULTIPLE, smallest=_SMALLEST)
        with torch.inference_mode():
            drawn = self.network(as_batch(wide, self.runtime, self.spec.precision) / 255)
            maps = as_maps_u8(drawn[:, 0, :height, :width])
        return finished([inverted(one) for one in maps], "soft")


def inverted(drawing: MapU8 | RgbU8 | Rejected) -> MapU8 | RgbU8 | Rejected:
    """White on black out of black on white; a reject stays one."""
    return drawing if isinstance(drawing, Rejected) else 255 - drawing
