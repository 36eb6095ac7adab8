"""Networks that see depth: what goes into each and what its output means."""

import dataclasses
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from annotators.networks import as_batch, load_into, placed, reference
from annotators.pretrained import config_of, model_of, processor_of
from annotators.runtime import Precision, Runtime, torch_dtype
from annotators.weights import Weights, load_state, locate
from schemas.errors import ConfigError
from schemas.pixels import RgbU8

if TYPE_CHECKING:
    import torch

_PATCH = 32  # MiDaS halves its smallest feature map once more than it has patches of 16

_FAMILIES = ("depth_anything", "dpt", "glpn", "zoedepth")  # transformers' names
_IN_METRES = ("glpn", "zoedepth")

_NEAREST_M = 0.1  # one nearer speck would otherwise leave no grey levels for the scene


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
    path = locate(weights, runtime)
    load_into(network, load_state(path), path, assign=True)
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
        return torch.stack([one["predicted_depth"].reshape(size) for one in depths])


def prepared(
    images: Sequence[RgbU8], processor: Any, runtime: Runtime, precision: Precision
) -> "torch.Tensor":
    """Images of equal size as a transformers model wants them: resized and normalised.

    Args:
        images: each (H, W, 3) uint8.
        processor: the model's image processor; computes on the device, in float32.
        runtime: device.
        precision: of the result.
    """
    import numpy as np
    import torch

    batch = torch.from_numpy(np.stack(images)).to(runtime.device).permute(0, 3, 1, 2)
    # Told, so that it does not guess from the sides of an image three pixels wide, and warn.
    pixels = processor(
        images=list(batch),
        input_data_format="channels_first",
        return_tensors="pt",
        disable_grouping=False,
    )["pixel_values"]
    return pixels.to(torch_dtype(precision), memory_format=torch.channels_last)


def _ends_in_fp32(network: Any) -> Any:
    """The same network, whose last layer computes in float32.

    In bf16 a depth would come out with 8 significant bits, which shows as steps in the map; the sum
    over 32 channels costs nothing.
    """
    import torch

    convolutions = [part for part in network.modules() if isinstance(part, torch.nn.Conv2d)]
    last = [part for part in convolutions if part.out_channels == 1][-1].float()
    last.register_forward_pre_hook(lambda _, inputs: tuple(one.float() for one in inputs))
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
