"""What annotators with a network share: how weights come in, images through, and maps out.

Networks of controlnet-aux get the tensors of a file; models of transformers come from a folder:
whole, without pickles and without foreign code.
"""

import dataclasses
import importlib
import importlib.util
import itertools
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import cv2
import numpy as np

from annotators.runtime import Precision, Runtime, torch_dtype
from annotators.weights import Weights, load_state, locate
from schemas.errors import ConfigError, Reason, Rejected, first_line
from schemas.model_files import NO_CODE, NO_PICKLES, no_questions, quiet, read_model_config
from schemas.pixels import MapU8, RgbU8

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

_ALIAS = "controlnet_aux_networks"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NetworkAnnotator(Generic[Result]):
    """A loaded annotator: images of any sizes through a network, those of one size together.

    Threads share it; nothing in it changes.
    """

    runtime: Runtime  # says how many images go through at once

    feed: Callable[[Sequence[RgbU8]], Any] = list
    """Images of one size -> what the network takes: in its number format, at a size it can see."""

    network: Callable[[Any], Any]

    draw: Callable[[Any, int, int], Sequence[Result]]
    """The network's output, height and width of the images -> one result for each image."""

    def __call__(self, images: Sequence[RgbU8], keys: Sequence[str]) -> list[Result]:
        """One result for each image, in order."""
        import torch

        by_size: dict[tuple[int, ...], list[int]] = {}
        for number, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(number)
        results: dict[int, Result] = {}
        at_once = self.runtime.images_at_once
        with torch.inference_mode():
            # A batch has one size; images of a set in buckets have several.
            for (height, width, _), numbers in by_size.items():
                for start in range(0, len(numbers), at_once):
                    together = numbers[start : start + at_once]
                    output = self.network(self.feed([images[number] for number in together]))
                    results.update(zip(together, self.draw(output, height, width), strict=True))
        return [results[number] for number in range(len(images))]


def reference(module: str) -> Any:
    """A module of controlnet-aux, e.g. `hed`, without its package's own imports.

    `import controlnet_aux` loads every detector (8 s and several warnings about packages that are
    not needed). Under another package name its modules find each other, and the real package stays
    untouched for whoever imports it.
    """
    if _ALIAS not in sys.modules:
        spec = importlib.util.find_spec("controlnet_aux")
        if spec is None or spec.submodule_search_locations is None:
            raise ConfigError("controlnet-aux: need the package, found none; pip install it")
        package = types.ModuleType(_ALIAS)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[_ALIAS] = package
    return importlib.import_module(f"{_ALIAS}.{module}")


def read_weights(network: Any, weights: Weights, runtime: Runtime, **how: Any) -> Any:
    """The same network, with the tensors of its file; `how` as in `load_into`.

    Raises:
        ConfigError: the file is not here, or another network's.
    """
    path = locate(weights, runtime)
    load_into(network, load_state(path), path, **how)
    return network


def load_into(
    network: Any, state: Any, path: Path, *, within: str | None = None, assign: bool = False
) -> None:
    """Give a network the tensors of its file; their names may begin with `module.`.

    Args:
        network: `torch.nn.Module`, whose every tensor must be in the file, and nothing else.
        state: from `weights.load_state`.
        path: the file, for the error.
        within: name of the part of `state` that holds the tensors, e.g. `state_dict`.
        assign: keep the file's tensors themselves, also in another type.

    Raises:
        ConfigError: the file is another network's.
    """
    kind = type(network).__name__
    try:
        network.load_state_dict(_tensors(kind, state, path, within), assign=assign)
    except (RuntimeError, TypeError, AttributeError) as error:
        found = "; ".join(line.strip()[:90] for line in str(error).splitlines()[1:3]) or str(error)
        raise ConfigError(
            f"{path}: need the weights of {kind}, got others ({found[:200]}); "
            "another file has this name: delete it and fetch it again"
        ) from error


def _tensors(kind: str, state: Any, path: Path, within: str | None) -> dict[str, Any]:
    """Those of a file by the names of a network's parameters.

    Raises:
        ConfigError: the part of the file that should hold them is not there.
    """
    tensors = state.get(within) if within else state
    if not isinstance(tensors, Mapping):
        raise ConfigError(
            f"{path}: need the weights of {kind} under {within!r}, got {', '.join(list(state)[:3])}"
            "; another file has this name: delete it and fetch it again"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in tensors.items()}


