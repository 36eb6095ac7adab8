# Beam is not typed for pyright: options are attributes that its parser adds.
# pyright: reportAttributeAccessIssue=false
"""A run on Google Cloud Dataflow: what it needs, what we choose, what the submitter sees.

`python -m pipeline.runners.dataflow` prints docker/flex/metadata.json, the parameters of the flex
template; `arguments_of` turns what Dataflow hands to its launcher back into a command line.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from annotators.options import helps_of
from annotators.registry import all_options, kind_of, others
from pipeline.config import GenerateConfig
from pipeline.output.store import is_local
from schemas.errors import ConfigError
from schemas.printable import say

if TYPE_CHECKING:
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

SHARDS_AT_ONCE = 2
"""Threads of Beam's in a worker: one shard keeps the cores busy while the other is committed."""

_ONE_PROCESS = "no_use_multiple_sdk_containers"
_ACCELERATOR = "worker_accelerator="
_EXAMPLE = "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
_RUNNER_LOG = "apache_beam.runners.dataflow.dataflow_runner"
_SUBMITTED, _CONSOLE = "Submitted job: %s", "To access the Dataflow monitoring console"


def is_dataflow(arguments: Sequence[str]) -> bool:
    """Whether Beam's arguments name the Dataflow runner, in any spelling that Beam takes."""
    runner = PipelineOptions(list(arguments)).view_as(StandardOptions).runner or ""
    return runner.rpartition(".")[2].lower() in {"dataflowrunner", "dataflow"}


def prepared(config: GenerateConfig) -> GenerateConfig:
    """The configuration as Dataflow gets it; any other runner's comes back as it is.

    What the user gave wins; the rest are a packaged pipeline (no main session, nothing installed
    when a worker starts), one SDK process a machine whose threads are ours, and a job name that
    belongs to the output, since Dataflow refuses a second active job of that name. `num_workers`
    are machines there, as with every job on Dataflow; each uses all of its cores.

    Raises:
        ConfigError: an option that Dataflow needs is missing or cannot work, before anything is
            sent.
    """
    if not is_dataflow(config.beam_args):
        return config
    _check(config)
    return dataclasses.replace(
        config,
        beam_args=(*config.beam_args, *_ours(config)),
        num_workers=None,
        precision="fp32" if config.precision == "auto" else config.precision,
    )


def _ours(config: GenerateConfig) -> Iterator[str]:
    """Arguments that the user left to us."""
    options = PipelineOptions(list(config.beam_args))
    setup, debug = options.view_as(SetupOptions), options.view_as(DebugOptions)
    if setup.save_main_session is None:
        # Functions go to workers by name: the package is in the image.
        yield "--no_save_main_session"
    if not _is_given("sdk_location", config.beam_args):
        # Beam is in the image, too; else every worker would install it when it starts.
        yield "--sdk_location=container"
    if not any(
        "use_multiple_sdk_containers" in experiment for experiment in debug.experiments or ()
    ):
        # A process a core would load every network as often.
        yield f"--experiments={_ONE_PROCESS}"
    if debug.number_of_worker_harness_threads is None:
        yield f"--number_of_worker_harness_threads={SHARDS_AT_ONCE}"
    if options.view_as(GoogleCloudOptions).job_name is None:
        yield f"--job_name={job_name(config.output)}"
    if config.num_workers is not None:
        yield f"--num_workers={config.num_workers}"


def job_name(output: str) -> str:
    """A name that belongs to an output folder and that Dataflow takes: letters, digits, hyphens."""
    last = re.sub("[^a-z0-9]+", "-", output.rstrip("/").rpartition("/")[2].lower()).strip("-")
    digest = hashlib.sha256(output.rstrip("/").encode()).hexdigest()[:8]
    return "-".join(part for part in ("controlset", last[:40].rstrip("-"), digest) if part)


def _check(config: GenerateConfig) -> None:
    """Everything that can be known before a job is sent.

    Raises:
        ConfigError: the first thing that is missing.
    """
    options = PipelineOptions(list(config.beam_args))
    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    _need(cloud.project, "--project", "the project that pays", "add --project=NAME")
    _need(cloud.region, "--region", "where the workers run", "add --region=europe-west4, say")
    for option in ("temp_location", "staging_location"):
        place = getattr(cloud, option)
        if place is None and option == "staging_location":
            continue  # Beam takes the other one
        bucket = re.match("gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/|$)", place or "")
        _need(bucket, f"--{option}", "a folder gs://BUCKET/…", "it holds what is staged", place)
    image = options.view_as(WorkerOptions).sdk_container_image
    advice = "build one with `make image` (docs/dataflow.md)"
    _need(image, "--sdk_container_image", "an image that holds controlset", advice)
    for name, place in (("SOURCE", config.source), ("--output", config.output)):
        what = "a place that workers reach, gs://…"
        _need(not is_local(place), name, what, "they do not see this machine's folders", place)
    _need(
        not setup.requirements_file,
        "--requirements_file",
        "packages in the image",
        "add them to docker/worker.Dockerfile; nothing is installed when a worker starts",
        setup.requirements_file,
    )
    _check_accelerator(config, cloud.dataflow_service_options or ())


