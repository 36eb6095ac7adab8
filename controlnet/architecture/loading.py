"""What is common to loading networks: refusals, their values, and what is shown meanwhile."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from schemas.errors import ConfigError


@contextlib.contextmanager
def refusing(refusal: Callable[[str], str]) -> Iterator[None]:
    """One line of ours for whatever a strange file makes the libraries raise: nearly anything.

    Want of memory, and what is such a line already, go through.

    Args:
        refusal: makes it of the first line of what they say.

    Raises:
        ConfigError: instead of theirs.
    """
    try:
        yield
    except (MemoryError, ConfigError):
        raise
    except Exception as error:
        # A KeyError's own text would be in quotes.
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        said = ((str(text) or type(error).__name__).splitlines() or [""])[0][:160]
        raise ConfigError(refusal(said)) from error


def need_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse a network with a NaN or an infinity in it: all that it draws is black.

    Raises:
        ConfigError: names the first one.
    """
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ConfigError(
                f"{where}: need finite weights, got NaN or infinity in {name}; take an earlier "
                "checkpoint, or train with a lower --learning-rate"
            )


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Loading shows no bars of the libraries' own among ours; downloads still do.

    The bars are settings of the process: what they were before, they are again afterwards.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as transformers_logging

    downloads = disable_progress_bars if are_progress_bars_disabled() else enable_progress_bars
    shown = [
        library
        for library in (transformers_logging, diffusers_logging)
        if library.is_progress_bar_enabled()
    ]
    for library in shown:
        library.disable_progress_bar()  # transformers' silences downloads, too
    downloads()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
        downloads()
