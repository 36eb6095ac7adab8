"""Counting work as it happens, and showing it. Nothing here can change a stored byte.

Shard workers of this process add to `TALLY`; the launcher's display reads it. With a remote runner
the tally stays on the workers and the runner's own monitoring shows the progress.
"""

import contextlib
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Iterator

from schemas.machine import give_kept_back, lacks_memory


@dataclasses.dataclass(kw_only=True, slots=True)
class Tally:
    """Thread-safe counts of one run in this process."""

    planned: int | None = None  # images; known once the source is listed
    kept: int = 0  # rows written by this run
    rejected: int = 0  # whole images rejected by this run
    looked: int | None = (
        None  # images that were compared with others; None: nobody looks for copies
    )
    resumed: int = 0  # images of shards that an earlier run committed
    stored_bytes: int = 0
    reasons: Counter[str] = dataclasses.field(default_factory=Counter)
    stage_seconds: Counter[str] = dataclasses.field(default_factory=Counter)
    first_work_s: float | None = None  # time.monotonic()
    last_work_s: float | None = None
    failure: BaseException | None = None  # the first one, as raised; Beam only passes on its text
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def done(self) -> int:
        """Images dealt with, one way or the other."""
        return self.kept + self.rejected + self.resumed

    @property
    def work_seconds(self) -> float:
        """From the first image read to the last commit."""
        if self.first_work_s is None or self.last_work_s is None:
            return 0.0
        return self.last_work_s - self.first_work_s

    @property
    def images_per_second(self) -> float:
        """Throughput after start-up, rejected images included."""
        return (self.kept + self.rejected) / self.work_seconds if self.work_seconds else 0.0

    def looked_at(self, images: int) -> None:
        """Add a batch that was read to find copies."""
        with self._lock:
            self.looked = (self.looked or 0) + images

    def looking_ends(self) -> None:
        """All copies are known."""
        with self._lock:
            self.looked = None

    def batch_done(
        self, *, kept: int, rejected: int, stored_bytes: int, seconds: Counter[str]
    ) -> None:
        """Add one batch."""
        with self._lock:
            self.kept += kept
            self.rejected += rejected
            self.stored_bytes += stored_bytes
            self.stage_seconds.update(seconds)
            self.last_work_s = time.monotonic()

    def shard_done(self, *, reasons: Counter[str], seconds: Counter[str]) -> None:
        """Add what is known only when a shard is committed."""
        with self._lock:
            self.reasons.update(reasons)
            self.stage_seconds.update(seconds)
            self.last_work_s = time.monotonic()

    def shard_resumed(self, images: int) -> None:
        """A shard of an earlier run needs no work."""
        with self._lock:
            self.resumed += images

    def work_starts(self) -> None:
        """Called at each shard; the first one counts."""
        with self._lock:
            if self.first_work_s is None:
                self.first_work_s = time.monotonic()

    @contextlib.contextmanager
    def remembering_failure(self) -> Iterator[None]:
        """Let exceptions fly, but keep the first one for the launcher."""
        try:
            yield
        except BaseException as error:
            if lacks_memory(error):
                give_kept_back()
            with self._lock:
                if self.failure is None:
                    self.failure = error
            raise

    def reset(self) -> None:
        """Start a new run."""
        with self._lock:
            for field in dataclasses.fields(self):
                if field.name == "_lock":
                    continue
                made = field.default_factory
                setattr(self, field.name, field.default if made is dataclasses.MISSING else made())


TALLY = Tally()


class Stopwatch:
    """Seconds per stage of one batch."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start  # type: ignore[assignment]  # a Counter of floats
