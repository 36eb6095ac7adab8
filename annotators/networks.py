"""What learned annotators share: reference networks, batches of equal size, pixels and floats."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from annotators.runtime import Precision, Runtime, torch_dtype
from schemas.errors import ConfigError, Reason, Rejected
from schemas.pixels import MapU8, RgbU8

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

_ALIAS = "controlnet_aux_networks"


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
    tensors = state.get(within) if within else state
    kind = type(network).__name__
    if not isinstance(tensors, Mapping):
        raise ConfigError(
            f"{path}: need the weights of {kind} under {within!r}, got {', '.join(list(state)[:3])}"
            "; another file has this name: delete it and fetch it again"
        )
    named = {str(name).removeprefix("module."): one for name, one in tensors.items()}
    try:
        network.load_state_dict(named, assign=assign)
    except (RuntimeError, TypeError, AttributeError) as error:
        found = "; ".join(line.strip()[:90] for line in str(error).splitlines()[1:3]) or str(error)
        raise ConfigError(
            f"{path}: need the weights of {kind}, got others ({found[:200]}); "
            "another file has this name: delete it and fetch it again"
        ) from error


def placed(network: Any, runtime: Runtime, precision: Precision) -> Any:
    """A network ready to infer: frozen, on its device, in its number format, channels last.

    Args:
        network: `torch.nn.Module`.
        runtime: device, and whether to compile.
        precision: of its parameters.
    """
    import torch

    network = network.eval().requires_grad_(False)
    network = network.to(
        device=runtime.device,
        dtype=torch_dtype(precision),
        memory_format=torch.channels_last,
    )
    return torch.compile(network) if runtime.compile else network


def as_batch(images: Sequence[RgbU8], runtime: Runtime, precision: Precision) -> "torch.Tensor":
    """Images of equal size as one batch.

    Returns:
        (B, 3, H, W) in channels-last layout, RGB order, 0..255, of the precision's type.
    """
    import torch

    stacked = torch.from_numpy(np.stack(images)).to(runtime.device, non_blocking=True)
    return stacked.permute(0, 3, 1, 2).to(torch_dtype(precision))


def in_equal_sizes(
    images: Sequence[RgbU8],
    keys: Sequence[str],
    look: Callable[[Sequence[RgbU8], Sequence[str]], Sequence[Result]],
    *,
    at_once: int,
) -> list[Result]:
    """Call `look` with images of one size at a time, and return its results in order.

    Args:
        images: each (H, W, 3) uint8, sizes may differ.
        keys: one for each image.
        look: gets 1 to `at_once` images of equal size and their keys.
        at_once: at most so many images a call.
    """
    by_size: dict[tuple[int, ...], list[int]] = {}
    for number, image in enumerate(images):
        by_size.setdefault(image.shape, []).append(number)
    results: dict[int, Result] = {}
    for numbers in by_size.values():
        for start in range(0, len(numbers), at_once):
            together = numbers[start : start + at_once]
            answers = look([images[n] for n in together], [keys[n] for n in together])
            results.update(zip(together, answers, strict=True))
    return [results[number] for number in range(len(images))]


def as_maps_u8(unit_maps: "torch.Tensor") -> list[MapU8 | RgbU8 | Rejected]:
    """Maps in 0..1 as uint8, cut off as the reference does; those with NaN or inf are rejected.

    Args:
        unit_maps: (B, H, W) or (B, H, W, 3) floats of any type, on any device.
    """
    import torch

    finite = torch.isfinite(unit_maps).flatten(1).all(1).tolist()
    pixels = (unit_maps.float() * 255.0).clamp_(0, 255).to(torch.uint8).cpu().numpy()
    return [one if good else not_finite() for one, good in zip(pixels, finite, strict=True)]


def not_finite() -> Rejected:
    """The reject of a map with NaN or infinite values."""
    return Rejected(Reason.NOT_FINITE, "need finite values, got NaN or infinity in the map")
