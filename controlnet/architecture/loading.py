"""What the libraries show on the terminal while they load a network."""

import contextlib
from collections.abc import Iterator


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
