"""What this machine has for us, on Linux, macOS and Windows."""

import contextlib
import errno
import mmap
import os
import platform
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TypeVar

from schemas.errors import ConfigError

Item = TypeVar("Item")

_KEPT_BACK_BYTES = 64 << 20
_LEAST_BYTES = 256 << 20  # beside what is kept back, three small pictures take 80 MiB

# How libraries say it: torch, OpenCV, C++, the loader of libraries, Python's threads, and Beam,
# which packs exceptions into others of its own.
_NO_MEMORY = re.compile(
    r"out ?of ?memory|can't allocate memory|cannot allocate memory|insufficient memory|bad_alloc|"
    r"memoryerror|failed to map segment|can't start new thread",
    re.IGNORECASE,
)

# How native code fails that does not say why: Python's own, protobuf, OpenSSL's sums (measured).
_UNSAID = re.compile(r"SystemError: |DecodeError: |ValueError: no reason supplied")


def cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # of Linux
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def in_order(calls: Iterable[Callable[[], Item]], pool: Executor, *, ahead: int) -> Iterator[Item]:
    """Results of calls on a pool of threads, in their order; `ahead` of them are under way."""
    pending: deque[Future[Item]] = deque()
    try:
        for call in calls:
            pending.append(pool.submit(call))
            del call  # or what it holds, a batch of pictures, lives until the next one
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Left early: a call failed, or whoever takes the results did.
        for future in pending:
            future.cancel()


def processor() -> str:
    """Name of the processor; of its architecture where the system does not tell more."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def memory_bytes() -> tuple[int, int]:
    """All memory of the machine, and what is free."""
    import psutil

    memory = psutil.virtual_memory()
    return memory.total, memory.available


def has_room(size_bytes: int) -> bool:
    """Whether the system would give so much memory now; none of it is touched or kept."""
    try:
        mmap.mmap(-1, size_bytes).close()
    except (OSError, OverflowError, MemoryError):
        return False
    return True


def need_memory(place: str) -> None:
    """Refuse to start with so little memory that the first picture would end the run.

    Args:
        place: what the run writes, for the error.

    Raises:
        ConfigError: less is left than any run takes.
    """
    if not has_room(_LEAST_BYTES):
        raise ConfigError(
            f"{place}: need {_LEAST_BYTES >> 20} MiB of memory to start with, got less; end other "
            "programs, or raise the limit (`ulimit -v`)"
        )


_KEPT_BACK: list[mmap.mmap] = []


@contextlib.contextmanager
def memory_kept_back() -> Iterator[None]:
    """Keep some memory back meanwhile, for telling that the rest is used up, and for tidying up.

    With none at all, Python's threads wait for each other for good and protobuf crashes (measured).
    It is not touched, so it takes room under a limit (`ulimit -v`) alone.
    """
    with contextlib.suppress(OSError, MemoryError):
        _KEPT_BACK.append(mmap.mmap(-1, _KEPT_BACK_BYTES))
    try:
        yield
    finally:
        give_kept_back()


def give_kept_back() -> None:
    """To be called as soon as memory is found to lack."""
    while _KEPT_BACK:
        _KEPT_BACK.pop().close()


def lacks_memory(error: BaseException) -> bool:
    """Whether an exception, or one that it was raised from, says that there is no more memory."""
    cause: BaseException | None = error
    while cause is not None:
        full = isinstance(cause, OSError) and cause.errno == errno.ENOMEM
        if full or isinstance(cause, MemoryError) or _NO_MEMORY.search(_told(cause)):
            return True
        if _UNSAID.match(_told(cause)) and not has_room(_LEAST_BYTES):
            return True
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
