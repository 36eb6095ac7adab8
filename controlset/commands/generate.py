"""`controlset generate`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, NoReturn

import tyro

from controlset import refusals
from controlset.commands import leaving_at_once, load_arrow
from controlset.parse import Command, plain
from pipeline.config import GenerateConfig
from schemas.errors import ConfigError, need
from schemas.printable import say


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(GenerateConfig):
    # Said again for their metavars, which are the command line's; explained in `GenerateConfig`.
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    output: Annotated[str, tyro.conf.arg(metavar="DIR")]
    conditions: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    import_condition: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=WHERE [...]")] = ()
    keep_columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN[:TYPE] [...]")] = ()
    beam_args: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()

    def __post_init__(self) -> None:
        # `--conditions canny` without SOURCE: tyro takes canny for it.
        rule = "SOURCE and at least one NAME"
        need(bool(self.conditions or self.import_condition), "--conditions", rule, self.source)
        GenerateConfig.__post_init__(self)


COMMAND = Command(
    name="generate",
    kind=_Options,
    description="Turn photographs into a data set of images, captions and condition maps. "
    "Run again, it goes on where it stopped. Options that are not listed here go to Apache "
    "Beam, e.g. --runner=DataflowRunner.",
    example="photographs/ --output canny-set --conditions canny",
    has_file=True,
)


def run(arguments: Sequence[str]) -> int:
    """Generate a data set, or print the plan of it."""
    with leaving_at_once("generate"):
        config = parse_config(arguments)
        refusals.check_generate(config)
        from pipeline import generate

        load_arrow()
    if config.dry_run:
        say(*generate.dry_run(config).split("\n"))
    else:
        generate.generate(config, show=True)
    return 0


def parse_config(arguments: Sequence[str]) -> GenerateConfig:
    """The configuration that a command line and its `--config` file ask for.

    Raises:
        ConfigError: a mistake in either, in one line.
    """
    options, unknown = COMMAND.parse_known(arguments)
    # Else a slip of the hand would be handed to Beam, and a run of hours be another than meant.
    if (word := COMMAND.misspelt(unknown)) is not None:
        raise COMMAND.unknown(word)  # Beam, which is slow, need not be asked
    if unknown:
        check_beam_knows(unknown)
    return dataclasses.replace(plain(options, GenerateConfig), beam_args=tuple(unknown))


def check_beam_knows(unknown: Sequence[str]) -> None:
    """Refuse what neither we nor Beam know; Beam itself would ignore it.

    Raises:
        ConfigError: names the first such option, or one whose value Beam does not take.
    """
    from apache_beam.options import pipeline_options as beam_options
    from apache_beam.runners.runner import create_runner

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"Apache Beam: {message}")

    parser = beam_options._BeamArgumentParser(allow_abbrev=False, add_help=False)
    parser.error = refuse  # its own prints the usage of 200 options
    for kind in set(beam_options.PipelineOptions.__subclasses__()):
        kind._add_argparse_args(parser)  # Beam's own hook for declaring options
    known, left = parser.parse_known_args(list(unknown))
    # A job server may have options of its own runner, and tells which.
    if left and str(known.runner).lower() == "portablerunner" and known.job_endpoint:
        from pipeline.runners.portable import unknown_to

        left = unknown_to(known.job_endpoint, left)
    if left:
        raise COMMAND.unknown(left[0])
    if known.runner is not None:
        try:
            create_runner(known.runner)  # imports it, which its extras may be missing for
        except (AttributeError, ImportError, ValueError) as error:
            raise ConfigError(f"--runner {known.runner}: {error}") from error
