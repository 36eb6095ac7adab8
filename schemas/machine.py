"""What this machine has for us, on Linux, macOS and Windows."""

import os


def cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # of Linux
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def memory_bytes() -> tuple[int, int]:
    """All memory of the machine, and what is free."""
    import psutil

    memory = psutil.virtual_memory()
    return memory.total, memory.available