def load_of_any_width(network: Any, state: Any, path: Path, *, within: str | None = None) -> Any:
    """The network, with as many channels in its convolutions as its file has.

    So a small network of a released one's form is read like that one.

    Args:
        network: `torch.nn.Module` of convolutions, whose input is (B, 3, H, W); changed in place.
            They may be of a class of their own, as PiDiNet's are.
        state: from `weights.load_state`.
        path: the file, for errors.
        within: as in `load_into`.

    Raises:
        ConfigError: the file is another network's, or its widths do not fit each other.
    """
    import torch

    tensors = _tensors(type(network).__name__, state, path, within)
    is_changed = False
    for name, part in network.named_modules():
        weight, own = tensors.get(f"{name}.weight"), getattr(part, "weight", None)
        if not isinstance(weight, torch.Tensor) or not isinstance(own, torch.Tensor):
            continue
        if own.ndim != 4 or weight.shape[2:] != own.shape[2:] or weight.shape == own.shape:
            continue  # of another form, which `load_into` refuses, or as wide already
        outputs, inputs = weight.shape[:2]
        if part.groups > 1:  # one for each channel, as in all networks here
            part.groups = outputs
        part.in_channels, part.out_channels = inputs * part.groups, outputs
        part.weight = torch.nn.Parameter(own.new_empty(weight.shape))
        if part.bias is not None:
            part.bias = torch.nn.Parameter(own.new_empty(outputs))
        is_changed = True
    load_into(network, tensors, path)
    if not is_changed:
        return network
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, 32, 32))
    except RuntimeError as error:
        raise ConfigError(
            f"{path}: need layers whose numbers of channels fit each other, got "
            f"{first_line(error)}; fetch the file again"
        ) from error
    return network


def placed(
    network: Any,
    runtime: Runtime,
    precision: Precision,
    *,
    forward: Callable[[Any, Any], Any] | None = None,
) -> Any:
    """A network ready to infer: frozen, on its device, in its number format, channels last.

    Args:
        network: `torch.nn.Module`.
        runtime: device, and whether to compile.
        precision: of its parameters.
        forward: what is computed with the network and a batch; None: its own `forward`.
    """
    import torch

    network = network.eval().requires_grad_(False)
    network = network.to(
        device=runtime.device,
        dtype=torch_dtype(precision),
        memory_format=torch.channels_last,
    )
    if forward is None:
        return torch.compile(network) if runtime.compile else network

    def infer(batch: "torch.Tensor") -> "torch.Tensor":
        return forward(network, batch)

    return torch.compile(infer) if runtime.compile else infer


def as_batch(images: Sequence[RgbU8], runtime: Runtime, precision: Precision) -> "torch.Tensor":
    """Images of equal size as one batch.

    Returns:
        (B, 3, H, W) in channels-last layout, RGB order, 0..255, of the precision's type.
    """
    import torch

    stacked = torch.from_numpy(np.stack(images)).to(runtime.device, non_blocking=True)
    return stacked.permute(0, 3, 1, 2).to(torch_dtype(precision))


