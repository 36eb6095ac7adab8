# Beam is not typed for pyright.
# pyright: reportIncompatibleMethodOverride=false, reportPrivateImportUsage=false
"""`https://` and `hf://` under Beam's file systems, for reading: fsspec does the work.

Importing this module makes Beam know them. Containers (tar, Parquet) are read by ranges, so a
server that gives only whole files is refused at launch.
"""

import contextlib
import functools
import re
import urllib.error
from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar, NoReturn

import fsspec
from apache_beam.io.filesystem import CompressionTypes, FileMetadata, FileSystem

from schemas.errors import ConfigError

SCHEMES = ("https", "http", "hf")
_PATTERN = re.compile(r"[*?\[]")
_ADVICE = {
    "hf": "check the name (hf://datasets/OWNER/NAME/…) and the network; private and gated sets "
    "need `hf auth login`",
}
_DOWNLOAD = "check the address and the network, or download the file and name it here"


def scheme_of(place: str) -> str | None:
    """The scheme of a place that is read over the web, None of any other."""
    scheme, marked, _ = place.partition("://")
    return scheme if marked and scheme in SCHEMES else None


def check_source(place: str) -> None:
    """Ask once for a place of the web.

    Raises:
        ConfigError: a folder or pattern where nothing can be listed, nothing there, no answer, or
            a server that gives no parts of files.
    """
    scheme = scheme_of(place)
    if scheme is None:
        return
    if scheme != "hf" and (_PATTERN.search(place) or not re.search(r"\.\w+$", place)):
        raise ConfigError(
            f"{place}: need the address of one file (a tar, Parquet file or picture; braces for "
            "several), since web servers list no folders; download the folder, or name its files"
        )
    first = re.split(r"[*?\[{]", place)[0]
    if scheme != "hf" and first != place:
        return  # braces: each of them is asked for when they are listed
    files = _files(scheme)
    try:
        found = files.info(first if first == place else first.rpartition("/")[0])
        if scheme != "hf":
            _check_ranges(files, place)
    except Exception as error:  # aiohttp, httpx and the hub have classes of their own
        got = str(error).splitlines()[0] if str(error) else type(error).__name__
        advice = _ADVICE.get(scheme, _DOWNLOAD)
        raise ConfigError(f"{place}: need a place that answers, got {got}; {advice}") from error
    if found["type"] == "directory" and scheme != "hf":
        raise ConfigError(f"{place}: need a file, got a folder; {_DOWNLOAD}")


def check_output(place: str) -> None:
    """Refuse an output that nobody can write to.

    Raises:
        ConfigError: a place of the web.
    """
    if scheme_of(place) is not None:
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


@functools.cache
def _files(scheme: str) -> Any:
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise ConfigError(
            f"{scheme}://: need a package that is not installed ({error}); "
            "run `pip install aiohttp`, or download the files"
        ) from error


class _NotThere(urllib.error.URLError, FileNotFoundError):
    """Gone, as readers of sources know it, and as Beam does, which fetches its programs here."""


class _WebFiles(FileSystem):
    """What Beam asks of a file system, as far as reading goes."""

    _scheme: ClassVar[str]

    @classmethod
    def scheme(cls) -> str:
        return getattr(cls, "_scheme", "controlset-web")  # None is that of local files

    def has_dirs(self) -> bool:
        return True

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *(path.strip("/") for path in paths)])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        found = _files(self._scheme).find(dir_or_prefix, detail=True)
        for path, info in sorted(found.items()):
            yield self._metadata(path, info)

    def _metadata(self, path: str, info: dict[str, Any]) -> FileMetadata:
        uri = path if "://" in path else f"{self._scheme}://{path.lstrip('/')}"
        return FileMetadata(uri, info.get("size") or 0, 0.0)

    def exists(self, path: str) -> bool:
        return _files(self._scheme).isfile(path)

    def metadata(self, path: str) -> FileMetadata:
        return self._metadata(path, _files(self._scheme).info(path))

    def size(self, path: str) -> int:
        return self.metadata(path).size_in_bytes

    def last_updated(self, path: str) -> float:
        return 0.0

    def checksum(self, path: str) -> str:
        return str(self.size(path))

    def open(
        self,
        path: str,
        mime_type: str = "application/octet-stream",
        compression_type: str = CompressionTypes.AUTO,
    ) -> BinaryIO:
        try:
            return _files(self._scheme).open(path, "rb")
        except FileNotFoundError as error:  # also of a host that does not answer
            raise _NotThere(str(error)) from error

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise OSError(f"{self._scheme}:// is only read")

    create = mkdirs = rename = delete = copy = _refuse


class _Https(_WebFiles):
    _scheme = "https"


class _Http(_WebFiles):
    _scheme = "http"


class _Hub(_WebFiles):
    _scheme = "hf"
