# Beam is not typed for pyright: transforms, `|` and bundles of results are all `Any` to it.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false
# pyright: reportIncompatibleMethodOverride=false
"""What a worker process sets up once and all its shards share: threads and models."""

import contextlib
import ctypes
import dataclasses
import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import apache_beam as beam
import cv2
from PIL import Image

from annotators.latents import Moments
from annotators.protocol import Annotation
from annotators.runtime import threads_kept, use_one_thread_each
from pipeline.annotate import LoadedModel, load_annotator, load_captioner, load_encoder
from pipeline.job import Job
from pipeline.progress import PROGRESS
from schemas.machine import Item, in_order


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """Threads and loaded annotators of one process."""

    pool: Executor
    threads: int
    annotators: Mapping[str, LoadedModel[Annotation]]
    captioner: LoadedModel[str] | None
    latents: LoadedModel[Moments] | None = None

    def in_order(self, calls: Iterable[Callable[[], Item]]) -> Iterator[Item]:
        """Results of calls on the threads, in their order."""
        # As many wait as are computed, so that no thread idles while a row group is written.
        return in_order(calls, self.pool, ahead=2 * self.threads)


_OPEN: dict[tuple[str, int], Worker] = {}
_AT_WORK: set[int] = set()  # threads that are making a shard
_CHANGE = threading.Condition()  # guards both, and tells when the last one leaves


def worker_of(job: Job) -> Worker:
    """This process's worker for a job; made at the first call."""
    threads = job.config.workers
    with _CHANGE:
        place = (job.identity, threads)
        if place not in _OPEN:
            keep_buffers()
            cv2.setNumThreads(1)  # the pool's threads are the parallelism
            runtime = job.runtime
            _OPEN[place] = Worker(
                pool=ThreadPoolExecutor(
                    threads,
                    thread_name_prefix="controlset",
                    initializer=use_one_thread_each if job.needs_networks else None,
                ),
                threads=threads,
                annotators={spec.name: load_annotator(spec, runtime) for spec in job.specs},
                captioner=load_captioner(job.captioner, runtime) if job.captioner else None,
                latents=load_encoder(job.latents, runtime) if job.latents else None,
            )
        return _OPEN[place]


@contextlib.contextmanager
def at_work(worker: Worker) -> Iterator[bool]:
    """Around the making of a shard, so that a run does not end while one of its threads writes.

    Yields:
        False where the run has ended meanwhile, because another shard failed.
    """
    me = threading.get_ident()
    with _CHANGE:
        goes_on = any(worker is opened for opened in _OPEN.values())
        if goes_on:
            _AT_WORK.add(me)
    try:
        yield goes_on
    finally:
        with _CHANGE:
            _AT_WORK.discard(me)
            _CHANGE.notify_all()


@contextlib.contextmanager
def closing_workers(job: Job) -> Iterator[None]:
    """Around a run: what this process set up for it goes when it ends, well or not.

    After a failure other shards may still be under way: without a pool they fail at their next
    batch and sweep up; only then is the output folder free for the next run.
    """
    with threads_kept() if job.needs_networks else contextlib.nullcontext():
        try:
            yield
        finally:
            with _CHANGE:
                closing = list(_OPEN.values())
                _OPEN.clear()
            for worker in closing:
                worker.pool.shutdown(wait=True, cancel_futures=True)
            with _CHANGE:
                _CHANGE.wait_for(lambda: not _AT_WORK)


class OnWorker(beam.DoFn):
    """Makes something of each shard: `make(shard, job, worker)`, with what this process set up."""

    def __init__(self, make: Callable[[Any, Any, Worker], Any], job: Job) -> None:
        """`make` is a function of a module: it goes to workers by its name."""
        self._make, self._job = make, job

    def setup(self) -> None:
        with PROGRESS.remembering_failure():
            self._worker = worker_of(self._job)

    def process(self, element: Any) -> Iterator[Any]:
        with PROGRESS.remembering_failure(), at_work(self._worker) as goes_on:
            # After a failure Beam may hand out one more shard. Nobody waits for it, and an error of
            # its own would be logged beside the one that counts, or be taken for the next run's.
            made = [self._make(element, self._job, self._worker)] if goes_on else []
        yield from made


# Memory -------------------------------------------------------------------------------------------

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_BYTES = 32 << 20  # the largest that glibc accepts
_TRIM_THRESHOLD_BYTES = 128 << 20
_PILLOW_BLOCKS = 8  # of 16 MB, kept for the next picture


def keep_buffers() -> None:
    """Tell glibc and Pillow to reuse freed image buffers instead of unmapping them.

    By default every buffer above 128 kB is mapped, touched page by page and unmapped again, which
    threads of one process can only do one after the other: two threads decoded 1024x768 JPEGs
    0.9 times as fast as one; with this 1.8 times (measured 2026-11-23, two cores of an AMD EPYC).
    Does nothing where the C library is not glibc.
    """
    Image.core.set_blocks_max(_PILLOW_BLOCKS)
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
