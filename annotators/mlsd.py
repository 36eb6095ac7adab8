"""Straight lines: the network and weights of the ControlNet 1.1 annotator M-LSD."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from annotators.folding import without_batch_norm
from annotators.networks import as_batch, in_equal_sizes, load_into, not_finite, placed, reference
from annotators.options import EyeOptions, need
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.weights import MLSD, Weights, load_state, locate
from schemas.errors import ConfigError, Rejected
from schemas.pixels import RgbU8

if TYPE_CHECKING:
    import torch

_MULTIPLE = 64  # px; the network needs 16, the reference feeds it 64
_MOST_LINES = 200
_FARTHEST_PX = 1 << 20  # OpenCV cannot draw to any int32; cut off far outside every image


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MlsdSpec:
    """What counts as a line."""

    name: ClassVar[str] = "mlsd"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "bilevel"
    stats: ClassVar[Mapping[str, str]] = {"lines": "int32", "edge_density": "float32"}
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux, M-LSD)"

    score: float = 0.1
    distance: float = 0.1  # shortest line, px of half the image
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        need(0 <= self.score < 1, "mlsd", "0 <= score < 1", self.score)
        need(0 <= self.distance < float("inf"), "mlsd", "0 <= distance", self.distance)

    @classmethod
    def from_options(cls, options: EyeOptions, precision: Precision) -> "MlsdSpec":
        score, distance = _parsed(options.mlsd_thresholds)
        return cls(score=score, distance=distance, precision=precision)

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (MLSD,)

    def load(self, runtime: Runtime) -> Annotator:
        network = reference("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()
        path = locate(MLSD, runtime)
        load_into(network, load_state(path), path)
        network = placed(without_batch_norm(network), runtime, self.precision)
        # Lines are where a score is higher than its neighbours': bf16 would make too many equal.
        last = network.block23.conv3.float()
        last.register_forward_pre_hook(lambda _, arguments: (arguments[0].float(),))
        return _Mlsd(spec=self, runtime=runtime, network=network)


def _parsed(text: str) -> tuple[float, float]:
    try:
        score, distance = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--mlsd-thresholds: need SCORE,DISTANCE, e.g. 0.1,0.1, got {text!r}"
        ) from error
    return score, distance


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Mlsd:
    """White lines, one pixel wide, drawn at the image's size.

    The network gets images of other sizes resized to the nearest multiples of 64, as the reference
    does; but the lines are drawn in the image's coordinates, where the reference draws small and
    resizes the drawing, which makes it grey.
    """

    spec: MlsdSpec
    runtime: Runtime
    network: Any

    def __call__(self, images: Sequence[RgbU8], keys: Sequence[str]) -> list[Annotation | Rejected]:
        return in_equal_sizes(images, keys, self._look, at_once=self.runtime.images_at_once)

    def _look(
        self, images: Sequence[RgbU8], keys: Sequence[str]
    ) -> Sequence[Annotation | Rejected]:
        import torch
        from torch.nn.functional import pad

        size = (_rounded(images[0].shape[1]), _rounded(images[0].shape[0]))
        fitting = [cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in images]
        with torch.inference_mode():
            batch = as_batch(fitting, self.runtime, self.spec.precision)
            # The fourth channel is constant, and is scaled like the others.
            batch = pad(batch, (0, 0, 0, 0, 0, 1), value=1.0)
            found = self.network(batch / 127.5 - 1).float()
            finite = torch.isfinite(found).flatten(1).all(1).tolist()
            lines = segments(found, score=self.spec.score, distance=self.spec.distance)
        height, width = images[0].shape[:2]
        scale = np.array([width / size[0], height / size[1]] * 2)
        return [
            self._drawn(some * scale, image) if good else not_finite()
            for some, image, good in zip(lines, images, finite, strict=True)
        ]

    def _drawn(self, lines: np.ndarray, image: RgbU8) -> Annotation:
        pixels = np.zeros(image.shape[:2], np.uint8)
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
