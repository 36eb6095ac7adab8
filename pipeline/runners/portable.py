# Beam is not typed for pyright: options are attributes that its parser adds.
# pyright: reportAttributeAccessIssue=false
"""Runs on Beam's portable runners (Flink, Spark, Prism, any job service): bad ends in one line."""

import contextlib
import dataclasses
import functools
import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence

from apache_beam.options.pipeline_options import (
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)

from pipeline.config import GenerateConfig
from pipeline.output.store import is_local
from schemas.errors import ConfigError

_SECONDS = 10  # for a job service to take the connection
_KEPT_MS = 60_000  # a worker that has nothing to do stays so long
_WITH_WORKERS = {"portablerunner", "flinkrunner", "sparkrunner"}
_AGAIN = "finished shards are kept, the same command goes on"
_SERVERS = {
    "flinkrunner": "give --flink_job_server_jar=FILE, or start a job server and use "
    "--runner=PortableRunner --job_endpoint=HOST:PORT",
    "sparkrunner": "give --spark_job_server_jar=FILE, or start a job server and use "
    "--runner=PortableRunner --job_endpoint=HOST:PORT",
    "prismrunner": "give --prism_location=FILE of a Prism binary",
}


def prepared(config: GenerateConfig) -> GenerateConfig:
    """The same run with full paths, and workers that outlive a stage, unless it says otherwise.

    A worker's working directory is not the submitting one's. Beam's default lets Flink start a
    worker, and import everything, once a stage.
    """
    options = PipelineOptions(list(config.beam_args))
    named = options.view_as(StandardOptions).runner
    if named is None:
        return config
    beam_args = config.beam_args
    kept = options.view_as(PortableOptions).environment_cache_millis
    if named.lower() in _WITH_WORKERS and not kept:
        beam_args = (*beam_args, f"--environment_cache_millis={_KEPT_MS}")
    output = config.output.removeprefix("file://")
    weights = config.weights and os.path.abspath(config.weights)
    output = os.path.abspath(output) if is_local(output) else output
    return dataclasses.replace(config, output=output, weights=weights, beam_args=beam_args)


def check_endpoint(arguments: Sequence[str]) -> None:
    """Ask whether the job service is there; Beam would wait for it without an end.

    Raises:
        ConfigError: nobody answers.
    """
    endpoint = PipelineOptions(list(arguments)).view_as(PortableOptions).job_endpoint
    if endpoint and endpoint != "embed":
        _need_answer(endpoint)


def _need_answer(endpoint: str) -> None:
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


def unknown_to(endpoint: str, given: Sequence[str]) -> list[str]:
    """Options among `given` that the job service does not know either.

    Flink's and Spark's own options are declared there, in Java.

    Raises:
        ConfigError: nobody answers.
    """
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

    _need_answer(endpoint)
    request = beam_job_api_pb2.DescribePipelineOptionsRequest()
    with grpc.insecure_channel(endpoint) as channel:
        service = beam_job_api_pb2_grpc.JobServiceStub(channel)
        try:
            described = service.DescribePipelineOptions(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            raise ConfigError(
                f"--job_endpoint: need a job service at {endpoint}, got {_said(error)}"
            ) from error
    known = {option.name for option in described.options}
    options = [word for word in given if word.startswith("--")]
    return [word for word in options if word[2:].split("=")[0] not in known]


def _said(error: Exception) -> str | None:
    """The reason alone, of an error of gRPC."""
    import grpc

    return error.details() if isinstance(error, grpc.Call) else str(error)


@functools.cache
def _tell_of_a_lost_channel_once() -> None:
    """Beam's threads lose the job service together with the run, and print a traceback each.

    For good: some end after the run, when the process does.
    """
    import grpc

    of_others = threading.excepthook

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, grpc.RpcError):
            of_others(args)

    threading.excepthook = in_thread


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

    _tell_of_a_lost_channel_once()
    try:
        yield
    except grpc.RpcError as error:
        raise ConfigError(f"{named}: lost its job service ({_said(error)}); {_AGAIN}") from error
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if len(lines) > 1:
            logging.getLogger(__name__).error("%s", error)
        last = (lines or [type(error).__name__])[-1][:300]
        advice = _AGAIN
        # A jar or binary of the runner that Beam wanted to download.
        if "Unable to fetch" in str(error):
            advice = _SERVERS.get(named.lower(), advice)
        raise ConfigError(f"{named}: {last}; {advice}") from error
