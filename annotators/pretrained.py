"""Models of transformers, loaded from a folder: whole, without pickles and without foreign code."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from schemas.errors import ConfigError

Loaded = TypeVar("Loaded")


def config_of(folder: Path) -> Any:
    """A model's configuration, before its weights are read.

    Raises:
        ConfigError: the folder is not a model that this transformers knows.
    """
    from transformers import AutoConfig

    return _loaded(folder, lambda: AutoConfig.from_pretrained(folder, local_files_only=True))


def processor_of(folder: Path) -> Any:
    """A model's image processor: the torchvision one, which takes whole batches.

    Raises:
        ConfigError: the folder has none.
    """
    from transformers import AutoImageProcessor

    return _loaded(
        folder, lambda: AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    )


def model_of(kind: Any, folder: Path, *, unused: Sequence[str] = ()) -> Any:
    """A model with its weights, on the CPU in fp32.

    Args:
        kind: class to load it with, e.g. `AutoModelForDepthEstimation`.
        folder: with config.json and safetensors.
        unused: parts of names of weights that may be absent since nothing uses them.

    Raises:
        ConfigError: pickled weights, another kind of model, or weights that lack a part.
            transformers itself would fill such a part with random numbers.
    """
    import torch

    model, info = _loaded(
        folder,
        lambda: kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        ),
    )
    absent = [
        name for name in sorted(info["missing_keys"]) if not any(part in name for part in unused)
    ]
    if absent:
        raise ConfigError(
            f"{folder}: need the weights of every layer, got none for {absent[0]} and "
            f"{len(absent) - 1} more; fetch the weights again"
        )
    return model


def _loaded(folder: Path, load: Callable[[], Loaded]) -> Loaded:
    """What `load` returns; transformers' own progress bars and reports stay silent."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{folder}: need a transformers model for this task with safetensors weights, "
            f"got {type(error).__name__}: {reason}; choose another model or fetch it again"
        ) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