def _check_accelerator(config: GenerateConfig, service_options: Sequence[str]) -> None:
    """A GPU is asked for and used, or neither: a worker must not silently compute on its CPU."""
    named = [option for option in service_options if option.startswith(_ACCELERATOR)]
    wants = config.device.startswith("cuda")
    if wants:
        how = f"add --dataflow_service_options='{_EXAMPLE}'"
        _need(named, f"--device {config.device}", "workers with a GPU", how)
        known = config.precision != "auto"
        why = "this machine cannot know the workers' GPU: bf16 from L4 and A100 on, fp16 on T4"
        _need(known, "--precision", "bf16, fp16 or fp32", why, "auto")
    elif named:
        why = "without it a worker whose driver fails computes on its CPU"
        _need(False, f"--dataflow_service_options={named[0]}", "--device cuda", why, config.device)
    if config.device.startswith("mps"):
        _need(False, "--device", "auto, cpu or cuda", "Dataflow has no Apple machines", "mps")


def _need(met: object, where: str, rule: str, advice: str, got: object = "nothing") -> None:
    if not met:
        raise ConfigError(f"{where}: Dataflow needs {rule}, got {got or 'nothing'}; {advice}")


def _is_given(option: str, arguments: Sequence[str]) -> bool:
    return any(argument.split("=")[0] == f"--{option}" for argument in arguments)


@contextlib.contextmanager
def submitted(config: GenerateConfig) -> Iterator[None]:
    """On Dataflow, tell where the job is and how it fares; a failure becomes one line.

    Raises:
        ConfigError: the service refused the job, or the job failed.
    """
    if not is_dataflow(config.beam_args):
        yield
        return
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
    from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
    from google.api_core.exceptions import GoogleAPICallError

    cloud = PipelineOptions(list(config.beam_args)).view_as(GoogleCloudOptions)
    told = _Told()
    with _heard(told):
        try:
            _check_buckets(cloud)
            yield
        except KeyboardInterrupt:
            if told.job is not None:
                place = f"--project {cloud.project} --region {cloud.region}"
                cancel = f"gcloud dataflow jobs cancel {told.job} {place}"
                say(f"Dataflow goes on with the job; {cancel}", error=True)
            raise
        except DataflowRuntimeException as error:
            raise ConfigError(
                f"Dataflow job {told.job}: {_reason(error)}; finished shards are kept, the same "
                "command goes on"
            ) from error
        except (DataflowJobAlreadyExistsError, GoogleAPICallError, OSError) as error:
            where = f"project {cloud.project}, {cloud.region}"
            raise ConfigError(f"Dataflow ({where}) refused: {_last_line(error)}") from error


def _check_buckets(cloud: GoogleCloudOptions) -> None:
    """Ask for the staging buckets once; Beam would ask for ten minutes.

    Raises:
        ConfigError: no such bucket.
    """
    from apache_beam.io.gcp.gcsio import create_storage_client

    client = create_storage_client(cloud, not cloud.no_auth)
    for option in ("temp_location", "staging_location"):
        place = getattr(cloud, option)
        if place and client.lookup_bucket(place.split("/")[2]) is None:
            raise ConfigError(f"--{option}: need a bucket that exists, got {place}; make it first")


class _Told(logging.Handler):
    """Prints what the submitting person wants to know out of all that Beam logs of a job."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.job: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.msg == _SUBMITTED:
            self.job = message.removeprefix("Submitted job: ")
            say(f"Dataflow job {self.job}", error=True)
        elif message.startswith(_CONSOLE) or (self.job and record.name == _RUNNER_LOG):
            say(message, error=True)


@contextlib.contextmanager
def _heard(told: _Told) -> Iterator[None]:
    logger = logging.getLogger("apache_beam.runners.dataflow")
    level, spread = logger.level, logger.propagate
    logger.addHandler(told)
    logger.setLevel(logging.INFO)
    # Else the root's handlers would print what is not for the submitter, too.
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(told)
        logger.setLevel(level)
        logger.propagate = spread


def _reason(error: "DataflowRuntimeException") -> str:
    """The job's own error, or its state where Beam did not see one."""
    last = _last_line(error)
    return f"ended in {error.result.state}, see its page" if last == "None" else last


