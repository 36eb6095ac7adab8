"""Counting work as it happens, and showing it. Nothing here can change a stored byte.

Shard workers of this process add to `PROGRESS`, the launcher's display reads it. With a remote
runner the counts stay on the workers, and the runner's own monitoring shows them.
"""

import contextlib
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from schemas.errors import Reason
from schemas.ledger import CaptionCounts, Ignored, Ledger, Noted, Unused
from schemas.machine import give_kept_back, lacks_memory
from schemas.manifest import PREVIEW_NAME, Manifest
from schemas.terminal import Progress, Terminal


@dataclasses.dataclass(kw_only=True, slots=True)
class RunProgress:
    """Thread-safe counts of one run in this process."""

    planned: int | None = None  # images; known once the source is listed
    kept: int = 0  # rows written by this run
    rejected: int = 0  # whole images rejected by this run
    sought: int | None = None  # images compared with others; None: nobody looks for copies
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

    def copies_sought(self, images: int) -> None:
        """Add a batch that was read to find copies."""
        with self._lock:
            self.sought = (self.sought or 0) + images

    def copies_known(self) -> None:
        """All copies are known."""
        with self._lock:
            self.sought = None

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


@contextlib.contextmanager
def watched(progress: RunProgress) -> Iterator[None]:
    """Show progress meanwhile: a bar on a terminal, a line every few seconds elsewhere."""
    stop = threading.Event()
    # A thread of its own: shards are made by Beam's threads, which report nothing while they work.
    watcher = threading.Thread(target=_watch, args=(progress, stop), name="progress")
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(progress: RunProgress, stop: threading.Event) -> None:
    with Progress("listing", "speed", "rejects") as shown:
        while True:
            last = stop.wait(_REFRESH_S)
            sought, planned, speed = progress.sought, progress.planned, progress.images_per_second
            stage = "generating" if sought is None else "finding copies"
            shown.show(
                _line(progress),
                description=stage if planned is not None else "listing",
                total=planned,
                completed=progress.done if sought is None else sought,
                speed=speed_text(speed),
                rejects=f"{progress.rejected:,} rejected",
            )
            if last:
                return


def _line(progress: RunProgress) -> str:
    planned, sought = progress.planned, progress.sought  # read once: others write them meanwhile
    if planned is None:
        return "listing …"
    if sought is not None:
        return f"finding copies: {sought:,} of {planned:,} images"
    speed = progress.images_per_second
    left = f"{(planned - progress.done) / speed:.0f} s left" if speed else "starting"
    return (
        f"{time.strftime('%H:%M:%S')} {progress.done:,} of {planned:,} images, "
        f"{speed_text(speed)}, {progress.rejected:,} rejected, {left}"
    )


def show_result(manifest: Manifest, progress: RunProgress, output: str) -> None:
    """Print the final table of a run."""
    terminal = Terminal()
    terminal.tell(f"Data set {output}", style="italic")
    table = Table(show_header=False)
    table.add_row("images planned", f"{manifest.planned:,}")
    for split, rows in manifest.rows_of_splits.items():
        shards = shards_text(len(manifest.splits[split]))
        table.add_row(f"rows, {split}", f"{rows:,} in {shards}")
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


# What reasons and the ledger mean to the person who owns the pictures -----------------------------

ADVICE: Mapping[str, str] = {
    Reason.SOURCE_MISSING: "Listed, but gone when it was read. Run again once the source is still.",
    Reason.SOURCE_CHANGED: "Changed between listing and reading. Run again once it is still.",
    Reason.SOURCE_UNREADABLE: "No permission to read it, or a disk error. Check its rights.",
    Reason.NOT_A_FILE: "A folder or device with a picture's name. Nothing to do.",
    Reason.UNSAFE_NAME: "A tar member that points outside of its archive. Pack the tar again.",
    Reason.DUPLICATE_NAME: "The same name twice in one tar; the first one was kept.",
    Reason.BROKEN_CONTAINER: "The tar or Parquet file is damaged. Copy or download it again.",
    Reason.NO_IMAGE_COLUMN: "Name the column that holds the image with --image-column.",
    Reason.NULL_IMAGE: "The cell is empty in the source table. Nothing to do.",
    Reason.EMPTY_FILE: "The file has no bytes: often a download that failed. Fetch it again.",
    Reason.NOT_AN_IMAGE: "No known picture format: often an HTML error page. Fetch it again.",
    Reason.TRUNCATED: "Ends before its last pixel: a download that broke off. Fetch it again.",
    Reason.CORRUPT: "Starts as a picture, but does not decode. Fetch it again.",
    Reason.DAMAGED: "Some of its pixels are lost, e.g. the lower half is grey. Fetch it again.",
    Reason.UNSUPPORTED_PIXELS: "Pixel values of unknown range, e.g. float TIFF. Convert it first.",
    Reason.TOO_MANY_PIXELS: "Larger than --max-pixels; raise that if you trust the source.",
    Reason.TOO_SMALL: "The shorter side is under --min-side; it would have to be enlarged a lot.",
    Reason.TOO_ELONGATED: "Longer and thinner than --max-aspect allows; a crop would lose most.",
    Reason.NO_CAPTION: "The image was kept without text. Add a caption file, or caption the image.",
    Reason.BAD_CAPTION: "Kept without text: the caption is not UTF-8 or JSON, or repeats itself.",
    Reason.NO_PERSON: "Nobody was found; the pose is null. --keep-empty-pose stores a black map.",
    Reason.NOT_FINITE: "The network gave NaN for this image. Try --precision fp32.",
    Reason.BAD_MAP: "The annotator gave a map of another size or type: a bug in it.",
    Reason.MAP_MISSING: "No condition image where --import-condition says; its column is null.",
    Reason.MAP_MISFIT: "The condition image has another aspect than its picture: not its own?",
    Reason.ANNOTATOR_FAILED: "The annotator fails on this image alone; its error is in the detail.",
    Reason.OUT_OF_MEMORY: "Not enough memory even for this image alone. Use a larger machine.",
}


