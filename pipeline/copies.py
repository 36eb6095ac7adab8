# Beam is not typed for pyright: transforms, `|` and bundles of results are all `Any` to it.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false, reportArgumentType=false
"""`--keep-copies-together`: copies of a picture are found before splits are drawn.

Every picture is read, decoded and encoded as it will be stored, and compared as `inspect` compares
what is stored; so where `inspect` sees copies, they are in one split by construction. Only hashes
and copies of 8x8 pixels leave the worker. Who changes what a copy is changes data sets: bump
`PIPELINE_REVISION`.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import apache_beam as beam
import numpy as np

from pipeline.batch import Read, make_batch
from pipeline.inspection.duplicates import Sets, join_equal, join_near
from pipeline.inspection.measure import FLAT_DEVIATION, IMAGE, measure_image
from pipeline.job import BATCH_IMAGES, Job
from pipeline.plan import PlanShards
from pipeline.progress import PROGRESS
from pipeline.shard import cut, reads_of
from pipeline.worker import OnWorker, Worker
from schemas.records import ShardPlan

_COMPARED = np.dtype([("key", "V16"), ("sha256", "V32"), ("image", IMAGE)])
"""What a picture is compared by, with the hash of its source's bytes: 281 bytes."""


class FindCopies(beam.PTransform):
    """References -> one mapping: key of a copy -> key of the picture that it follows.

    The references are planned once as if there were no split, so that a tar and a Parquet row group
    are read in their order, each once.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def expand(self, refs: beam.PCollection) -> beam.PCollection[Mapping[str, str]]:
        return (
            refs
            | PlanShards(self._job, validation=0.0)
            | "Measure" >> beam.ParDo(OnWorker(_keyed, self._job))
            | "Together" >> beam.GroupByKey()
            | "Leaders" >> beam.MapTuple(_leaders)
        )


def _keyed(plan: ShardPlan, job: Job, worker: Worker) -> tuple[None, bytes]:
    return None, compared_by(plan, job, worker)


def _leaders(_: None, compared: Iterable[bytes]) -> Mapping[str, str]:
    with PROGRESS.remembering_failure():
        leaders = leaders_of(compared)
    PROGRESS.copies_known()
    return leaders


def compared_by(plan: ShardPlan, job: Job, worker: Worker) -> bytes:
    """What the pictures of a plan are compared by; those that will be rejected are left out.

    Returns:
        Records of `_COMPARED`, in the plan's order.
    """
    bare = dataclasses.replace(  # pictures alone: no captions, maps or other columns
        job,
        source=dataclasses.replace(job.source, keep=()),
        specs=(),
        captioner=None,
        imports=(),
        columns={},
    )
    refs = [
        dataclasses.replace(ref, caption_place=None, more_captions=(), maps=()) for ref in plan.refs
    ]
    calls = (
        functools.partial(_compared_in, reads, bare)
        for reads in cut(reads_of(refs, bare), BATCH_IMAGES)
    )
    return b"".join(worker.in_order(calls))


def _compared_in(reads: Sequence[Read], job: Job) -> bytes:
    compared = np.array(
        [
            (
                bytes.fromhex(row["key"]),
                bytes.fromhex(row["sha256"]),
                measure_image(row["image"]["bytes"]),
            )
            for row in make_batch(reads, job, {}).rows
        ],
        _COMPARED,
    )
    PROGRESS.copies_sought(len(reads))
    return compared[compared["image"]["decodes"]].tobytes()  # `inspect` calls the others broken


def leaders_of(parts: Iterable[bytes]) -> dict[str, str]:
    """Which pictures follow which.

    Returns:
        Key of a picture -> smallest key of its copies, itself among them; pictures without a copy,
        and those that lead, are not in it.

    Cost: 1.8 s and 190 MB for 100,000 different pictures, on one core; see docs/generate.md for
    the whole pass (measured 2026-11-30).
    """
    compared = np.frombuffer(b"".join(parts), _COMPARED)
    # By key: then the smallest row of a set is its smallest key, in whatever order parts came in.
    compared = compared[np.argsort(compared["key"])]
    rows = np.arange(len(compared))
    sets = Sets(len(compared))
    images = compared["image"]
    join_equal(sets, compared["sha256"], rows)
    join_equal(sets, images["digest"], rows)
    # The hash of a flat picture is noise: all of them would be copies of each other.
    shown = images["deviation"] >= FLAT_DEVIATION
    join_near(sets, images["phash"][shown], images["signature"][shown], rows[shown])
    leaders = sets.labels()  # the smallest row of each set
    copies = np.flatnonzero(leaders != rows)
    return {
        compared["key"][row].tobytes().hex(): compared["key"][leaders[row]].tobytes().hex()
        for row in copies
    }