def _last_line(error: BaseException) -> str:
    """Of a failure that may carry a worker's whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


# The flex template: its parameters are the options of `controlset generate`, and cannot drift -----

_NOT_PARAMETERS = frozenset({"dry_run", "beam_args", "num_workers", "options"})
"""Of the terminal, of Beam, and of the job's environment (Dataflow's own numWorkers)."""

_DESCRIPTION = (
    "Turn images into sharded Parquet of images, captions and condition maps, to train ControlNets "
    "on. Launched again with the same parameters it goes on where it stopped."
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Parameter:
    """An option, of `generate` itself or of an annotator."""

    name: str
    kind: Any  # its type, without None
    default: Any  # MISSING where it must be given
    help: str = ""


def metadata() -> dict[str, Any]:
    """The template's metadata, as `google.cloud.dataflow_v1beta3.TemplateMetadata` in JSON."""
    return {
        "name": "controlset generate",
        "description": _DESCRIPTION,
        "streaming": False,
        "parameters": [_described(parameter) for parameter in _parameters()],
    }


def arguments_of(parameters: Sequence[str]) -> list[str]:
    """A command line of `controlset generate` from what the launcher passes to the main file.

    Args:
        parameters: `--name=value`, names as in the metadata; the others are Beam's options.

    Returns:
        The source first; lists as separate words, switches as flags; Beam's options as they came.
    """
    known = {parameter.name: parameter for parameter in _parameters()}
    source, arguments = [], []
    for parameter in parameters:
        name, _, value = parameter.removeprefix("--").partition("=")
        if name not in known:
            arguments.append(parameter)
        elif name == "source":
            source.append(value)
        elif value:
            arguments += _flags(known[name], value)
    return [*source, *arguments]


def _flags(parameter: _Parameter, value: str) -> list[str]:
    option = parameter.name.replace("_", "-")
    if parameter.kind is bool:
        return [f"--{option}"] if value.lower() == "true" else []  # all of them are off by default
    if typing.get_origin(parameter.kind) is tuple:
        return [f"--{option}", *value.replace(",", " ").split()]
    return [f"--{option}={value}"]


def _parameters() -> Iterator[_Parameter]:
    """Options in the order of importance: what must be given first, those of annotators last."""
    hints, helps = typing.get_type_hints(GenerateConfig), helps_of(GenerateConfig)
    own = [
        _Parameter(
            name=field.name,
            kind=_without_none(hints[field.name]),
            default=None if callable(field.default_factory) else field.default,
            help=helps[field.name],
        )
        for field in dataclasses.fields(GenerateConfig)
        if field.name not in _NOT_PARAMETERS
    ]
    yield from sorted(own, key=lambda parameter: parameter.default is not dataclasses.MISSING)
    elsewhere = set(others())  # what is installed here need not be in the template's image
    for model, options in all_options().items():
        helps = {} if model in elsewhere else helps_of(kind_of(model))
        for option in () if model in elsewhere else options:
            yield _Parameter(
                name=option.name,
                kind=_without_none(option.kind),
                default=option.default,
                help=helps[next(iter(option.parameters))],
            )


def _described(asked: _Parameter) -> dict[str, Any]:
    parameter: dict[str, Any] = {
        "name": asked.name,
        "label": asked.name.replace("_", " ").capitalize(),
        "helpText": asked.help,
        "isOptional": asked.default is not dataclasses.MISSING,
        "paramType": _type_of(asked.kind),
    }
    if typing.get_origin(asked.kind) is Literal:
        values = [str(value) for value in typing.get_args(asked.kind)]
        parameter["enumOptions"] = [{"value": value, "label": value} for value in values]
    if asked.name == "output":
        parameter |= {"paramType": "GCS_WRITE_FOLDER", "regexes": ["^gs://.+"]}
    if asked.default not in (dataclasses.MISSING, None, ()):
        plain = str(asked.default)
        parameter["defaultValue"] = plain.lower() if asked.kind is bool else plain
    return parameter


def _type_of(kind: object) -> str:
    if typing.get_origin(kind) is Literal:
        return "ENUM"
    names: Mapping[object, str] = {bool: "BOOLEAN", int: "NUMBER", float: "NUMBER"}
    return names.get(kind, "TEXT")


def _without_none(kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
    return kind


if __name__ == "__main__":
    say(*json.dumps(metadata(), indent=2, ensure_ascii=False).split("\n"))
