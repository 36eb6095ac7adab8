"""HED soft edges: the network and weights of the ControlNet 1.1 annotator."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from annotators.network import NetworkAnnotator, as_batch, placed, read_weights, reference
from annotators.protocol import Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.soft_edges import SOFT_STATS, SoftMode, enlarged, halved, soft_edges
from annotators.weights import ANNOTATORS, Weights

if TYPE_CHECKING:
    import torch

HED = Weights(
    hub_id=ANNOTATORS,
    file="ControlNetHED.pth",
    licence="Apache-2.0",
    size_mb=29,
    sha256="5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa",
)


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
        network = read_weights(reference("hed").ControlNetHED_Apache2(), HED, runtime)
        return NetworkAnnotator(
            runtime=runtime,
            feed=lambda images: as_batch(images, runtime, self.precision),
            network=placed(network, runtime, self.precision, forward=_logits),
            draw=lambda logits, _height, _width: soft_edges(logits, self.mode),
        )


def _logits(network: Any, rgb: "torch.Tensor") -> "torch.Tensor":
    """Logits of edges, with fewer passes over memory than controlnet-aux's `forward`.

    Args:
        network: `ControlNetHED_Apache2` of controlnet-aux: a VGG with an output after each of its
            five blocks. Parameters and arithmetic are its own.
        rgb: (B, 3, H, W), 0..255.

    Returns:
        (B, H, W) float32: the mean of the five outputs at the image's size.

    Source: controlnet-aux 0.0.10, which resizes with OpenCV one image at a time; torch's
    half-pixel bilinear interpolation is the same.
    """
    import torch

    blocks = (network.block1, network.block2, network.block3, network.block4, network.block5)
    features = rgb - network.norm
    sides: list[torch.Tensor] = []
    for block in blocks:
        features = halved(features) if sides else features
        for convolution in block.convs:
            features = convolution(features).relu_()
        sides.append(block.projection(features))
    return torch.stack(enlarged(sides)).mean(dim=0)[:, 0]
