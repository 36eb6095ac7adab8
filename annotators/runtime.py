"""Where annotators run: device, precision, where weights lie. None of it is part of a data set.

The precision is: it changes floats, so it is resolved once, at launch, and stands in every spec.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from schemas.errors import ConfigError

if TYPE_CHECKING:
    import torch

PrecisionAsked = Literal["auto", "fp32", "bf16", "fp16"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """What `Spec.load` is told about the process that it loads into."""

    device: str = "cpu"  # resolved: "cpu", "cuda", "cuda:1", "mps"
    weights: str | None = None  # folder that is searched before the hub's cache
    offline: bool = False  # never ask the hub
    compile: bool = False  # torch.compile the networks

    @property
    def images_at_once(self) -> int:
        """Images that go through a network together.

        On a CPU one for each thread: the layers of one 512x512 image fill the caches already, and
        eight are 1.2 times slower (HED on two cores, DECISIONS.md). On a GPU the whole batch.
        """
        return 1 if self.device == "cpu" else 64


def resolve_device(asked: str) -> str:
    """The device to use.

    Args:
        asked: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        ConfigError: asked for and not there; never silently the CPU.
    """
    if asked == "cpu":
        return asked
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    name, _, number = asked.partition(":")
    if name == "cuda" and (not number or number.isdigit()):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if found > int(number or 0):
            return asked
        raise ConfigError(
            f"--device {asked}: need that GPU, found {found or 'none'}; "
            "use --device auto or cpu, or see `controlset doctor`"
        )
    if asked == "mps":
        if torch.backends.mps.is_available():
            return asked
        raise ConfigError("--device mps: need Apple's GPU, found none; use --device auto or cpu")
    raise ConfigError(f"--device: need auto, cpu, cuda, cuda:N or mps, got {asked!r}")


def resolve_precision(asked: PrecisionAsked, device: str) -> Precision:
    """The number format of the networks; `auto`: the fast one that the hardware has.

    Args:
        asked: `auto`, or the format itself.
        device: from `resolve_device`.
    """
    if asked != "auto":
        return asked
    import torch

    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device == "cpu" and _cpu_multiplies_bf16():
        return "bf16"
    return "fp32"


def _cpu_multiplies_bf16() -> bool:
    """AMX or AVX512-BF16: elsewhere bf16 is emulated and slower than fp32."""
    import torch

    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def torch_dtype(precision: Precision) -> "torch.dtype":
    """The format as torch names it."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def use_one_thread_each() -> None:
    """Let torch compute in the calling thread alone; to be called in every thread of a pool.

    The pool's threads are the parallelism, and a result then cannot depend on their number.
    """
    import torch

    torch.set_num_threads(1)


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """Around work whose threads call `use_one_thread_each`.

    A thread that has not computed yet would take that number over: ours first says its own.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