def padded(images: Sequence[RgbU8], *, multiple: int, smallest: int) -> Sequence[RgbU8]:
    """Images continued to the right and below by their mirror image, so that no pixel moves.

    A mirror image has the picture's own textures and no edge at the seam. Whoever pads cuts the
    map back: `map[:height, :width]`.

    Args:
        images: of one size.
        multiple: height and width become multiples of it, px.
        smallest: and at least this, px.

    Returns:
        The images themselves if they fit already.
    """
    height, width = images[0].shape[:2]
    below = max(smallest, -(-height // multiple) * multiple) - height
    right = max(smallest, -(-width // multiple) * multiple) - width
    if not below and not right:
        return images
    return [cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT) for image in images]


def as_maps_u8(unit_maps: "torch.Tensor") -> list[MapU8 | RgbU8 | Rejected]:
    """Maps in 0..1 as uint8, cut off as the reference does; those with NaN or inf are rejected.

    Args:
        unit_maps: (B, H, W) or (B, H, W, 3) floats of any type, on any device.
    """
    import torch

    finite = torch.isfinite(unit_maps).flatten(1).all(1).tolist()
    pixels = (unit_maps.float() * 255.0).clamp_(0, 255).to(torch.uint8).cpu().numpy()
    return [image if good else not_finite() for image, good in zip(pixels, finite, strict=True)]


def without_batch_norm(network: Any) -> Any:
    """A network for inference whose normalisations have become weights of its convolutions.

    The same map with fewer passes. Only for networks whose modules run in the order in which they
    were defined; a convolution directly followed by a BatchNorm2d of its width is folded (of
    timm's, which activate too, the activation stays). Call it before the weights are cast to
    another number format.

    Args:
        network: `torch.nn.Module`; changed in place.
    """
    from torch.nn import BatchNorm2d, Conv2d, Identity
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for parent in network.eval().modules():
        children = list(parent.named_children())
        for (name, convolution), (next_name, norm) in itertools.pairwise(children):
            fits = isinstance(convolution, Conv2d) and isinstance(norm, BatchNorm2d)
            if fits and convolution.out_channels == norm.num_features:
                setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, next_name, getattr(norm, "act", Identity()))
    return network


def not_finite() -> Rejected:
    """The reject of a map with NaN or infinite values."""
    return Rejected(Reason.NOT_FINITE, "need finite values, got NaN or infinity in the map")


# Models of transformers -------------------------------------------------------------------------

Loaded = TypeVar("Loaded")

_LOCAL = {"local_files_only": True, **NO_CODE}


def kind_of(folder: Path) -> object:
    """The `model_type` of a model, e.g. `blip`; anything at all where its config is odd.

    Raises:
        ConfigError: no config.json, none of JSON, or one that wants foreign code.
    """
    return _loaded(folder, lambda: read_model_config(folder / "config.json").get("model_type"))


def config_of(folder: Path) -> Any:
    """A model's configuration, before its weights are read.

    Raises:
        ConfigError: the folder is not a model that this transformers knows.
    """
    from transformers import AutoConfig

    def load() -> Any:
        read_model_config(folder / "config.json")
        return AutoConfig.from_pretrained(folder, **_LOCAL)

    return _loaded(folder, load)


def processor_of(folder: Path) -> Any:
    """A model's image processor: the torchvision one, which takes whole batches.

    Raises:
        ConfigError: the folder has none.
    """
    from transformers import AutoImageProcessor

    return _loaded(folder, lambda: AutoImageProcessor.from_pretrained(folder, **_LOCAL))


def captioning_processor_of(folder: Path) -> Any:
    """A captioner's image processor and tokenizer in one.

    Raises:
        ConfigError: the folder lacks one of them.
    """
    from transformers import AutoProcessor

    return _loaded(
        folder, lambda: AutoProcessor.from_pretrained(folder, backend="torchvision", **_LOCAL)
    )


def model_of(
    kind: Any, folder: Path, *, unused: Sequence[str] = (), precision: Precision = "fp32"
) -> Any:
    """A model with its weights, on the CPU.

    Args:
        kind: class to load it with, e.g. `AutoModelForDepthEstimation`.
        folder: with config.json and safetensors.
        unused: parts of names of weights that may be absent since nothing uses them.
        precision: of the weights.

    Raises:
        ConfigError: pickled weights, another kind of model, or weights that lack a part.
            transformers itself would fill such a part with random numbers.
    """

    def load() -> Any:
        read_model_config(folder / "config.json")
        return kind.from_pretrained(
            folder,
            dtype=torch_dtype(precision),
            output_loading_info=True,
            **_LOCAL,
            **NO_PICKLES,
        )

    model, info = _loaded(folder, load)
    absent = [
        name for name in sorted(info["missing_keys"]) if not any(part in name for part in unused)
    ]
    if absent:
        raise ConfigError(
            f"{folder}: need the weights of every layer, got none for {absent[0]} and "
            f"{len(absent) - 1} more; fetch the weights again"
        )
    return model


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


def _loaded(folder: Path, load: Callable[[], Loaded]) -> Loaded:
    """What `load` returns; transformers' own progress bars, reports and questions stay silent."""
    try:
        with quiet("transformers"), no_questions():
            return load()
    except MemoryError:
        raise
    except Exception as error:  # a strange configuration makes transformers raise nearly anything
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{folder}: need a transformers model for this task with safetensors weights, "
            f"got {type(error).__name__}: {reason}; choose another model or fetch it again"
        ) from error
