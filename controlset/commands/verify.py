"""`controlset verify`."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Annotated

import tyro

from controlset import refusals
from controlset.commands import leaving_at_once
from controlset.parse import Command
from schemas.machine import cores


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """Folder of the data set, or its place in a bucket (`gs://…`, `s3://…`)."""

    audit: float = 0.0
    """Extract the maps of this fraction of the rows again, 0 to 1, and demand that they are
    equal."""

    num_workers: int | None = None
    """How many threads extract maps again. Default: one for each core."""

    device: str = "auto"
    """Where the audit's networks run: auto (a GPU if there is one), cpu, cuda, cuda:N or mps."""

    weights: str | None = dataclasses.field(
        default_factory=lambda: os.environ.get("CONTROLSET_WEIGHTS") or None
    )
    """Folder with weights of networks, searched before the hub's cache. Default: what the
    environment variable CONTROLSET_WEIGHTS says."""

    trust_model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Models that the audit may load although only the data set names them (hub names or folders).
    Those that are ours by default need not be named."""


COMMAND = Command(
    name="verify",
    kind=_Options,
    description="Check every file against the manifest, every row against the schema, and, "
    "with --audit, maps against the images they were made from.",
    example="canny-set --audit 0.05",
)


def run(arguments: Sequence[str]) -> int:
    """Check a data set; status 1 if a check failed."""
    options = COMMAND.parse(arguments)
    refusals.check_verify(options.dataset, options.audit, options.num_workers)
    with leaving_at_once("verify"):
        from annotators.runtime import Runtime
        from pipeline.verify.verify import print_verification, verify_dataset
        from schemas.terminal import Terminal, counting

    with counting("verifying") as advance:
        report = verify_dataset(
            options.dataset,
            audit=options.audit,
            workers=options.num_workers or cores(),
            # A check downloads nothing: weights that are not here are told.
            runtime=Runtime(device=options.device, weights=options.weights, offline=True),
            trusted=options.trust_model,
            on_progress=advance,
        )
    print_verification(report, Terminal())
    return 0 if report.ok else 1
