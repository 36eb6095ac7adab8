"""Models of transformers, loaded from a folder: whole, without pickles and without foreign code."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from annotators.runtime import Precision, Runtime, torch_dtype
from schemas.errors import ConfigError
from schemas.model_files import NO_CODE, NO_PICKLES, no_questions, read_model_config
from schemas.pixels import RgbU8

if TYPE_CHECKING:
    import torch

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
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with no_questions():
            return load()
    except MemoryError:
        raise
    except Exception as error:  # a strange configuration makes transformers raise nearly anything
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{folder}: need a transformers model for this task with safetensors weights, "
            f"got {type(error).__name__}: {reason}; choose another model or fetch it again"
        ) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
