# Beam is not typed for pyright: options are attributes that its parser adds.
# pyright: reportAttributeAccessIssue=false
"""Runs on Beam's portable runners (Flink, Spark, Prism, any job service): bad ends in one line."""

import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence

from apache_beam.options.pipeline_options import (
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)

from schemas.errors import ConfigError

_SECONDS = 10  # for a job service to take the connection
_AGAIN = "finished shards are kept, the same command goes on"
_SERVERS = {
    "flinkrunner": "give --flink_job_server_jar=FILE, or start a job server and use "
    "--runner=PortableRunner --job_endpoint=HOST:PORT",
    "sparkrunner": "give --spark_job_server_jar=FILE, or start a job server and use "
    "--runner=PortableRunner --job_endpoint=HOST:PORT",
    "prismrunner": "give --prism_location=FILE of a Prism binary",
}


def check_endpoint(arguments: Sequence[str]) -> None:
    """Knock at the job service; Beam would wait for it without an end.

    Raises:
        ConfigError: nobody answers.
    """
    endpoint = PipelineOptions(list(arguments)).view_as(PortableOptions).job_endpoint
    if not endpoint or endpoint == "embed":
        return
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--job_endpoint: need HOST:PORT, got {endpoint!r}")
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"--job_endpoint: need a job service that answers at {endpoint}, got {error}; "
            "start it first (docs/runners.md)"
        ) from error


@contextlib.contextmanager
def submitted(arguments: Sequence[str]) -> Iterator[None]:
    """Around a run on a runner that the user named: its failure becomes one line.

    What a worker said at length goes to the log before it.

    Raises:
        ConfigError: the runner cannot start, lost a worker, or the graph failed there.
    """
    named = PipelineOptions(list(arguments)).view_as(StandardOptions).runner
    if named is None:
        yield
        return
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        said = error.details() if isinstance(error, grpc.Call) else str(error)
        raise ConfigError(f"{named}: lost its job service ({said}); {_AGAIN}") from error
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if len(lines) > 1:
            logging.getLogger(__name__).error("%s", error)
        last = (lines or [type(error).__name__])[-1][:300]
        advice = _AGAIN
        if "Unable to fetch" in str(error):
            advice = _SERVERS.get(named.lower(), advice)
        raise ConfigError(f"{named}: {last}; {advice}") from error
