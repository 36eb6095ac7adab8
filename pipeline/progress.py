"""Counting work as it happens, and showing it. Nothing here can change a stored byte.

Shard workers of this process add to `PROGRESS`, the launcher's display reads it. With a remote
runner the counts stay on the workers, and the runner's own monitoring shows them.
"""

import contextlib
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Iterator

from rich.table import Table

from pipeline.output.reasons import ledger_facts
from schemas.machine import give_kept_back, lacks_memory
from schemas.manifest import PREVIEW_NAME, Manifest
from schemas.printable import say
from schemas.terminal import Terminal, progress_bar


@dataclasses.dataclass(kw_only=True, slots=True)
class RunProgress:
    """Thread-safe counts of one run in this process."""

    planned: int | None = None  # images; known once the source is listed
    kept: int = 0  # rows written by this run
    rejected: int = 0  # whole images rejected by this run
    looked: int | None = None  # images compared with others; None: nobody looks for copies
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


PROGRESS = RunProgress()


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


# What a person sees: a progress bar while a run works, a table when it is done ------------------

_REFRESH_S = 0.2
_PLAIN_LINE_S = 5.0


@contextlib.contextmanager
def watched(progress: RunProgress) -> Iterator[None]:
    """Show progress meanwhile: a bar on a terminal, a line every few seconds elsewhere."""
    terminal = Terminal(error=True)
    stop = threading.Event()
    show = _bar if terminal.is_terminal else _lines
    watcher = threading.Thread(target=show, args=(progress, terminal, stop), name="progress")
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _bar(progress: RunProgress, terminal: Terminal, stop: threading.Event) -> None:
    fields = ("{task.fields[speed]}", "{task.fields[rejects]}")
    with progress_bar(terminal, *fields) as bar:
        task = bar.add_task("listing", total=None, speed="", rejects="")
        while True:
            last = stop.wait(_REFRESH_S)
            looked = progress.looked
            stage = "generating" if looked is None else "finding copies"
            bar.update(
                task,
                description=stage if progress.planned is not None else "listing",
                total=progress.planned,
                completed=progress.done if looked is None else looked,
                speed=speed_text(progress.images_per_second),
                rejects=f"{progress.rejected:,} rejected",
            )
            if last:
                return


def _lines(progress: RunProgress, _terminal: Terminal, stop: threading.Event) -> None:
    while not stop.wait(_PLAIN_LINE_S):
        if progress.planned is None:
            say("listing …", error=True)
            continue
        looked = progress.looked
        if looked is not None:
            say(f"finding copies: {looked:,} of {progress.planned:,} images", error=True)
            continue
        speed = progress.images_per_second
        left = f"{(progress.planned - progress.done) / speed:.0f} s left" if speed else "starting"
        say(
            f"{time.strftime('%H:%M:%S')} {progress.done:,} of {progress.planned:,} images, "
            f"{speed_text(speed)}, {progress.rejected:,} rejected, {left}",
            error=True,
        )


def show_result(manifest: Manifest, progress: RunProgress, output: str) -> None:
    """Print the final table of a run."""
    terminal = Terminal()
    terminal.tell(f"Data set {output}", style="italic")
    table = Table(show_header=False)
    table.add_row("images planned", f"{manifest.planned:,}")
    for split, shards in manifest.splits.items():
        rows = sum(shard.data.rows for shard in shards)
        table.add_row(f"rows, {split}", f"{rows:,} in {shards_text(len(shards))}")
    table.add_row("images rejected", f"{manifest.rejected_images:,}")
    for reason, count in manifest.reasons.items():
        table.add_row(f"  {reason}", f"{count:,}")
    if manifest.ledger is not None:
        for fact in ledger_facts(manifest.ledger, rows=manifest.rows):
            table.add_row(*fact.as_text)
    table.add_row("size", f"{manifest.size_bytes / 1e6:,.1f} MB")
    if progress.resumed:
        table.add_row("done by an earlier run", f"{progress.resumed:,} images")
    if progress.work_seconds:
        table.add_row("speed after start-up", speed_text(progress.images_per_second))
        table.add_section()
        for stage, seconds in sorted(progress.stage_seconds.items(), key=lambda item: -item[1]):
            table.add_row(f"{stage}, summed over threads", f"{seconds:,.1f} s")
    terminal.print(table)
    lists = manifest.ledger and manifest.ledger.captions and manifest.ledger.captions.lists
    if lists and "caption_list" not in manifest.recipe:
        terminal.tell(
            f"{lists:,} captions are lists, of which the first item was taken; "
            "--caption-list random or join takes others"
        )
    terminal.tell(f"preview: {output}/{PREVIEW_NAME}")


def shards_text(number: int) -> str:
    """`1 shard`, `42 shards`."""
    return f"{number:,} shard{'' if number == 1 else 's'}"


def speed_text(images_per_second: float) -> str:
    """`171 images/s`; with a decimal where networks make it slow."""
    decimals = 0 if images_per_second >= 10 or images_per_second == 0 else 1
    return f"{images_per_second:,.{decimals}f} images/s"
