"""Places outside the local disk: fsspec's file systems with our settings, and refusals in words.

`s3://`, `gs://`, `az://`, `hf://datasets/…`, `https://` and whatever else fsspec knows. There is
one client for all threads of a process: a new one costs 40 to 160 ms and all its connections.
"""

import contextlib
import dataclasses
import datetime
import errno
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync
from fsspec.implementations.local import LocalFileSystem

from schemas.errors import ConfigError, first_line

WEB = frozenset({"hf", "http", "https"})
"""Schemes of places that are only read."""

_FAMILIES = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "az"),
}
_PACKAGES = {
    "s3": "pip install 'controlset[aws]'",
    "gs": "pip install 'controlset[gcp]'",
    "az": "pip install 'controlset[azure]'",
    "http": "pip install aiohttp",
    "https": "pip install aiohttp",
}
# A client is kept for as long as these say the same.
_VARIABLES = (
    *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"),
    *("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"),
    *("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME"),
)
_CONNECT_S = 10  # until a connection stands, and until the first answer to a question
_SILENCE_S = 60  # between two pieces of an answer
_BLOCK_BYTES = 4 << 20  # as much as arrives in the time that one more request takes
_BLOCKS = 8  # of a file that is read here and there, e.g. column by column
_PAGE = 1000  # names; S3 and GCS give no more at once
_AT_ONCE = 16  # questions about single files


def is_local(place: str) -> bool:
    """Whether a path lies in the machine's own file system."""
    return "://" not in place


def scheme_of(place: str) -> str:
    """What stands before `://`; nothing of a local path."""
    return place.partition("://")[0] if not is_local(place) else ""


def is_object_store(place: str) -> bool:
    """Whether what is written there appears whole when it is closed, and not before."""
    return scheme_of(place) in _FAMILIES


# Clients --------------------------------------------------------------------------------------

_CLIENTS: dict[tuple[object, ...], Any] = {}


def file_system(place: str, **options: Any) -> Any:
    """The fsspec file system of a place, shared by all threads; a forked process makes its own.

    Args:
        place: URI.
        options: of S3's client, beside what its usual variables and profiles say.

    Raises:
        ConfigError: fsspec does not know such a place, or a package is not installed.
    """
    scheme = scheme_of(place)
    family = _FAMILIES.get(scheme, scheme)
    if family not in _MAKERS and family not in WEB:
        made = _made(place, lambda: fsspec.url_to_fs(place)[0])  # what it is may hang on the host
        if isinstance(made, LocalFileSystem) or "::" in scheme:  # or a chain that ends in one
            raise ConfigError(f"{place}: need a local path as it is, got one with {scheme}://")
        return made
    wanted = (os.getpid(), family, repr(options), *map(os.environ.get, _VARIABLES))
    if (client := _CLIENTS.get(wanted)) is None:
        make = _MAKERS.get(family, lambda: fsspec.filesystem(family, skip_instance_cache=True))
        # Two threads may make one each; both take the first, and no lock is there to be forked.
        client = _CLIENTS.setdefault(wanted, _made(place, lambda: make(**options)))
    return client


