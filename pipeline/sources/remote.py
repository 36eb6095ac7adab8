"""Files of a source outside this disk: `s3://`, `gs://`, `az://`, `hf://`, `https://`, …."""

import contextlib
import functools
import itertools
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, cast

from pipeline.places import file_system
from pipeline.sources import names
from pipeline.sources.spec import FileStat, Folder, Selection
from schemas import filesystems
from schemas.errors import Reason, Rejected
from schemas.manifest import RECORDS_DIR
from schemas.records import Place, Problem

FIRST_LOOK = 1000  # names: one page of a listing


def walk(selection: Selection) -> Iterator[Folder]:
    """See `files.walk`; a file system without folders has no empty ones."""
    nothing = functools.partial(_stat_of, {})
    if selection.names is None:
        found = list(itertools.chain.from_iterable(_pages(selection.base)))
    else:
        # Files that are named are asked for by name, and so is whatever may hold their captions.
        wanted = set(selection.names)
        wanted.update(*(names.companions(name) for name in wanted if names.is_image(name)))
        found = _found([f"{selection.base}/{name}" for name in sorted(wanted)])
    by_path = {file.uri[len(selection.base) + 1 :]: file for file in found}
    if selection.names is not None:
        paths = sorted({*by_path, *selection.names})
    else:
        sets = _data_sets(by_path, selection)
        for relative in sorted(sets):
            uri = names.join(selection.base, relative)
            yield Folder(relative=relative, uri=uri, stat=nothing, ours=True)
        by_path = {path: file for path, file in by_path.items() if not _is_in(path, sets)}
        paths = [path for path in by_path if path and not names.is_hidden(path)]
        hidden = sorted(path for path in by_path if names.is_hidden(path))
        if hidden:
            yield Folder(relative="", uri=selection.base, stat=nothing, hidden=tuple(hidden))
    paths.sort(key=lambda path: (posixpath.dirname(path).split("/"), path))
    for relative, group in itertools.groupby(paths, posixpath.dirname):
        uri = names.join(selection.base, relative) if relative else selection.base
        inside = {posixpath.basename(path): by_path.get(path) for path in group}
        stat = functools.partial(_stat_of, inside)
        yield Folder(relative=relative, uri=uri, names=sorted(inside), stat=stat)


def _data_sets(paths: Iterable[str], selection: Selection) -> frozenset[str]:
    """Folders that controlset wrote, the outermost of each; see `files._DataSets`."""
    found: set[str] = set()
    own, below = selection.output, f"{selection.base}/"
    if own.startswith(below) and any(_is_in(path, [own[len(below) :]]) for path in paths):
        found.add(own[len(below) :])
    if selection.is_any_depth:
        records = f"/{RECORDS_DIR}/"
        found.update(path[: path.index(records)] for path in paths if records in path)
    found = {folder for folder in found if not names.is_hidden(folder)}
    return frozenset(folder for folder in found if not _is_in(folder, found))


def _is_in(path: str, folders: Collection[str]) -> bool:
    """Whether a path lies below one of the folders."""
    if not folders:
        return False
    return any(folder in folders for folder in _above(path))


def _above(path: str) -> Iterator[str]:
    end = path.rfind("/")
    while end > 0:
        yield path[:end]
        end = path.rfind("/", 0, end)


def _stat_of(files: Mapping[str, FileStat | None], name: str) -> FileStat | Problem:
    missing = Problem(reason=Reason.SOURCE_MISSING, detail="gone while it was listed")
    return files.get(name) or missing


def file_names(selection: Selection) -> Iterator[str]:
    """See `files.file_names`; page by page."""
    sets: frozenset[str] = frozenset()
    for found in _pages(selection.base):
        paths = [file.uri[len(selection.base) + 1 :] for file in found]
        sets |= _data_sets(paths, selection)  # whose records are listed before their shards
        yield from (path for path in paths if not _is_in(path, sets))


def _pages(base: str) -> Iterator[list[FileStat]]:
    """Files below a folder; none where there is no such bucket."""
    files = file_system(base)
    with filesystems.answering(base), contextlib.suppress(FileNotFoundError):
        for page in filesystems.pages(files, base):
            yield [_file_stat(f"{base}/{entry.name}", entry) for entry in page]


def _found(uris: Sequence[str]) -> list[FileStat]:
    """Those of `uris` that exist as a file."""
    if not uris:
        return []
    found = filesystems.stats(file_system(uris[0]), uris)
    return [_file_stat(uri, entry) for uri, entry in zip(uris, found, strict=True) if entry]


def _file_stat(uri: str, entry: filesystems.Entry) -> FileStat:
    return FileStat(uri=uri, size_bytes=entry.size_bytes, modified_s=entry.modified_s)


def existing(uris: list[str]) -> set[str]:
    """Those of `uris` that exist as a file."""
    return {found.uri for found in _found(uris)}


def open_binary(uri: str) -> BinaryIO:
    """Open for reading and seeking, never unpacked by its suffix.

    Raises:
        Rejected: SOURCE_MISSING.
        ConfigError: no right, no login, no connection.
    """
    try:
        return cast("BinaryIO", filesystems.open_input(file_system(uri), uri))
    except FileNotFoundError:
        raise _gone() from None


def read(place: Place) -> bytes:
    """The bytes of `place`, or fewer where the file ends; one request."""
    files = file_system(place.uri)
    start, end = place.offset or None, None
    if place.size_bytes is not None:
        start, end = place.offset, place.offset + place.size_bytes
    try:
        with filesystems.answering(place.uri):
            return filesystems.read_range(files, place.uri, start, end)
    except FileNotFoundError:
        raise _gone() from None


def _gone() -> Rejected:
    return Rejected(Reason.SOURCE_MISSING, "gone since it was listed")
