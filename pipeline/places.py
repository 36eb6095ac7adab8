"""Places outside this disk: their clients, with Beam's options for S3, and whether they answer.

How they are read and listed is in `schemas.filesystems`, which knows nothing of Beam.
"""

import contextlib
import functools
import re
from collections.abc import Sequence
from typing import Any

from schemas import filesystems
from schemas.errors import ConfigError

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


_WILDCARD = re.compile(r"[*?\[{]")
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
    if not filesystems.is_local(place):
        filesystems.check_reachable(file_system(place), place, start=_plain_start(place))


def _plain_start(place: str) -> str:
    """The folder before the first wildcard of a pattern; a place without one is it itself."""
    start = _WILDCARD.split(place)[0]
    return place if start == place else start.rpartition("/")[0]


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
    start = _plain_start(place)
    if scheme != "hf" and start != place:
        return  # braces: each of them is asked for when they are listed
    files = file_system(place)
    try:
        found = files.info(start)
        if scheme != "hf":
            _check_ranges(files, place)
    except Exception as error:  # aiohttp, httpx and the hub have classes of their own
        got = filesystems.said_by_client(error)
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
