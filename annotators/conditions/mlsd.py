"""Straight lines: the network and weights of the ControlNet 1.1 annotator M-LSD."""

import dataclasses
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
    without_batch_norm,
)
from annotators.options import named
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.weights import ANNOTATORS, Weights
from schemas.errors import Rejected, need
from schemas.pixels import RgbU8

if TYPE_CHECKING:
    import torch

MLSD = Weights(
    hub_id=ANNOTATORS,
    file="mlsd_large_512_fp32.pth",
    licence="Apache-2.0",
    size_mb=6,
    sha256="5696f168eb2c30d4374bbfd45436f7415bb4d88da29bea97eea0101520fba082",
)

_MULTIPLE = 64  # px; the network needs 16, the reference feeds it 64
_MOST_LINES = 200
_FARTHEST_PX = 1 << 20  # OpenCV cannot draw to any int32; cut off far outside every image


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MlsdSpec:
    """White lines, one pixel wide, drawn at the image's size; and what counts as a line.

    The network gets images of other sizes resized to the nearest multiples of 64, as the reference
    does; but the lines are drawn in the image's coordinates, where the reference draws small and
    resizes the drawing, which makes it grey.
    """

    name: ClassVar[str] = "mlsd"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "bilevel"
    stats: ClassVar[Mapping[str, str]] = {"lines": "int32", "edge_density": "float32"}
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux, M-LSD)"

    score: float = named("mlsd_thresholds", 0.1)
    """SCORE,DISTANCE that a straight line has to exceed: the network's confidence in it, 0 to 1,
    and its length in pixels of the halved image."""

    distance: float = named("mlsd_thresholds", 0.1)
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        need(0 <= self.score < 1, "mlsd", "0 <= score < 1", self.score)
        need(0 <= self.distance < float("inf"), "mlsd", "0 <= distance", self.distance)

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (MLSD,)

    def load(self, runtime: Runtime) -> Annotator:
        network = reference("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()
        read_weights(network, MLSD, runtime)
        network = placed(without_batch_norm(network), runtime, self.precision)
        # Lines are where a score is higher than its neighbours': bf16 would make too many equal.
        last = network.block23.conv3.float()
        last.register_forward_pre_hook(lambda _, arguments: (arguments[0].float(),))
        return NetworkAnnotator(
            runtime=runtime,
            feed=lambda images: _fed(images, runtime, self.precision),
            network=network,
            draw=lambda found, height, width: _drawn(found.float(), self, height, width),
        )


def _fed(images: Sequence[RgbU8], runtime: Runtime, precision: Precision) -> "torch.Tensor":
    """(B, 4, h, w) in -1..1; h and w are multiples of 64."""
    from torch.nn.functional import pad

    size = (_rounded(images[0].shape[1]), _rounded(images[0].shape[0]))
    fitting = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
    batch = as_batch(fitting, runtime, precision)
    # The fourth channel is constant, and is scaled like the others.
    return pad(batch, (0, 0, 0, 0, 0, 1), value=1.0) / 127.5 - 1


def _drawn(
    found: "torch.Tensor", spec: MlsdSpec, height: int, width: int
) -> list[Annotation | Rejected]:
    """Maps of the lines that `segments` reads from what the network found, at half the size fed."""
    import torch

    finite = torch.isfinite(found).flatten(1).all(1).tolist()
    fed_height, fed_width = (2 * side for side in found.shape[2:])
    # Lines are found in what was fed and drawn at the image's size, one pixel wide.
    scale = np.array([width / fed_width, height / fed_height] * 2)
    return [
        _drawing(lines * scale, height, width) if good else not_finite()
        for lines, good in zip(
            segments(found, score=spec.score, distance=spec.distance), finite, strict=True
        )
    ]


def _drawing(lines: np.ndarray, height: int, width: int) -> Annotation:
    pixels = np.zeros((height, width), np.uint8)
    ends = lines.clip(-_FARTHEST_PX, _FARTHEST_PX).astype(np.int32)
    for x_start, y_start, x_end, y_end in ends.tolist():
        cv2.line(pixels, (x_start, y_start), (x_end, y_end), 255, 1)
    density = float(np.count_nonzero(pixels)) / pixels.size
    return Annotation(pixels=pixels, stats={"lines": len(lines), "edge_density": density})


def _rounded(side: int) -> int:
    return max(_MULTIPLE, round(side / _MULTIPLE) * _MULTIPLE)


def segments(found: "torch.Tensor", *, score: float, distance: float) -> list[np.ndarray]:
    """Lines that the network has found, strongest first.

    Args:
        found: (B, 9, H/2, W/2) float32: logits of line centres, then the displacements of start
            x, y and end x, y; the rest is not used.
        score: a line's probability must be higher.
        distance: a line must be longer, px of half the image.

    Returns:
        For each image (N, 4) float64: start x, y and end x, y in px of what the network was fed;
        N is 0 to 200, and 0 where there is no line (the reference then raises, and swallows it).

    Source: `deccode_output_score_and_ptss` and `pred_lines` of controlnet-aux 0.0.10.
    """
    from torch.nn.functional import max_pool2d

    width = found.shape[-1]
    heat = found[:, :1].sigmoid()
    peaks = heat * (max_pool2d(heat, 3, stride=1, padding=1) == heat)
    scores, places = peaks.flatten(1).topk(_MOST_LINES)
    offsets = found[:, 1:5].flatten(2).gather(2, places[:, None].expand(-1, 4, -1))
    results: list[np.ndarray] = []
    for its_scores, its_places, its_offsets in zip(
        scores.cpu().numpy(), places.cpu().numpy(), offsets.cpu().numpy(), strict=True
    ):
        lengths = np.sqrt(((its_offsets[:2] - its_offsets[2:]) ** 2).sum(axis=0))
        good = (its_scores > score) & (lengths > distance)
        centres = np.stack([its_places % width, its_places // width] * 2, axis=1)
        results.append(2 * (centres + its_offsets.T.astype(np.float64))[good])
    return results
