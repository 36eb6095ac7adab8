"""`controlset inspect`."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from controlset import refusals
from controlset.commands import leaving_at_once, load_arrow
from controlset.parse import Command
from schemas.errors import need
from schemas.files import write_text
from schemas.machine import cores
from schemas.printable import say


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """Folder of the data set, or its place in a bucket (`gs://…`, `s3://…`)."""

    html: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the report, with charts and pictures, to this file."""

    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the numbers to this file."""

    sample: int | None = None
    """Look at only this many images, spread over the set."""

    num_workers: int | None = None
    """How many threads decode. Default: one for each core."""


COMMAND = Command(
    name="inspect",
    kind=_Options,
    description="Count, measure and flag: sizes, captions, edge densities, blank maps, "
    "duplicates, rejects.",
    example="canny-set --html report.html",
)


def run(arguments: Sequence[str]) -> int:
    """Measure a data set and show what was found."""
    options = COMMAND.parse(arguments)
    for flag, path in (("--html", options.html), ("--json", options.json)):
        writable = path is None or (path.parent.is_dir() and not path.is_dir())
        need(writable, flag, "a file in a folder that exists", str(path))
    refusals.check_inspect(options.dataset, options.sample, options.num_workers)
    with leaving_at_once("inspect"):
        from pipeline.inspection import inspect_dataset, print_inspection, render_inspection
        from schemas.shards import is_of_set
        from schemas.terminal import Terminal, counting

        load_arrow()
    # `schemas.shards` takes pyarrow, so this comes after the import.
    for flag, path in (("--html", options.html), ("--json", options.json)):
        apart = path is None or not is_of_set(path)
        need(apart, flag, "a file that is no part of a data set", str(path))
    with counting("inspecting") as advance:
        inspection = inspect_dataset(
            options.dataset,
            sample=options.sample,
            workers=options.num_workers or cores(),
            on_progress=advance,
        )
    print_inspection(inspection, Terminal())
    if options.html is not None:
        write_text(options.html, render_inspection(inspection))
        say(f"report: {options.html}")
    if options.json is not None:
        write_text(options.json, json.dumps(inspection.to_json(), indent=1))
        say(f"numbers: {options.json}")
    return 0
