"""PiDiNet soft edges: the network and weights of the ControlNet 1.1 annotator."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from annotators.networks import (
    as_batch,
    as_maps_u8,
    in_equal_sizes,
    load_into,
    placed,
    reference,
)
from annotators.options import EyeOptions, SoftMode
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.soft_edges import SOFT_STATS, finished, safe_steps
from annotators.weights import PIDINET, Weights, load_state, locate
from schemas.errors import Rejected
from schemas.pixels import RgbU8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SoftedgeSpec:
    """Which form the edges take."""

    name: ClassVar[str] = "softedge"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "grey"
    stats: ClassVar[Mapping[str, str]] = SOFT_STATS
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux)"

    mode: SoftMode = "soft"
    precision: Precision = "fp32"

    @classmethod
    def from_options(cls, options: EyeOptions, precision: Precision) -> "SoftedgeSpec":
        return cls(mode=options.softedge_mode, precision=precision)

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (PIDINET,)

    def load(self, runtime: Runtime) -> Annotator:
        from annotators.soft_edge_networks import PidiNetwork

        network = reference("pidi.model").pidinet()
        path = locate(PIDINET, runtime)
        load_into(network, load_state(path), path, within="state_dict")
        network = placed(PidiNetwork(network), runtime, self.precision)
        return _Softedge(spec=self, runtime=runtime, network=network)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Softedge:
    spec: SoftedgeSpec
    runtime: Runtime
    network: Any

    def __call__(self, images: Sequence[RgbU8], keys: Sequence[str]) -> list[Annotation | Rejected]:
        return in_equal_sizes(images, keys, self._look, at_once=self.runtime.images_at_once)

    def _look(
        self, images: Sequence[RgbU8], keys: Sequence[str]
    ) -> Sequence[Annotation | Rejected]:
        import torch

        with torch.inference_mode():
            batch = as_batch(images, self.runtime, self.spec.precision)
            # The authors' network was trained on BGR, as controlnet-aux feeds it.
            edges = torch.sigmoid(self.network(batch.flip(1) / 255))
            if self.spec.mode == "safe":
                edges = safe_steps(edges)
            return finished(as_maps_u8(edges), self.spec.mode)
