"""Any Beam file system: `gs://`, `s3://`, `hdfs://`, …; Beam is imported only when it is needed.

`FileSystems.match` holds all file names of a prefix in memory. It has no way to quote `*?[`, so a
remote path with one of them is always a pattern.
"""

import dataclasses
import functools
import importlib
import itertools
import posixpath
from collections.abc import Collection, Iterable, Iterator
from typing import BinaryIO

from pipeline.sources import names
from pipeline.sources.spec import Selection
from pipeline.storage.folder import FileStat, Folder
from schemas.errors import ConfigError, Reason, Rejected
from schemas.manifest import RECORDS_DIR
from schemas.records import Place, Problem

_FIRST_LOOK = 1000  # names to look at before all are listed


def walk(selection: Selection) -> Iterator[Folder]:
    """See `files.walk`; a file system without folders has no empty ones."""
    if selection.names is None:
        found = _match([f"{selection.base}/**"])
    else:
        wanted = set(selection.names)
        wanted.update(*(names.companions(name) for name in wanted if names.is_image(name)))
        found = _match([f"{selection.base}/{name}" for name in sorted(wanted)])
    by_path = {file.uri[len(selection.base) + 1 :]: file for file in found}
    if selection.names is not None:
        paths = sorted({*by_path, *selection.names})
    else:
        sets = _data_sets(by_path, selection)
        for relative in sorted(sets):
            yield Folder(
                relative=relative,
                uri=names.join(selection.base, relative),
                names=[],
                folders=[],
                stat=_RemoteStat({}),
                ours=True,
            )
        by_path = {path: file for path, file in by_path.items() if not _is_in(path, sets)}
        paths = [path for path in by_path if path and not names.is_hidden(path)]
        hidden = sorted(path for path in by_path if names.is_hidden(path))
        if hidden:
            yield Folder(
                relative="",
                uri=selection.base,
                names=[],
                folders=[],
                stat=_RemoteStat({}),
                hidden=tuple(hidden),
            )
    paths.sort(key=lambda path: (posixpath.dirname(path).split("/"), path))
    for relative, group in itertools.groupby(paths, posixpath.dirname):
        uri = names.join(selection.base, relative) if relative else selection.base
        inside = {posixpath.basename(path): by_path.get(path) for path in group}
        yield Folder(
            relative=relative,
            uri=uri,
            names=sorted(inside),
            folders=[],
            stat=_RemoteStat(inside),
        )


def _data_sets(paths: Iterable[str], selection: Selection) -> frozenset[str]:
    """Folders that controlset wrote, the outermost of each; see `local._DataSets`."""
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


@dataclasses.dataclass(frozen=True, slots=True)
class _RemoteStat:
    files: dict[str, FileStat | None]

    def __call__(self, name: str) -> FileStat | Problem:
        missing = Problem(reason=Reason.SOURCE_MISSING, detail="gone while it was listed")
        return self.files.get(name) or missing


def first_look() -> int:
    """Names to look at before all are listed."""
    return _FIRST_LOOK


def file_names(selection: Selection) -> Iterator[str]:
    """See `files.file_names`; looks at a thousand names before it asks for all."""
    seen = 0
    for limit in (_FIRST_LOOK, None):
        found = _match([f"{selection.base}/**"], limit=limit)
        paths = [file.uri[len(selection.base) + 1 :] for file in found]
        sets = _data_sets(paths, selection)  # whose records are listed before their shards
        yield from (path for path in paths[seen:] if not _is_in(path, sets))
        seen = len(found)
        if limit is not None and seen < limit:
            return


def _match(patterns: list[str], *, limit: int | None = None) -> list[FileStat]:
    if not patterns:
        return []
    from pipeline.storage.object_stores import file_systems, refusal_of

    try:
        file_systems().get_filesystem(patterns[0])
    except ValueError as error:
        raise ConfigError(
            f"{patterns[0]}: need a file system that Beam knows, got {error}"
        ) from None
    try:
        results = file_systems().match(patterns, [limit] * len(patterns))
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        raise ConfigError(f"{patterns[0]}: {refusal}") from error
    return [
        FileStat(
            uri=found.path,
            size_bytes=found.size_in_bytes,
            modified_s=found.last_updated_in_seconds or None,
        )
        for result in results
        for found in result.metadata_list
    ]


def existing(uris: list[str]) -> set[str]:
    """Those of `uris` that exist as a file."""
    return {found.uri for found in _match(uris)}


def open_binary(uri: str) -> BinaryIO:
    """Open for reading and seeking, never unpacked by its suffix.

    Raises:
        Rejected: SOURCE_MISSING, SOURCE_UNREADABLE.
    """
    from apache_beam.io.filesystem import CompressionTypes

    from pipeline.storage.object_stores import file_systems

    try:
        return file_systems().open(uri, compression_type=CompressionTypes.UNCOMPRESSED)
    except _not_found_errors():
        raise _gone() from None
    except PermissionError as error:
        raise Rejected(Reason.SOURCE_UNREADABLE, f"cannot be opened: {error}") from None
    except OSError:  # Beam's own error says nothing about the cause
        if file_systems().exists(uri):
            raise
        raise _gone() from None


def read(place: Place) -> bytes:
    """The bytes of `place`, or fewer where the file ends."""
    try:
        with open_binary(place.uri) as opened:
            if place.offset:
                opened.seek(place.offset)
            return opened.read() if place.size_bytes is None else opened.read(place.size_bytes)
    except _not_found_errors():  # Google's client asks for the object at the first read
        raise _gone() from None


def _gone() -> Rejected:
    return Rejected(Reason.SOURCE_MISSING, "gone since it was listed")


@functools.cache
def _not_found_errors() -> tuple[type[Exception], ...]:
    """Google's client has an error of its own; the others raise OSErrors."""
    try:
        google = importlib.import_module("google.api_core.exceptions")
    except ImportError:
        return (FileNotFoundError,)
    return (FileNotFoundError, google.NotFound)
