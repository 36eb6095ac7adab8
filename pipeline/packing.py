"""References on their way through a shuffle: small, since runners hold them all.

Names share their beginnings, and every pickled reference its class names. Deflate with a dictionary
that has both makes 60 bytes of 280; without one 190. Beam's local runner keeps several copies of
what it groups, and on Dataflow these are the shuffle's only bytes.
"""

import pickle
import zlib

from schemas.records import ImageRef, Place

_RAW = -15  # deflate without header and checksum
_FAST = 1


class Packer:
    """Packs references of one source; both ends must be made for the same root."""

    def __init__(self, root: str) -> None:
        place = Place(uri=f"{root}/", file_bytes=1 << 17, modified_s=1.7e9)
        typical = ImageRef(key="", source=".jpg", place=place, caption_place=place)
        self._dictionary = pickle.dumps(typical, protocol=5)

    def pack(self, ref: ImageRef) -> bytes:
        """The reference as bytes, never empty."""
        deflate = zlib.compressobj(_FAST, zlib.DEFLATED, _RAW, zdict=self._dictionary)
        return deflate.compress(pickle.dumps(ref, protocol=5)) + deflate.flush()

    def unpack(self, packed: bytes) -> ImageRef:
        """The inverse of `pack`."""
        inflate = zlib.decompressobj(_RAW, zdict=self._dictionary)
        return pickle.loads(inflate.decompress(packed) + inflate.flush())
