"""Files of a source, on the local disk or elsewhere; only here one is told from the other.

A path with `://` lies elsewhere; both halves promise the same.
"""

import contextlib
import dataclasses
import errno
import functools
import itertools
import os
import posixpath
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, cast

from pipeline.places import file_system
from pipeline.sources import names
from pipeline.sources.spec import FileStat, Folder, Selection
from schemas import filesystems
from schemas.errors import Reason, Rejected
from schemas.filesystems import is_local
from schemas.manifest import RECORDS_DIR
from schemas.records import Place, Problem

_FIRST_LOOK = 20_000  # names of a local folder: a twentieth of a second
_FIRST_PAGE = 1000  # names elsewhere: one page of a listing


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
    yield from (_walk_remote if is_remote(selection.base) else _walk)(selection)


def file_names(selection: Selection) -> Iterator[str]:
    """Selected files' paths relative to the base, in no order, as early as possible."""
    if selection.names is not None:
        yield from selection.names
        return
    if is_remote(selection.base):
        yield from filter(selection.matches, _remote_file_names(selection))
    elif selection.is_whole:  # hidden ones are left out already
        yield from _file_names(selection)
    else:
        yield from filter(selection.matches, _file_names(selection))


def first_look(selection: Selection) -> int:
    """Names that say what a selection holds, without waiting for the last one of a bucket."""
    return _FIRST_PAGE if is_remote(selection.base) else _FIRST_LOOK


def existing(uris: Collection[str]) -> set[str]:
    """Those of `uris` that exist: as a file, if local also as a folder or a broken link."""
    there = {uri for uri in uris if not is_remote(uri) and os.path.lexists(uri)}
    return there | _existing_remote([uri for uri in uris if is_remote(uri)])


def open_checked(place: Place) -> BinaryIO:
    """Open the file of `place`; it must be what the listing saw.

    Raises:
        Rejected: SOURCE_MISSING, SOURCE_UNREADABLE, or SOURCE_CHANGED (local files only: a remote
            one is compared by its length when it is read).
        OSError: anything else; worth another try.
    """
    if is_remote(place.uri):
        return _open_remote(place.uri)
    try:
        opened = open(place.uri, "rb", opener=_nonblocking)
    except FileNotFoundError:
        raise Rejected(Reason.SOURCE_MISSING, "gone since it was listed") from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        detail = f"cannot be opened: {error.strerror}"
        raise Rejected(Reason.SOURCE_UNREADABLE, detail) from None
    try:
        _check_unchanged(place, os.fstat(opened.fileno()))
    except Rejected:
        opened.close()
        raise
    return opened


def read(place: Place) -> bytes:
    """The bytes of `place`; stateless, so any thread may call it.

    Raises:
        Rejected: as `open_checked`; SOURCE_CHANGED also where the length differs from the listing.
    """
    expected = place.expected_bytes
    raw = (_read_remote if is_remote(place.uri) else _read)(place)
    if expected is not None and len(raw) != expected:
        detail = f"listed with {expected} bytes, read {len(raw)} bytes"
        raise Rejected(Reason.SOURCE_CHANGED, detail)
    return raw


# On the local disk -------------------------------------------------------------------------------


