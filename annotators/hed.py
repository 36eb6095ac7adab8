"""HED soft edges: the network and weights of the ControlNet 1.1 annotator."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from annotators.network import NetworkAnnotator, as_batch, placed, read_weights, reference
from annotators.protocol import Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.soft_edges import SOFT_STATS, SoftMode, soft_edges
from annotators.weights import HED, Weights


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HedSpec:
    """Which form the edges take."""

    name: ClassVar[str] = "hed"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "grey"
    stats: ClassVar[Mapping[str, str]] = SOFT_STATS
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux)"

    mode: SoftMode = "soft"
    """How HED's edges are stored. soft: as grey levels. safe: rounded to three levels, so that a
    model cannot read the picture's shading out of them. scribble: as thick lines, black or white.
    """

    precision: Precision = "fp32"

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (HED,)

    def load(self, runtime: Runtime) -> Annotator:
        from annotators.soft_edge_networks import HedNetwork

        network = read_weights(reference("hed").ControlNetHED_Apache2(), HED, runtime)
        return NetworkAnnotator(
            runtime=runtime,
            feed=lambda images: as_batch(images, runtime, self.precision),
            network=placed(HedNetwork(network), runtime, self.precision),
            draw=lambda logits, _height, _width: soft_edges(logits, self.mode),
        )