def _made(place: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ImportError as error:
        advice = _PACKAGES.get(_FAMILIES.get(scheme_of(place), scheme_of(place)))
        raise ConfigError(
            f"{place}: need a package that is not installed ({said_by_client(error)}); "
            f"{f'run `{advice}`' if advice else 'install it'}"
        ) from error
    except Exception as error:  # also of a client that finds no host, no account, no library
        if scheme_of(place) not in fsspec.available_protocols():
            raise ConfigError(
                f"{place}: need a file system that fsspec knows, got {said_by_client(error)}"
            ) from None
        raise ConfigError(
            f"{place}: need a place that answers, got {said_by_client(error)}; {_UNREACHED}"
        ) from error


def _s3(**options: Any) -> Any:
    import s3fs

    times = {"connect_timeout": _CONNECT_S, "read_timeout": _SILENCE_S}
    return s3fs.S3FileSystem(
        # One part after another: 50 MB in memory, and no question for the size before each read.
        max_concurrency=1,
        config_kwargs={"max_pool_connections": 64, **times},
        skip_instance_cache=True,
        use_listings_cache=False,
        **options,
    )


def _gs() -> Any:
    import aiohttp
    from gcsfs.core import GCSFileSystem  # the package's own asks what kind of bucket it is
    from google.auth.exceptions import DefaultCredentialsError

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it raises
    times = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
    settings: dict[str, Any] = {"requests_timeout": times, "use_listings_cache": False}
    if not os.environ.get("STORAGE_EMULATOR_HOST"):
        with contextlib.suppress(DefaultCredentialsError):  # public buckets need none
            return GCSFileSystem(token="google_default", skip_instance_cache=True, **settings)
    return GCSFileSystem(token="anon", skip_instance_cache=True, **settings)


def _az() -> Any:
    from adlfs import AzureBlobFileSystem

    return AzureBlobFileSystem(
        connection_timeout=_CONNECT_S,
        read_timeout=_SILENCE_S,
        skip_instance_cache=True,
        use_listings_cache=False,
    )


_MAKERS: dict[str, Callable[..., Any]] = {"s3": _s3, "gs": _gs, "az": _az}


# Refusals -------------------------------------------------------------------------------------

_ADVICE = {
    401: "log in, e.g. `gcloud auth application-default login`, or set the AWS_… variables",
    403: "give this account the right to list, read and write there",
    404: "make the bucket first, or correct its name",
}
_UNREACHED = "check the network, the endpoint and the credentials"
_NETWORK = frozenset(
    "aiobotocore aiohttp azure botocore fsspec google httpcore httpx requests urllib3".split()
)
"""Packages whose errors without a status are those of a connection or a login."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Why a store said no."""

    got: str
    advice: str

    def __str__(self) -> str:
        return f"need a bucket that answers, got {self.got}; {self.advice}"


class StoreRefusal(ConfigError):
    """A store that gives no access or no answer."""

    refusal: Refusal


def refusal_of(error: BaseException, files: Any = None) -> Refusal | None:
    """Read a store's refusal out of an exception; None where it is something else.

    Args:
        error: of the store's client.
        files: the file system that was asked, to say at which address.
    """
    for cause in _causes(error):
        status = _status_of(cause)
        if status in _ADVICE:
            return Refusal(f"HTTP {status} ({said_by_client(cause)})", _ADVICE[status])
        if status is None and type(cause).__module__.partition(".")[0] in _NETWORK:
            return Refusal(said_by_client(cause, _address_of(files)), _UNREACHED)
    return None


_ADDRESSES: dict[str, Callable[[Any], str]] = {
    "s3": lambda files: files._s3.meta.endpoint_url,
    "gs": lambda files: files._location,
    "az": lambda files: files.service_client.url,
}


def _address_of(files: Any) -> str:
    """The address that a store's client asks; nothing where it does not tell.

    An environment variable or a profile, perhaps forgotten, may have set it.
    """
    try:
        protocol = files.protocol if isinstance(files.protocol, str) else files.protocol[0]
        told = urlsplit(_ADDRESSES[_FAMILIES[protocol]](files))
    except (AttributeError, KeyError):  # other file systems, or a client that is not connected
        return ""
    # Neither a password nor a signature, which may stand in it.
    return f"{told.scheme}://{told.netloc.rpartition('@')[2]}{told.path}".rstrip("/")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status_of(error: BaseException) -> int | None:
    """HTTP status in the errors of botocore, azure, the hub, aiohttp, gcsfs and fsspec."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(status := getattr(response, "status_code", None), int):
        return status
    for name in ("status_code", "status", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    if isinstance(error, FileNotFoundError):
        return 404
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden: "):  # gcsfs
        return 403
    return None


def said_by_client(error: BaseException, address: str = "") -> str:
    """One line of what a store's client raised; `address` is named where it says nothing itself."""
    if isinstance(error, TimeoutError) and not str(error):  # others say themselves whom they asked
        return f"no answer in {_CONNECT_S} s{address and ' from '}{address}"
    return first_line(error)


@contextlib.contextmanager
def answering(place: str, files: Any = None, *, whole: bool = False) -> Iterator[None]:
    """Turn a store's refusal into one clear error; other failures fly.

    Args:
        place: what is asked for.
        files: its file system, to say at which address.
        whole: also where the bucket itself is not there; else FileNotFoundError flies.

    Raises:
        StoreRefusal: no right, no login, no connection.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # clients have an error class for every layer
        refusal = None
        if whole or not isinstance(error, FileNotFoundError):
            refusal = refusal_of(error, files)
        if refusal is None:
            raise
        refused = StoreRefusal(f"{place}: {refusal}")
        refused.refusal = refusal
        raise refused from error


def check_reachable(files: Any, place: str, *, start: str) -> None:
    """Ask once for the first object of a place.

    Args:
        files: its file system.
        place: as the user gave it, for the error.
        start: folder or file; without wildcards.

    Raises:
        StoreRefusal: no such bucket, no right to list it, no credentials, or no answer in seconds;
            clients alone would try for minutes.
    """
    if is_object_store(start):
        with answering(place, files, whole=True):
            next(pages(files, start, most=1, timeout=_CONNECT_S))


# Listing --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A file, as a store's listing says."""

    name: str  # relative to what was listed
    size_bytes: int
    modified_s: float | None


def pages(
    files: Any, folder: str, *, most: int = _PAGE, timeout: int | None = None
) -> Iterator[list[Entry]]:
    """Files below a folder, however deep, as they come; of object stores in the order of names.

    Args:
        files: the file system.
        folder: URI, without a slash at its end.
        most: names of a page.
        timeout: seconds for each page; None leaves it to the client.
    """
    ask = {"s3": _s3_page, "gs": _gs_page, "az": _az_page}.get(_FAMILIES.get(scheme_of(folder), ""))
    if ask is None:
        base = files._strip_protocol(folder)
        found = files.find(folder, detail=True)
        yield [_entry(name[len(base) :].lstrip("/"), found[name]) for name in sorted(found)]
        return
    bucket, key, _ = files.split_path(folder)
    prefix, token = f"{key}/" if key else "", None
    while True:
        entries, token = ask(files, bucket, prefix, most, token, timeout)
        # What ends in a slash stands for a folder.
        yield [
            Entry(name[len(prefix) :], size, _seconds(when))
            for name, size, when in entries
            if not name.endswith("/")
        ]
        if not token:
            return


_Page = tuple[list[tuple[str, int, Any]], str | None]


def _s3_page(
    files: Any, bucket: str, prefix: str, most: int, token: str | None, timeout: int | None
) -> _Page:
    more = {"ContinuationToken": token} if token else {}
    page = files.call_s3(
        "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=most, timeout=timeout, **more
    )
    entries = [(o["Key"], o["Size"], o["LastModified"]) for o in page.get("Contents", ())]
    return entries, page.get("NextContinuationToken") if page.get("IsTruncated") else None


def _gs_page(
    files: Any, bucket: str, prefix: str, most: int, token: str | None, timeout: int | None
) -> _Page:
    asked = {"prefix": prefix or None, "maxResults": most, "pageToken": token, "timeout": timeout}
    page = files.call("GET", "b/{}/o", bucket, json_out=True, **asked)
    entries = [(o["name"], int(o["size"]), o.get("updated")) for o in page.get("items", ())]
    return entries, page.get("nextPageToken")


def _az_page(
    files: Any, bucket: str, prefix: str, most: int, token: str | None, timeout: int | None
) -> _Page:
    async def ask() -> _Page:
        async with files.service_client.get_container_client(bucket) as client:
            blobs = client.list_blobs(name_starts_with=prefix or None, results_per_page=most)
            paged = blobs.by_page(continuation_token=token)
            entries = [
                (blob.name, blob.size, blob.last_modified) async for blob in await anext(paged)
            ]
            return entries, paged.continuation_token

    return cast("_Page", sync(files.loop, ask, timeout=timeout))


def stat(files: Any, place: str) -> Entry:
    """Size and time of one file, by one request; its name is left empty.

    Raises:
        FileNotFoundError: there is none, or it is a folder.
    """
    family = _FAMILIES.get(scheme_of(place))
    if family == "s3":
        bucket, key, _ = files.split_path(place)
        found = files.call_s3("head_object", Bucket=bucket, Key=key)
        return Entry("", found["ContentLength"], _seconds(found.get("LastModified")))
    if family == "gs":  # gcsfs asks for a folder of that name, too
        bucket, key, _ = files.split_path(place)
        found = files.call("GET", "b/{}/o/{}", bucket, key, json_out=True)
        return Entry("", int(found["size"]), _seconds(found.get("updated")))
    found = files.info(place)
    if found["type"] != "file":
        raise FileNotFoundError(errno.ENOENT, "need a file, got a folder", place)
    return _entry("", found)


def stats(files: Any, places: Sequence[str]) -> list[Entry | None]:
    """As `stat`, of many files at a time; None where there is none."""

    def one(place: str) -> Entry | None:
        with answering(place, files):
            try:
                return stat(files, place)
            except FileNotFoundError:
                return None

    if len(places) < 2:
        return [one(place) for place in places]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(one, places))