def advice_for(reason: str) -> str:
    """A sentence or two for a person; empty for a reason that this release does not know."""
    return ADVICE.get(reason, "")


_NOT_USED: Mapping[str, str] = {
    Ignored.NOT_A_PICTURE: "neither name nor content is a picture's",
    Ignored.UNREAD_FORMAT: "pictures that are not decoded here; convert them to PNG or JPEG",
    Ignored.HIDDEN: "hidden",
    Ignored.DATA_SET: "data sets of controlset inside the source",
    Ignored.FOLDER_SEEN: "links to folders that are read already",
    Ignored.PICTURE_SHADOWED: "taken for fields of a tar's sample, as maps are; rename if not",
    Ignored.CONDITION_IMAGE: "condition images, which belong to their pictures",
    Ignored.OTHER_KIND: "of another kind than --source-format",
    Ignored.OTHER_SPLIT: "of another split than --source-split",
    Ignored.TABLE_NOT_UNDERSTOOD: "named like a caption table, but without a column of file names",
    Ignored.BEYOND_LIMIT: "beyond --limit",
    Unused.WITHOUT_PICTURE: "no picture of that name beside it",
    Unused.LINE_UNMATCHED: "lines of a caption table that name no picture",
    Unused.LINE_AMBIGUOUS: "lines of a caption table that may mean several pictures",
    Unused.LINE_REPEATED: "lines of a caption table whose picture another line names",
    Unused.EMPTY: "empty",
    Unused.UNUSABLE: "cannot be read",
    Unused.OTHER_PREFERRED: "the picture has another one that comes first",
    Unused.NOT_ASKED_FOR: "not asked for by --caption",
    Unused.PICTURE_REJECTED: "of pictures that were rejected",
    Unused.PICTURE_NOT_TAKEN: "of pictures that are not selected",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LedgerFact:
    """A line of a ledger for a person: a sum, or one reason of it."""

    what: str
    count: int
    meaning: str = ""
    examples: Sequence[str] = ()
    reason: bool = False  # a part of the sum above it

    @property
    def as_text(self) -> tuple[str, str]:
        """What, and how many with their meaning and a name or two."""
        count, examples = f"{self.count:,}", f"; e.g. {', '.join(self.examples[:2])}"
        if self.reason:
            return f"  {self.what}", f"{count}: {self.meaning}{examples if self.examples else ''}"
        return self.what, f"{count} ({self.meaning})" if self.meaning else count


def ledger_facts(ledger: Ledger, *, rows: int) -> Iterator[LedgerFact]:
    """What a person should see of a ledger."""
    yield from not_used_facts("files not used", ledger.ignored)
    if ledger.captions is not None:
        yield from _caption_facts(ledger.captions, rows)
    for name, counts in ledger.columns.items():
        yield LedgerFact(what=f"column {name}", count=counts.kept, meaning="values kept")
        if (unusable := counts.unusable) is not None:
            yield LedgerFact(
                what="not of its type",
                count=unusable.count,
                meaning="null in their rows",
                examples=unusable.examples,
                reason=True,
            )


def _caption_facts(captions: CaptionCounts, rows: int) -> Iterator[LedgerFact]:
    yield LedgerFact(what="captions found", count=captions.offered)
    yield LedgerFact(what="captions used", count=captions.used)
    if captions.lists:
        which = "--caption-list says which one is taken"
        yield LedgerFact(what="  of them lists", count=captions.lists, meaning=which)
    yield LedgerFact(what="rows without one", count=rows - captions.used)
    yield from not_used_facts("captions not used", captions.unused)


def not_used_facts(what: str, noted: Mapping[str, Noted]) -> Iterator[LedgerFact]:
    """A sum, then each reason, the most frequent first."""
    if not noted:
        return
    yield LedgerFact(what=what, count=sum(entry.count for entry in noted.values()))
    for reason, entry in sorted(noted.items(), key=lambda item: -item[1].count):
        yield LedgerFact(
            what=reason,
            count=entry.count,
            meaning=_NOT_USED.get(reason, ""),
            examples=entry.examples,
            reason=True,
        )
