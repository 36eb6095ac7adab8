"""What a person sees of a run: a progress bar while it works, a table when it is done."""

import contextlib
import threading
import time
from collections.abc import Iterator

from rich.table import Table

from pipeline.output.finalize import PREVIEW_NAME
from pipeline.progress import Tally
from pipeline.reasons import ledger_facts
from schemas.manifest import Manifest
from schemas.printable import say
from schemas.terminal import Terminal, progress_bar

_REFRESH_S = 0.2
_PLAIN_LINE_S = 5.0


@contextlib.contextmanager
def watched(tally: Tally) -> Iterator[None]:
    """Show progress meanwhile: a bar on a terminal, a line every few seconds elsewhere."""
    terminal = Terminal(error=True)
    stop = threading.Event()
    show = _bar if terminal.is_terminal else _lines
    watcher = threading.Thread(target=show, args=(tally, terminal, stop), name="progress")
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _bar(tally: Tally, terminal: Terminal, stop: threading.Event) -> None:
    fields = ("{task.fields[speed]}", "{task.fields[rejects]}")
    with progress_bar(terminal, *fields) as progress:
        task = progress.add_task("listing", total=None, speed="", rejects="")
        while True:
            last = stop.wait(_REFRESH_S)
            looked = tally.looked
            stage = "generating" if looked is None else "finding copies"
            progress.update(
                task,
                description=stage if tally.planned is not None else "listing",
                total=tally.planned,
                completed=tally.done if looked is None else looked,
                speed=speed_text(tally.images_per_second),
                rejects=f"{tally.rejected:,} rejected",
            )
            if last:
                return


def _lines(tally: Tally, _terminal: Terminal, stop: threading.Event) -> None:
    while not stop.wait(_PLAIN_LINE_S):
        if tally.planned is None:
            say("listing …", error=True)
            continue
        looked = tally.looked
        if looked is not None:
            say(f"finding copies: {looked:,} of {tally.planned:,} images", error=True)
            continue
        speed = tally.images_per_second
        left = f"{(tally.planned - tally.done) / speed:.0f} s left" if speed else "starting"
        say(
            f"{time.strftime('%H:%M:%S')} {tally.done:,} of {tally.planned:,} images, "
            f"{speed_text(speed)}, {tally.rejected:,} rejected, {left}",
            error=True,
        )


def show_result(manifest: Manifest, tally: Tally, output: str) -> None:
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
    if tally.resumed:
        table.add_row("done by an earlier run", f"{tally.resumed:,} images")
    if tally.work_seconds:
        table.add_row("speed after start-up", speed_text(tally.images_per_second))
        table.add_section()
        for stage, seconds in sorted(tally.stage_seconds.items(), key=lambda item: -item[1]):
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
