"""`controlset generate`."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from controlset.parse import flags_of, parse_known, unknown_option
from pipeline.options import GenerateConfig
from schemas.errors import ConfigError

COMMAND = "controlset generate"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(GenerateConfig):
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    beam_args: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()

    config: Path | None = None
    """YAML file of these options, names as here; the command line wins."""


def run(arguments: Sequence[str]) -> int:
    """Generate a data set, or print the plan of it."""
    config = parse_config(arguments)
    from pipeline import launch

    if config.dry_run:
        print(launch.dry_run(config))
    else:
        launch.generate(config, show=True)
    return 0


def parse_config(arguments: Sequence[str]) -> GenerateConfig:
    """The configuration that a command line and its `--config` file ask for.

    Raises:
        ConfigError: a mistake in either, in one line.
    """
    options, unknown = parse_known(
        _Options,
        COMMAND,
        _with_file(list(arguments)),
        description="Turn photographs into a data set of images, captions and condition maps. "
        "Run again, it goes on where it stopped. Options that are not listed here go to Apache "
        "Beam, e.g. --runner=DataflowRunner.",
        example=f"{COMMAND} photographs/ --output canny-set --conditions canny",
    )
    if unknown:
        _check_beam_knows(unknown)
    values: dict[str, Any] = {
        field.name: getattr(options, field.name) for field in dataclasses.fields(GenerateConfig)
    }
    values["beam_args"] = tuple(unknown)
    return GenerateConfig(**values)


def _with_file(arguments: list[str]) -> list[str]:
    """The command line, after the options of `--config FILE` that it does not repeat."""
    path = _value_of("--config", arguments)
    if path is None:
        return arguments
    given = {argument.split("=")[0] for argument in arguments}
    has_source = not arguments[0].startswith("-")
    source: list[str] = []
    added: list[str] = []
    for name, value in _read_yaml(path).items():
        flag = f"--{name.replace('_', '-')}"
        if name == "source":
            source = [] if has_source else [str(value)]
        elif flag not in given and value is not None and value is not False:
            values = value if isinstance(value, list) else [] if value is True else [value]
            added += [flag, *map(str, values)]
    if has_source:
        return [arguments[0], *added, *arguments[1:]]
    return [*source, *added, *arguments]


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    for number, argument in enumerate(arguments):
        if argument == flag and number + 1 < len(arguments):
            return arguments[number + 1]
        if argument.startswith(f"{flag}="):
            return argument.split("=", 1)[1]
    return None


def _read_yaml(path: str) -> Mapping[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: need a file that can be read, got {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: need YAML, got {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"--config {path}: need a mapping of options, got {document!r}")
    names = {field.name for field in dataclasses.fields(GenerateConfig)} - {"beam_args"}
    for name in document:
        if str(name).replace("-", "_") not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"--config {path}: unknown option {name}{hint}")
    return {str(name).replace("-", "_"): value for name, value in document.items()}


def _check_beam_knows(unknown: Sequence[str]) -> None:
    """Refuse what neither we nor Beam know; Beam itself would ignore it.

    Raises:
        ConfigError: names the first such option.
    """
    from apache_beam.options import pipeline_options as beam_options

    parser = beam_options._BeamArgumentParser(allow_abbrev=False, add_help=False)
    for kind in set(beam_options.PipelineOptions.__subclasses__()):
        kind._add_argparse_args(parser)  # Beam's own hook for declaring options
    left = parser.parse_known_args(list(unknown))[1]
    if left:
        raise unknown_option(left[0], flags_of(_Options))
