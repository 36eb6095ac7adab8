"""Captions that a model writes, for images whose source has none."""

from collections.abc import Sequence
from typing import Any

from pipeline.annotate import Eye
from pipeline.progress import Stopwatch
from schemas.errors import Rejected
from schemas.pixels import RgbU8
from schemas.records import RejectRow, reject_of


def add_captions(
    rows: Sequence[dict[str, Any]], images: Sequence[RgbU8], captioner: Eye[str], watch: Stopwatch
) -> list[RejectRow]:
    """Describe the images of rows without text.

    Args:
        rows: with at least `key`, `source`, `text` and `caption_source`; changed in place.
        images: what the `image` of each row decodes to.
        captioner: the loaded captioner.
        watch: gets the seconds.

    Returns:
        One reject for each row that still has no text.
    """
    silent = [number for number, row in enumerate(rows) if row["text"] is None]
    if not silent:
        return []
    with watch.stage("caption"):
        results = captioner(
            [images[number] for number in silent], [rows[number]["key"] for number in silent]
        )
    rejects: list[RejectRow] = []
    for number, result in zip(silent, results, strict=True):
        row = rows[number]
        if isinstance(result, Rejected):
            rejects.append(reject_of(row, "caption", result, kind="text"))
        else:
            row["text"], row["caption_source"] = result, captioner.name
    return rejects