def _walk(selection: Selection) -> Iterator[Folder]:
    """Of local folders; holds the names of one at a time."""
    links, sets = _Links(), _DataSets(selection)
    pending: list[_Entry] = [_Entry(relative="")]
    while pending:
        entry = pending.pop()
        uri = names.join(selection.base, entry.relative) if entry.relative else selection.base
        unread = Folder(relative=entry.relative, uri=uri, stat=functools.partial(_stat_of, uri))
        try:
            status = os.stat(uri or "/")
            identity = (status.st_dev, status.st_ino)
            if entry.relative and sets.is_one(uri, identity):
                yield dataclasses.replace(unread, ours=True)
                continue
            if links.been_there(entry, identity):
                yield dataclasses.replace(unread, seen=True)
                continue
            files, folders, linked, hidden = _scan(uri or "/")
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            yield dataclasses.replace(unread, problem=_unlistable(error))
            continue
        if selection.names is not None:
            files = sorted({*files, *selection.names}.difference(folders))
        yield dataclasses.replace(unread, names=files, folders=folders, hidden=tuple(hidden))
        if selection.depth is None or entry.level < selection.depth:
            deeper = entry.ancestors | {identity}
            # A stack: reversed, they come off it in the order of their names.
            pending.extend(
                entry.below(name, deeper, is_link=name in linked) for name in reversed(folders)
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """A folder that is still to be walked."""

    relative: str  # to the base of the selection
    ancestors: frozenset[tuple[int, int]] = frozenset()
    linked: bool = False  # the way to it leads through a symbolic link

    @property
    def level(self) -> int:
        return self.relative.count("/") + 2 if self.relative else 1

    def below(self, name: str, ancestors: frozenset[tuple[int, int]], *, is_link: bool) -> "_Entry":
        return _Entry(
            relative=names.join(self.relative, name),
            ancestors=ancestors,
            linked=self.linked or is_link,
        )


class _Links:
    """Symbolic links to folders: each folder is reached through them once.

    n folders that all link to each other would make n! ways through them.
    """

    def __init__(self) -> None:
        self._reached: set[tuple[int, int]] = set()

    def been_there(self, entry: _Entry, identity: tuple[int, int]) -> bool:
        """Whether the folder lies in itself, or was reached through a link before."""
        if identity in entry.ancestors:
            return True
        if not entry.linked:
            return False
        if identity in self._reached:
            return True
        self._reached.add(identity)
        return False


class _DataSets:
    """Folders that controlset wrote: a run whose output lies in its source must not read it.

    Whoever says which folders are meant gets other data sets, but never the run's own output, also
    where a link leads to it or to its shards.
    """

    def __init__(self, selection: Selection) -> None:
        self._any = selection.is_any_depth
        self._own: set[tuple[int, int]] = set()
        for folder in ("", "/data"):
            with contextlib.suppress(OSError):  # not made yet
                status = os.stat(f"{selection.output}{folder}")
                self._own.add((status.st_dev, status.st_ino))

    def is_one(self, path: str, identity: tuple[int, int]) -> bool:
        if identity in self._own:
            return True
        return self._any and os.path.lexists(f"{path}/{RECORDS_DIR}")


def _scan(path: str) -> tuple[list[str], list[str], set[str], list[str]]:
    """Files, folders, those of the folders that are links, and what is hidden."""
    hidden: list[str] = []
    files: list[str] = []
    folders: list[str] = []
    linked: set[str] = set()
    with os.scandir(path) as entries:
        for entry in entries:
            if names.is_hidden(entry.name):
                hidden.append(entry.name)
                continue
            if not _is_folder(entry):
                files.append(entry.name)
                continue
            folders.append(entry.name)
            if entry.is_symlink():
                linked.add(entry.name)
    return sorted(files), sorted(folders), linked, sorted(hidden)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself, or into a folder that may not be entered
        return False


def _unlistable(error: OSError) -> Problem:
    missing = isinstance(error, FileNotFoundError)
    return Problem(
        reason=Reason.SOURCE_MISSING if missing else Reason.SOURCE_UNREADABLE,
        detail=f"folder cannot be listed, what is in it is not known: {error.strerror}",
    )


def _stat_of(folder: str, name: str) -> FileStat | Problem:
    path = f"{folder}/{name}"
    try:
        status = os.stat(path)
    except PermissionError as error:
        return Problem(reason=Reason.SOURCE_UNREADABLE, detail=f"{error.strerror}")
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and error.errno != errno.ELOOP:
            raise
        link = os.path.islink(path)
        detail = "a symbolic link to nothing" if link else "gone while it was listed"
        return Problem(reason=Reason.SOURCE_MISSING, detail=detail)
    if not stat.S_ISREG(status.st_mode):
        return Problem(reason=Reason.NOT_A_FILE, detail=_kind_of(status.st_mode))
    return FileStat(uri=path, size_bytes=status.st_size, modified_s=status.st_mtime)


def _kind_of(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"


def _file_names(selection: Selection) -> Iterator[str]:
    """Of local folders, one entry at a time."""
    links, sets = _Links(), _DataSets(selection)
    pending = [_Entry(relative="")]
    while pending:
        entry = pending.pop()
        path = names.join(selection.base, entry.relative) if entry.relative else selection.base
        try:
            status = os.stat(path or "/")
            identity = (status.st_dev, status.st_ino)
            if (entry.relative and sets.is_one(path, identity)) or links.been_there(
                entry, identity
            ):
                continue
            deeper = selection.depth is None or entry.level < selection.depth
            with os.scandir(path or "/") as entries:
                for found in entries:
                    if names.is_hidden(found.name):
                        continue
                    if not _is_folder(found):
                        yield names.join(entry.relative, found.name)
                    elif deeper:
                        ancestors = entry.ancestors | {identity}
                        is_link = found.is_symlink()
                        pending.append(entry.below(found.name, ancestors, is_link=is_link))
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            continue  # the walk reports it


def _read(place: Place) -> bytes:
    """The bytes of `place`, or fewer where the file ends."""
    with open_checked(place) as opened:
        opened.seek(place.offset)
        return opened.read() if place.size_bytes is None else opened.read(place.size_bytes)


def _nonblocking(path: str, flags: int) -> int:
    """A pipe that took the place of a file must not hang the run."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has none


def _check_unchanged(place: Place, now: os.stat_result) -> None:
    if not stat.S_ISREG(now.st_mode):
        raise Rejected(Reason.SOURCE_UNREADABLE, f"need a file, found {_kind_of(now.st_mode)}")
    if place.file_bytes is not None and now.st_size != place.file_bytes:
        detail = f"listed with {place.file_bytes} bytes, now {now.st_size} bytes"
        raise Rejected(Reason.SOURCE_CHANGED, detail)
    if place.modified_s is not None and now.st_mtime != place.modified_s:
        detail = f"listed as modified at {place.modified_s} s, now at {now.st_mtime} s"
        raise Rejected(Reason.SOURCE_CHANGED, detail)


# Elsewhere: `s3://`, `gs://`, `az://`, `hf://`, `https://` ----------------------------------------


def _walk_remote(selection: Selection) -> Iterator[Folder]:
    """See `walk`; a file system without folders has no empty ones."""
    nothing = functools.partial(_remote_stat_of, {})
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
    # By folders, as a walk goes: else `a-b/` would come between `a/` and `a/c/`.
    paths.sort(key=lambda path: (posixpath.dirname(path).split("/"), path))
    for relative, group in itertools.groupby(paths, posixpath.dirname):
        uri = names.join(selection.base, relative) if relative else selection.base
        inside = {posixpath.basename(path): by_path.get(path) for path in group}
        stat = functools.partial(_remote_stat_of, inside)
        yield Folder(relative=relative, uri=uri, names=sorted(inside), stat=stat)


def _data_sets(paths: Iterable[str], selection: Selection) -> frozenset[str]:
    """Folders that controlset wrote, the outermost of each; see `_DataSets`."""
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


def _remote_stat_of(files: Mapping[str, FileStat | None], name: str) -> FileStat | Problem:
    missing = Problem(reason=Reason.SOURCE_MISSING, detail="gone while it was listed")
    return files.get(name) or missing


def _remote_file_names(selection: Selection) -> Iterator[str]:
    """See `file_names`; page by page."""
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


def _existing_remote(uris: list[str]) -> set[str]:
    """Those of `uris` that exist as a file."""
    return {found.uri for found in _found(uris)}


def _open_remote(uri: str) -> BinaryIO:
    """Open for reading and seeking, never unpacked by its suffix.

    Raises:
        Rejected: SOURCE_MISSING.
        ConfigError: no right, no login, no connection.
    """
    try:
        return cast("BinaryIO", filesystems.open_input(file_system(uri), uri))
    except FileNotFoundError:
        raise _gone() from None


def _read_remote(place: Place) -> bytes:
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
