"""Model folders from outside, before a library reads them: no code of their own, no pickles.

A folder may come from anybody, and a data set or a run may name it. transformers and diffusers get
these options wherever they load something, and see only configurations that passed
`check_model_config`.
"""

import contextlib
import dataclasses
import functools
import importlib
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

NO_CODE: Mapping[str, Any] = {"trust_remote_code": False}
"""For everything of transformers: Python that lies in the folder, or that it points to, stays."""

NO_PICKLES: Mapping[str, Any] = {"use_safetensors": True}
"""For every network of transformers and diffusers: a pickle can run anything when it is read."""

# What a configuration can ask for that makes a library fetch and run other people's code, or read
# weights in another way: kernels from a hub (`owner/name`), quantisers.
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")
_QUANTISER = "quantization_config"
_DEEPEST = 20  # of nested configurations; ours have three

_SD_SCALING = 0.18215  # of Stable Diffusion 1 and 2, whose first configs do not name it

Width = Annotated[int, msgspec.Meta(ge=1, le=65536)]
Widths = Annotated[tuple[Width, ...], msgspec.Meta(min_length=1, max_length=8)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """What is read of an AutoencoderKL's config; diffusers' own values where that says nothing.

    Raises:
        ValueError: factors that no latent could be scaled by.
    """

    block_out_channels: Widths = (64,)
    latent_channels: Width = 4
    scaling_factor: float = _SD_SCALING
    shift_factor: float | None = None

    def __post_init__(self) -> None:
        finite = math.isfinite(self.scaling_factor) and math.isfinite(self.shift_factor or 0.0)
        if not finite or self.scaling_factor <= 0:
            raise ValueError(
                f"need finite factors, got scaling_factor {self.scaling_factor} and shift_factor "
                f"{self.shift_factor}"
            )

    @property
    def factor(self) -> int:
        """Px of the image for one of the latent."""
        return 2 ** (len(self.block_out_channels) - 1)


def read_model_config(path: Path) -> dict[str, Any]:
    """A `config.json` that passed `check_model_config`.

    Raises:
        ValueError: it cannot be read, is no JSON object, or asks for what is not allowed.
    """
    try:
        config = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    check_model_config(config)
    return config


def check_model_config(config: Mapping[str, Any]) -> None:
    """Refuse a configuration that would make a library run foreign code.

    Raises:
        ValueError: it names a kernel on a hub, wants a quantiser, or is nested endlessly.
    """
    for name, value in _entries(config, 0):
        if name in _KERNELS and "/" in str(value):
            raise ValueError(f"its config wants the code {value!r} as {name}, which is never run")
        if name == _QUANTISER and value is not None:
            raise ValueError("its config wants quantised weights, which are not supported")


def _entries(value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _DEEPEST:
        raise ValueError("its config is nested too deeply")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name), inner
            yield from _entries(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner, depth + 1)


@contextlib.contextmanager
def no_questions() -> Iterator[None]:
    """Make transformers refuse, instead of asking on the terminal whether it may run code.

    `NO_CODE` says so already. This is for the calls that transformers makes itself, where it may
    have lost that word: without it, one press of a key runs a stranger's Python.
    """
    from transformers import dynamic_module_utils

    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds


class _Quiet:
    """No advice and no progress bars of a library, while any thread is inside.

    Both are settings of the process: the first one in changes them, the last one out restores them.
    """

    def __init__(self, library: str) -> None:
        self._library = library
        self._change = threading.Lock()
        self._inside = 0
        self._level, self._bars = logging.NOTSET, False

    def _settings(self) -> Any:
        return importlib.import_module(f"{self._library}.utils.logging")

    def __enter__(self) -> None:
        settings = self._settings()
        with self._change:
            if self._inside == 0:
                self._level = settings.get_verbosity()
                self._bars = settings.is_progress_bar_enabled()
                settings.set_verbosity(logging.CRITICAL)
                settings.disable_progress_bar()
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        settings = self._settings()
        with self._change:
            self._inside -= 1
            if self._inside == 0:
                settings.set_verbosity(self._level)
                if self._bars:
                    settings.enable_progress_bar()


@functools.cache
def quiet(library: Literal["transformers", "diffusers"]) -> _Quiet:
    """The one guard of a library for `with`; it can be entered again, and by several threads."""
    return _Quiet(library)