def _entry(name: str, info: dict[str, Any]) -> Entry:
    times = map(info.get, ("last_modified", "LastModified", "mtime", "created"))
    return Entry(name, info.get("size") or 0, _seconds(next(filter(None, times), None)))


def _seconds(when: Any) -> float | None:
    if isinstance(when, str):
        when = datetime.datetime.fromisoformat(when)
    if isinstance(when, datetime.datetime):
        return when.timestamp()
    return when or None


# Reading --------------------------------------------------------------------------------------


def read_range(files: Any, place: str, start: int | None, end: int | None) -> bytes:
    """Bytes of a file from `start` up to before `end`, or fewer where it ends; None is its edge.

    Raises:
        FileNotFoundError: it is not there.
    """
    if end is not None and end <= (start or 0):
        return b""  # a server would give all of it
    try:
        return files.cat_file(place, start=start, end=end)
    except Exception as error:
        if start and any(_status_of(cause) == 416 for cause in _causes(error)):
            return b""  # it ends before
        raise


def open_input(files: Any, place: str, *, cached: bool = True) -> "RemoteFile":
    """Open for reading and seeking.

    Args:
        files: the file system.
        place: URI, or a path inside the file system.
        cached: read blocks of 4 MB and keep some; False asks for just what is read.

    Raises:
        FileNotFoundError: it is not there.
        StoreRefusal: no right, no login, no connection; also from the file's own methods.
    """
    kept = {"cache_type": "blockcache", "cache_options": {"maxblocks": _BLOCKS}}
    with answering(place, files):
        how = kept if cached else {"cache_type": "none"}
        opened = files.open(place, "rb", block_size=_BLOCK_BYTES, **how)
    return RemoteFile(opened, place)


class RemoteFile(io.RawIOBase):
    """A remote file; what goes wrong is a StoreRefusal or an OSError with a number.

    Readers of damaged files take bare OSErrors and ValueErrors, which stores raise too, for damage.
    """

    def __init__(self, opened: Any, place: str) -> None:
        self._file, self._place = opened, place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            with answering(self._place, getattr(self._file, "fs", None)):
                return self._file.read(-1 if size is None else size)
        except (ConfigError, FileNotFoundError):
            raise
        except Exception as error:  # as above
            raise OSError(errno.EIO, f"{self._place}: {said_by_client(error)}") from error

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
