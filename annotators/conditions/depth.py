"""Depth maps, near = bright, from MiDaS as ControlNet 1.1 has it or from a transformers model."""

import dataclasses
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from annotators.network import (
    NetworkAnnotator,
    as_batch,
    config_of,
    model_of,
    not_finite,
    placed,
    prepared,
    processor_of,
    read_weights,
    reference,
)
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime, torch_dtype
from annotators.weights import ANNOTATORS, Weights, locate, model
from schemas.errors import ConfigError, Rejected, need
from schemas.pixels import RgbU8

if TYPE_CHECKING:
    import torch

MIDAS = Weights(
    hub_id=ANNOTATORS,
    file="dpt_hybrid-midas-501f0c75.pt",
    licence="MIT",
    size_mb=493,
    sha256="501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853",
)
MODELS = {
    "Intel/dpt-hybrid-midas": ("Apache-2.0", 490),
    "Intel/dpt-large": ("Apache-2.0", 1370),
    "depth-anything/Depth-Anything-V2-Small-hf": ("Apache-2.0", 99),
    "depth-anything/Depth-Anything-V2-Base-hf": ("CC-BY-NC-4.0", 390),
    "depth-anything/Depth-Anything-V2-Large-hf": ("CC-BY-NC-4.0", 1340),
}
"""Models of transformers that we name ourselves -> licence, size in MB."""

_PATCH = 32  # MiDaS halves its smallest feature map once more than it has patches of 16

_FAMILIES = ("depth_anything", "dpt", "glpn", "zoedepth")  # transformers' names
_IN_METRES = ("glpn", "zoedepth")

_NEAREST_M = 0.1  # one nearer speck would otherwise leave no grey levels for the scene

# A range below this part of the largest value is the format's rounding noise, not a scene.
_NOISE: Mapping[Precision, float] = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 8e-3}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DepthSpec:
    """Which network looks, and how finely its map is stored.

    Raises:
        ConfigError: 16 bits of a network that computes in 8 or 11.
    """

    name: ClassVar[str] = "depth"
    revision: ClassVar[int] = 1
    # min, max: what the map's darkest and brightest value stand for: inverse distance up to the
    # network's unknown scale and shift; 1 / metres if it is metric. flat: no range, map is black.
    stats: ClassVar[Mapping[str, str]] = {"min": "float32", "max": "float32", "flat": "bool"}
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux, transformers)"
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"model": "midas"},)

    model: str = "depth-anything/Depth-Anything-V2-Small-hf"
    """Model of transformers that sees depth (Depth Anything, DPT, ZoeDepth or GLPN): its name on
    the hub, or a folder. Or `midas`: what the ControlNet 1.1 annotator uses."""

    bits: Literal[8, 16] = 8
    """Bits of a pixel in the stored map; 16 keep finer steps, and are computed in fp32."""

    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        need(self.bits in (8, 16), "--depth-bits", "8 or 16", self.bits)
        need(
            self.bits == 8 or self.precision == "fp32",
            "--depth-bits 16",
            "--precision fp32 or auto",
            self.precision,
        )

    @staticmethod
    def always_fp32(parameters: Mapping[str, Any]) -> bool:
        """Whether `--precision auto` means fp32: bf16 and fp16 have fewer than 16 bits."""
        return parameters.get("bits") == 16

    @property
    def hint_mode(self) -> HintMode:
        return "grey16" if self.bits == 16 else "grey"

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (MIDAS,) if self.model == "midas" else (model(self.model, MODELS),)

    def load(self, runtime: Runtime) -> Annotator:
        load = load_midas if self.model == "midas" else load_transformers
        return NetworkAnnotator(
            runtime=runtime,
            network=load(self.weights[0], runtime, self.precision),
            draw=lambda nearness, _height, _width: finished(
                nearness, bits=self.bits, noise=_NOISE[self.precision]
            ),
        )


def finished(
    nearness: "torch.Tensor", *, bits: int, noise: float = 1e-5
) -> list[Annotation | Rejected]:
    """Depth maps with their statistics, each over its own range.

    Args:
        nearness: (B, H, W) float32 inverse distance, in any unit and from any zero.
        bits: of the map's pixels.
        noise: part of the largest value up to which a range counts as none.

    Returns:
        For each image (H, W) uint8 or uint16, 0 = farthest, 255 or 65535 = nearest, cut off as
        controlnet-aux does; all zeros where the scene is flat. A reject where a value is NaN or
        infinite.
    """
    import torch

    finite = torch.isfinite(nearness).flatten(1).all(1).tolist()
    lowest, highest = nearness.amin((1, 2)).tolist(), nearness.amax((1, 2)).tolist()
    above = nearness - nearness.amin((1, 2), keepdim=True)
    top = 2**bits - 1
    scaled = above / above.amax((1, 2), keepdim=True) * top
    pixels = scaled.clamp_(0, top).to(torch.int32).cpu().numpy()
    results: list[Annotation | Rejected] = []
    for number, (low, high) in enumerate(zip(lowest, highest, strict=True)):
        if not finite[number]:
            results.append(not_finite())
            continue
        flat = high - low <= noise * max(abs(low), abs(high))
        shown = np.zeros_like(pixels[number]) if flat else pixels[number]
        stats = {"min": low, "max": high, "flat": flat}
        results.append(
            Annotation(pixels=shown.astype(np.uint16 if bits == 16 else np.uint8), stats=stats)
        )
    return results


