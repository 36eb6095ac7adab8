"""Names from data as names of files."""

import hashlib
import re

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .()+,=@-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9_ ()+,=@-]")
_LONGEST = 120  # bytes; others put suffixes behind it, and most disks allow 255


def file_name(text: str) -> str:
    """A name out of data (a key, a condition, a run) as one part of a path.

    Args:
        text: anything.

    Returns:
        The text itself where it is plain: ASCII letters, digits and a few marks, no dot in front,
        up to 120 characters. Else its plain characters and sixteen digits of its sha256: so it
        never leaves the folder, and no two texts have one name.
    """
    if len(text) <= _LONGEST and _PLAIN.fullmatch(text) and text == text.rstrip(" ."):
        return text
    digits = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{_UNSAFE.sub('_', text)[: _LONGEST - 17]}-{digits}".lstrip(" ")
