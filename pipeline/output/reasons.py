"""What reject reasons and the ledger mean to the person who owns the pictures."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from schemas.errors import Reason
from schemas.ledger import CaptionCounts, Ignored, Ledger, Noted, Unused

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
    """What a person should see of a ledger.

    Args:
        ledger: of the run.
        rows: that the data set has.
    """
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
