"""Places outside this disk as sources: `s3://`, `gs://`, `az://`, `hf://`, `https://`, ….

What is read is in `schemas.filesystems`, which knows nothing of Beam: here are the folders of a
listing, Beam's options for S3, and what a source must be.
"""

import contextlib
import dataclasses
import functools
import itertools
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, cast

from pipeline.sources import names
from pipeline.sources.spec import Selection
from pipeline.storage.folder import FileStat, Folder
from schemas import filesystems
from schemas.errors import ConfigError, Reason, Rejected
from schemas.manifest import RECORDS_DIR
from schemas.records import Place, Problem

_FIRST_LOOK = 1000  # names: one page of a listing


def walk(selection: Selection) -> Iterator[Folder]:
    """See `files.walk`; a file system without folders has no empty ones."""
    if selection.names is None:
        found = list(itertools.chain.from_iterable(_pages(selection.base)))
    else:
        wanted = set(selection.names)
        wanted.update(*(names.companions(name) for name in wanted if names.is_image(name)))
        found = _found([f"{selection.base}/{name}" for name in sorted(wanted)])
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
    """Names that tell what a bucket holds, without waiting for the last one."""
    return _FIRST_LOOK


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


# Options --------------------------------------------------------------------------------------

_arguments: tuple[str, ...] = ()


def use_options(arguments: Sequence[str]) -> None:
    """Let S3 have Beam's options, e.g. `--s3_endpoint_url`, before a pipeline runs."""
    global _arguments
    _arguments = tuple(arguments)


def file_system(uri: str) -> Any:
    """The fsspec file system of a place, with Beam's options where a run has some.

    Raises:
        ConfigError: there is none, or its package is not installed.
    """
    return filesystems.file_system(uri, **(_s3_options() if uri.startswith("s3") else {}))


def _s3_options() -> dict[str, Any]:
    from apache_beam.options.value_provider import RuntimeValueProvider

    given = _parsed(_arguments)
    if RuntimeValueProvider.runtime_options:  # sent to a worker on another machine
        given = RuntimeValueProvider.runtime_options
    named = {name: given.get(f"s3_{option}") for name, option in _S3_OPTIONS.items()}
    made = {name: given.get(f"s3_{name}") for name in ("region_name", "api_version", "verify")}
    options = {name: value for name, value in named.items() if value is not None}
    if client := {name: value for name, value in made.items() if value is not None}:
        options["client_kwargs"] = client
    if given.get("s3_disable_ssl"):
        options["use_ssl"] = False
    return options


_S3_OPTIONS = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "endpoint_url": "endpoint_url",
}


@functools.cache
def _parsed(arguments: tuple[str, ...]) -> dict[str, Any]:
    if not any(argument.startswith("--s3") for argument in arguments):
        return {}
    from apache_beam.options.pipeline_options import PipelineOptions, S3Options

    return PipelineOptions(list(arguments)).view_as(S3Options).get_all_options()


# Checks ---------------------------------------------------------------------------------------

_DOWNLOAD = "check the address and the network, or download the file and name it here"
_HUB = (
    "check the name (hf://datasets/OWNER/NAME/…) and the network; private and gated sets need "
    "`hf auth login`"
)


def check_place(place: str) -> None:
    """Ask once for the first object of a place, or of a pattern's part before its first wildcard.

    Raises:
        ConfigError: no such file system or bucket, a package that is not installed, no right to
            list, no credentials, or no answer in seconds; clients alone would try for minutes.
    """
    if filesystems.is_local(place):
        return
    files, start = file_system(place), re.split(r"[*?\[{]", place)[0]
    if start != place:
        start = start.rpartition("/")[0]
    try:
        filesystems.check_reachable(files, start)
    except filesystems.StoreRefusal as error:
        raise ConfigError(f"{place}: {error.refusal}") from error


def check_source(place: str) -> None:
    """Ask once for a place of the web.

    Raises:
        ConfigError: a folder or pattern where nothing can be listed, nothing there, no answer, or
            a server that gives no parts of files.
    """
    scheme = filesystems.scheme_of(place)
    if scheme not in filesystems.WEB:
        return
    if scheme != "hf" and (re.search(r"[*?\[]", place) or not re.search(r"\.\w+$", place)):
        raise ConfigError(
            f"{place}: need the address of one file (a tar, Parquet file or picture; braces for "
            "several), since web servers list no folders; download the folder, or name its files"
        )
    first = re.split(r"[*?\[{]", place)[0]
    if scheme != "hf" and first != place:
        return  # braces: each of them is asked for when they are listed
    files = file_system(place)
    try:
        found = files.info(first if first == place else first.rpartition("/")[0])
        if scheme != "hf":
            _check_ranges(files, place)
    except Exception as error:  # aiohttp, httpx and the hub have classes of their own
        got = str(error).splitlines()[0] if str(error) else type(error).__name__
        advice = _HUB if scheme == "hf" else _DOWNLOAD
        raise ConfigError(f"{place}: need a place that answers, got {got}; {advice}") from error
    if found["type"] == "directory" and scheme != "hf":
        raise ConfigError(f"{place}: need a file, got a folder; {_DOWNLOAD}")


def check_output(place: str) -> None:
    """Refuse an output that nobody can write to.

    Raises:
        ConfigError: a place of the web.
    """
    if filesystems.scheme_of(place) in filesystems.WEB:
        raise ConfigError(
            f"{place}: need an output that can be written, a folder or a bucket, got a place of "
            "the web; write to a folder, then upload it"
        )


def _check_ranges(files: Any, place: str) -> None:
    with files.open(place, "rb", block_size=1024) as opened:
        with contextlib.suppress(ValueError):  # a stream that cannot be sought
            opened.seek(1)
            if len(opened.read(1)) <= 1:
                return
    raise ValueError("a server that gives no parts of files")
