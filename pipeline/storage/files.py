"""Files on the local disk or elsewhere; the only place that tells one from the other.

Paths with `://` go to `remote`, all others to `local`.
"""

import os
from collections.abc import Collection, Iterator
from typing import BinaryIO

from pipeline.sources.spec import Selection
from pipeline.storage import local, remote
from pipeline.storage.folder import Folder
from schemas.errors import Reason, Rejected
from schemas.filesystems import is_local
from schemas.records import Place


def is_remote(path: str) -> bool:
    """Whether it lies outside the local disk."""
    return not is_local(path)


def walk(selection: Selection) -> Iterator[Folder]:
    """Folders of a selection, parents first, in the order of their names.

    Args:
        selection: which folder, how deep. Names are not filtered by its pattern: captions lie
            beside the pictures.

    Yields:
        Folders without hidden entries; symbolic links to folders are followed unless they lead
        into a folder that they lie in.
    """
    yield from (remote if is_remote(selection.base) else local).walk(selection)


def file_names(selection: Selection) -> Iterator[str]:
    """Selected files' paths relative to the base, in no order, as early as possible."""
    if selection.names is not None:
        yield from selection.names
        return
    if is_remote(selection.base):
        yield from filter(selection.matches, remote.file_names(selection))
    elif selection.is_whole:  # hidden ones are left out already
        yield from local.file_names(selection)
    else:
        yield from filter(selection.matches, local.file_names(selection))


def first_look(selection: Selection) -> int:
    """Names that say what a selection holds, without waiting for the last one of a bucket."""
    return (remote if is_remote(selection.base) else local).first_look()


def existing(uris: Collection[str]) -> set[str]:
    """Those of `uris` that exist: as a file, if local also as a folder or a broken link."""
    there = {uri for uri in uris if not is_remote(uri) and os.path.lexists(uri)}
    return there | remote.existing([uri for uri in uris if is_remote(uri)])


def open_checked(place: Place) -> BinaryIO:
    """Open the file of `place`; it must be what the listing saw.

    Raises:
        Rejected: SOURCE_MISSING, SOURCE_UNREADABLE, or SOURCE_CHANGED (local files only: a remote
            one is compared by its length when it is read).
        OSError: anything else; worth another try.
    """
    if is_remote(place.uri):
        return remote.open_binary(place.uri)
    return local.open_checked(place)


def read(place: Place) -> bytes:
    """The bytes of `place`; stateless, so any thread may call it.

    Raises:
        Rejected: as `open_checked`; SOURCE_CHANGED also where the length differs from the listing.
    """
    expected = place.file_bytes if place.size_bytes is None else place.size_bytes
    raw = remote.read(place) if is_remote(place.uri) else local.read(place)
    if expected is not None and len(raw) != expected:
        detail = f"listed with {expected} bytes, read {len(raw)} bytes"
        raise Rejected(Reason.SOURCE_CHANGED, detail)
    return raw