# Images of equal size in, their inverse distance out: (B, H, W) float32 of the images' size.
# Several threads may call it at once.
DepthNetwork = Callable[[Sequence[RgbU8]], "torch.Tensor"]


def load_midas(weights: Weights, runtime: Runtime, precision: Precision) -> DepthNetwork:
    """The DPT-Hybrid of MiDaS, as controlnet-aux builds it."""
    import torch

    vit = reference("midas.midas.vit")
    if not isinstance(vit.activations, _OfThisThread):
        vit.activations = _OfThisThread()
    with warnings.catch_warnings(), torch.device("meta"):
        # timm renamed the backbone and says so
        warnings.filterwarnings("ignore", message="Mapping deprecated model name")
        kind = reference("midas.midas.dpt_depth").DPTDepthModel
        network = kind(path=None, backbone="vitb_rn50_384", non_negative=True)
    # Made without memory of its own, since it takes the file's tensors themselves.
    read_weights(network, weights, runtime, assign=True)
    network = _ends_in_fp32(placed(network, runtime, precision))
    return _Midas(network=network, runtime=runtime, precision=precision)


def load_transformers(weights: Weights, runtime: Runtime, precision: Precision) -> DepthNetwork:
    """A depth estimation model of transformers, with its own image processor.

    Raises:
        ConfigError: another kind of model, or its files are not complete.
    """
    from transformers import AutoModelForDepthEstimation

    folder = locate(weights, runtime)
    config = config_of(folder)
    family = config.model_type
    if family not in _FAMILIES:
        raise ConfigError(
            f"--depth-model {weights.hub_id}: need a model of type {', '.join(_FAMILIES)}, "
            f"got {family}; choose another one"
        )
    # The deepest fusion layer has nothing to add, and released DPT files lack that unit of it.
    unused = ("fusion_stage.layers.0.residual_layer1",)
    network = model_of(AutoModelForDepthEstimation, folder, unused=unused)
    network = placed(network, runtime, precision)
    return _Transformers(
        network=network if family in _IN_METRES else _ends_in_fp32(network),
        processor=processor_of(folder),
        runtime=runtime,
        precision=precision,
        metric=family in _IN_METRES or getattr(config, "depth_estimation_type", "") == "metric",
        pads=family == "zoedepth",
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Midas:
    """Source: `MidasDetector` of controlnet-aux 0.0.10, which rounds sizes to multiples of 64."""

    network: Any
    runtime: Runtime
    precision: Precision

    def __call__(self, images: Sequence[RgbU8]) -> "torch.Tensor":
        from torch.nn.functional import interpolate

        size = images[0].shape[:2]
        inner = tuple(max(_PATCH, round(side / _PATCH) * _PATCH) for side in size)
        batch = as_batch(images, self.runtime, "fp32") / 127.5 - 1.0
        if inner != size:
            batch = interpolate(batch, inner, mode="bicubic", antialias=True).clamp_(-1, 1)
        depth = self.network(batch.to(torch_dtype(self.precision))).float()
        if inner != size:
            depth = interpolate(depth[:, None], size, mode="bicubic")[:, 0]
        return depth


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Transformers:
    network: Any
    processor: Any
    runtime: Runtime
    precision: Precision
    metric: bool  # predicts metres (near = small)
    pads: bool  # its processor adds a margin, which comes off again afterwards

    def __call__(self, images: Sequence[RgbU8]) -> "torch.Tensor":
        import torch

        size = images[0].shape[:2]
        pixels = prepared(images, self.processor, self.runtime, self.precision)
        outputs = self.network(pixel_values=pixels)
        depth = outputs.predicted_depth.float()
        if self.metric:
            # Before it is enlarged: beyond the rim of a near thing bicubic metres swing below 0.
            depth = 1 / depth.clamp(min=_NEAREST_M)
        outputs.predicted_depth = depth
        sizes = [size] * len(images)
        extra = {"source_sizes": sizes} if self.pads else {}
        depths = self.processor.post_process_depth_estimation(outputs, target_sizes=sizes, **extra)
        # transformers squeezes sides of one pixel away
        return torch.stack([depth["predicted_depth"].reshape(size) for depth in depths])


def _ends_in_fp32(network: Any) -> Any:
    """The same network, whose last layer computes in float32.

    In bf16 a depth would come out with 8 significant bits, which shows as steps in the map; the sum
    over 32 channels costs nothing.
    """
    import torch

    convolutions = [part for part in network.modules() if isinstance(part, torch.nn.Conv2d)]
    last = [part for part in convolutions if part.out_channels == 1][-1].float()
    last.register_forward_pre_hook(lambda _, inputs: tuple(tensor.float() for tensor in inputs))
    return network


class _OfThisThread:
    """Stands in for the dictionary that takes feature maps from the hooks of MiDaS to its decoder.

    One dictionary for all threads would mix their pictures; here each has its own, and a feature
    map is let go as soon as it was read.
    """

    def __init__(self) -> None:
        self._own = threading.local()

    def __getitem__(self, name: str) -> Any:
        return self._own.__dict__.pop(name)

    def __setitem__(self, name: str, features: Any) -> None:
        self._own.__dict__[name] = features
