"""PiDiNet soft edges: the network and weights of the ControlNet 1.1 annotator."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from annotators.network import NetworkAnnotator, as_batch, placed, read_weights, reference
from annotators.protocol import Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.soft_edges import SOFT_STATS, SoftMode, soft_edges
from annotators.weights import PIDINET, Weights


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SoftedgeSpec:
    """Which form the edges take."""

    name: ClassVar[str] = "softedge"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "grey"
    stats: ClassVar[Mapping[str, str]] = SOFT_STATS
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux)"

    mode: SoftMode = "soft"
    """How PiDiNet's edges are stored: soft, safe or scribble, as with `--hed-mode`."""

    precision: Precision = "fp32"

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (PIDINET,)

    def load(self, runtime: Runtime) -> Annotator:
        from annotators.soft_edge_networks import PidiNetwork

        network = reference("pidi.model").pidinet()
        read_weights(network, PIDINET, runtime, within="state_dict")
        return NetworkAnnotator(
            runtime=runtime,
            # The authors' network was trained on BGR, as controlnet-aux feeds it.
            feed=lambda images: as_batch(images, runtime, self.precision).flip(1) / 255,
            network=placed(PidiNetwork(network), runtime, self.precision),
            draw=lambda logits, _height, _width: soft_edges(logits, self.mode),
        )
