"""Whether a file whose name does not tell is a picture, by its first bytes; at a bounded price."""

from collections import Counter
from collections.abc import Callable

from pipeline.sources import names
from pipeline.storage import files
from schemas.errors import Rejected
from schemas.ledger import Ignored
from schemas.records import Place

HEAD_BYTES = 64
_MOST_MISSES = 100  # files of one suffix that were no pictures: the suffix says what they are


class FirstBytes:
    """Looks into files of unknown names, until a suffix has turned out not to be a picture's."""

    def __init__(self) -> None:
        self._misses: Counter[str] = Counter()

    def reason_against(self, name: str, head: Callable[[], bytes]) -> Ignored | None:
        """Why a file is not one of the pictures; None if it is one by its first bytes.

        Args:
            name: of the file; not one that is a picture by its suffix.
            head: reads its first bytes.
        """
        suffix = names.split_suffix(name)[1]
        if suffix in names.UNREAD_SUFFIXES:
            return Ignored.UNREAD_FORMAT
        if suffix in names.PLAIN_SUFFIXES or self._misses[suffix] >= _MOST_MISSES:
            return Ignored.NOT_A_PICTURE
        from pipeline.images.formats import looks_like_picture

        if looks_like_picture(head()):
            return None
        self._misses[suffix] += 1
        return Ignored.NOT_A_PICTURE


def head_of_file(uri: str) -> bytes:
    """First bytes of a file; none if it cannot be read or is no regular file."""
    try:
        with files.open_checked(Place(uri=uri)) as opened:
            return opened.read(HEAD_BYTES)
    except Rejected:
        return b""
