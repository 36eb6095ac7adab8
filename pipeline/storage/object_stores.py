# Beam is not typed for pyright: options are attributes that its parser adds.
# pyright: reportAttributeAccessIssue=false
"""S3 and GCS under Beam's file systems: one client for all files, and refusals in plain words.

Beam makes a client for every file that it opens: 160 ms for S3, a new connection for GCS. Its code
stays; only what it asks for a client gets one that is kept.
"""

import dataclasses
import functools
import importlib
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options
from apache_beam.options.value_provider import RuntimeValueProvider

from schemas.errors import ConfigError

_ADVICE = {
    401: "log in, e.g. `gcloud auth application-default login`, or set the AWS_… variables",
    403: "give this account the right to list, read and write there",
    404: "make the bucket first, or correct its name",
}
_UNREACHED = "check the network, the endpoint and the credentials"
_SECONDS = 10  # for a first answer


def use(arguments: Sequence[str]) -> None:
    """Let file systems have Beam's options, e.g. `--s3_endpoint_url`, before a pipeline does."""
    FileSystems.set_options(PipelineOptions(list(arguments)))


def file_systems() -> type[FileSystems]:
    """Beam's file systems, with options set and clients shared; everything here goes through it."""
    if FileSystems._pipeline_options is None and RuntimeValueProvider.runtime_options is None:
        use(())
    importlib.import_module("pipeline.storage.web_files")  # which Beam then knows, too
    _share_clients()
    return FileSystems


def check_reachable(place: str) -> None:
    """Ask once for the first object of a place, or of a pattern's part before its first wildcard.

    Raises:
        ConfigError: no such bucket, no right to list it, no credentials, or no answer; Beam would
            try for ten minutes.
    """
    file_systems()
    scheme, _, path = place.partition("://")
    bucket, _, prefix = re.split("[*?[{]", path)[0].partition("/")
    ask = {"s3": _ask_s3, "gs": _ask_gcs}.get(scheme)
    if ask is None:
        return
    try:
        ask(bucket, prefix)
    except Exception as error:  # clients have an error class for every layer
        refusal = refusal_of(error)
        raise ConfigError(f"{place}: {refusal or repr(error)}") from error


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Why a store said no."""

    got: str
    advice: str

    def __str__(self) -> str:
        return f"need a bucket that answers, got {self.got}; {self.advice}"


def refusal_of(error: BaseException) -> Refusal | None:
    """Read a store's refusal out of an exception; None where it is something else."""
    for cause in _causes(error):
        status = _status_of(cause)
        if status in _ADVICE:
            return Refusal(f"HTTP {status} ({_first_line(cause)})", _ADVICE[status])
        if type(cause).__module__.partition(".")[0] in _NETWORK and status is None:
            return Refusal(_first_line(cause), _UNREACHED)
    return None


_NETWORK = {"botocore", "google", "requests", "urllib3"}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, those that Beam packed into it, and those that it was raised from."""
    yield error
    if isinstance(error, BeamIOError):
        for inner in (error.exception_details or {}).values():
            if isinstance(inner, BaseException):
                yield from _causes(inner)
    if error.__cause__ is not None or error.__context__ is not None:
        yield from _causes(error.__cause__ or error.__context__)  # type: ignore[arg-type]


def _status_of(error: BaseException) -> int | None:
    """HTTP status in the errors of botocore, Beam's S3 client, Google's client and its uploads."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if response is not None:
        return getattr(response, "status_code", None)
    code = getattr(error, "code", None)
    return int(code) if isinstance(code, int) else None


def _first_line(error: BaseException) -> str:
    text = str(getattr(error, "message", None) or error) or type(error).__name__
    return text.splitlines()[0][:200]


# Clients --------------------------------------------------------------------------------------


@functools.cache
def _share_clients() -> None:
    """Once in a process, for the file systems that are installed."""
    if _is_installed("boto3"):
        from apache_beam.io.aws.clients.s3 import boto3_client

        class Shared(boto3_client.Client):
            """Its own position in a download, everybody's connection."""

            def __init__(self, options: PipelineOptions | dict[str, Any]) -> None:
                self.client = _s3_client(_s3_settings(options))
                self._download_request = None
                self._download_stream = None
                self._download_pos = 0

        boto3_client.Client = Shared
    if _is_installed("google.cloud.storage"):
        from apache_beam.io.gcp import gcsio

        make = gcsio.create_storage_client

        def shared(options: PipelineOptions, use_credentials: bool = True) -> Any:
            clients = _GCS.__dict__.setdefault("clients", {})  # this thread's
            if use_credentials not in clients:
                clients[use_credentials] = make(options, use_credentials)
            return clients[use_credentials]

        gcsio.create_storage_client = shared


_GCS = threading.local()
"""Google's clients are not said to be safe for several threads; boto3's are."""


def forget_clients() -> None:
    """Make new ones, for tests whose stores come and go."""
    global _GCS  # a new one is empty in every thread
    _GCS = threading.local()
    _s3_client.cache_clear()


def _is_installed(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def _s3_settings(options: PipelineOptions | dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """What Beam's own client reads out of its options, in a form that can be compared."""
    given = options
    if isinstance(options, PipelineOptions):
        given = options.view_as(S3Options).get_all_options()
    return (
        ("aws_access_key_id", given.get("s3_access_key_id")),
        ("aws_secret_access_key", given.get("s3_secret_access_key")),
        ("aws_session_token", given.get("s3_session_token")),
        ("endpoint_url", given.get("s3_endpoint_url")),
        ("region_name", given.get("s3_region_name")),
        ("api_version", given.get("s3_api_version")),
        ("verify", given.get("s3_verify")),
        ("use_ssl", not given.get("s3_disable_ssl", False)),
    )


@functools.cache
def _s3_client(settings: tuple[tuple[str, Any], ...]) -> Any:
    """A client that all threads may use."""
    import boto3
    from botocore.config import Config

    config = Config(max_pool_connections=64, connect_timeout=_SECONDS)
    return boto3.session.Session().client("s3", config=config, **dict(settings))


def _ask_s3(bucket: str, prefix: str) -> None:
    options = FileSystems._pipeline_options
    client = _s3_client(_s3_settings(options or PipelineOptions([])))
    client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)


def _ask_gcs(bucket: str, prefix: str) -> None:
    from apache_beam.io.gcp.gcsio import create_storage_client

    client = create_storage_client(FileSystems._pipeline_options or PipelineOptions([]))
    found = client.list_blobs(bucket, prefix=prefix, max_results=1, retry=None, timeout=_SECONDS)  # type: ignore[arg-type]  # None: no retries
    next(iter(found), None)
