"""C libraries that write to stderr by themselves."""

import ctypes
from pathlib import Path


def silence_libtiff() -> None:
    """Stop libtiff from printing about every damaged strip; Pillow raises what matters.

    Pillow leaves libtiff's own handlers in place: one damaged fax page prints dozens of lines.
    Works on the copy of libtiff that this process has loaded; without /proc it does nothing.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    lines = maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    for path in {line.split(maxsplit=5)[-1] for line in lines if "/libtiff" in line}:
        library = ctypes.CDLL(path)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
            set_handler(None)
