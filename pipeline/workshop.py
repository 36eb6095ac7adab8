"""What a worker process sets up once and all its shards share: threads and models."""

import dataclasses
import threading
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor

import cv2

from annotators.protocol import Annotator
from pipeline.allocator import keep_buffers
from pipeline.job import Job


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """Threads and loaded annotators of one process."""

    pool: Executor
    workers: int
    annotators: Mapping[str, Annotator]


_OPEN: dict[tuple[str, int], Workshop] = {}
_LOCK = threading.Lock()


def workshop_of(job: Job) -> Workshop:
    """This process's workshop for a job; made at the first call."""
    workers = job.config.workers
    with _LOCK:
        place = (job.identity, workers)
        if place not in _OPEN:
            keep_buffers()
            cv2.setNumThreads(1)  # the pool's threads are the parallelism
            _OPEN[place] = Workshop(
                pool=ThreadPoolExecutor(workers, thread_name_prefix="controlset"),
                workers=workers,
                annotators={spec.name: spec.load() for spec in job.specs},
            )
        return _OPEN[place]


def close_workshops() -> None:
    """Let threads and models go; called when a local run ends."""
    with _LOCK:
        for workshop in _OPEN.values():
            workshop.pool.shutdown(wait=True, cancel_futures=True)
        _OPEN.clear()
