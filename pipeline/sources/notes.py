"""What listing and indexing count: everything that was found, planned or not."""

from collections.abc import Iterable, Mapping

from schemas.ledger import (
    CaptionCounts,
    ColumnCounts,
    Counts,
    Ignored,
    Ledger,
    Noted,
    Unused,
    joined_captions,
)
from schemas.records import printable


class Notes:
    """Counts of one source, or of a part of it that one worker looked at; picklable."""

    def __init__(self) -> None:
        self.found = 0  # files, members and rows; captions, tables and opened containers apart
        self.pictures = 0  # references that were yielded
        self.attached = 0  # captions that they carry; what becomes of them is seen later
        self.ignored = Counts()
        self.unused = Counts()
        self.fields: dict[str, bool] = {}  # of caption tables, where one is kept -> is it of CSV?

    def ignore(self, reason: Ignored, name: str, count: int = 1) -> None:
        """Count something that is not one of the images."""
        self.ignored.add(reason, printable(name), count)

    def leave(self, reason: Unused, name: str, count: int = 1) -> None:
        """Count a caption that no reference carries."""
        self.unused.add(reason, printable(name), count)

    def ledger(
        self,
        *,
        planned: int,
        captions: CaptionCounts | None,
        columns: Mapping[str, ColumnCounts] | None = None,
    ) -> Ledger:
        """The ledger of a run.

        Args:
            planned: references that were taken; fewer than were listed where there is a limit.
            captions: what became of theirs; None if that is not known.
            columns: what became of the values of columns that are kept.

        Raises:
            ValueError: the sums do not agree: a bug.
        """
        cut = self.pictures - planned
        ignored = Counts()
        ignored.add_all(self.ignored.frozen())
        ignored.add_all({Ignored.BEYOND_LIMIT: Noted(count=cut)} if cut else {})
        if captions is not None:
            left = max(0, self.attached - captions.offered) if cut else 0
            unused = Counts()
            unused.add_all(self.unused.frozen())
            unused.add_all({Unused.BEYOND_LIMIT: Noted(count=left)} if left else {})
            captions = joined_captions([captions, CaptionCounts(unused=unused.frozen())])
        return Ledger(
            found=self.found,
            planned=planned,
            ignored=ignored.frozen(),
            captions=captions,
            columns=columns or {},
        )


def joined(parts: Iterable[Notes]) -> Notes:
    """The sum of the notes of several workers."""
    whole = Notes()
    for part in parts:
        whole.found += part.found
        whole.pictures += part.pictures
        whole.attached += part.attached
        whole.ignored.add_all(part.ignored.frozen())
        whole.unused.add_all(part.unused.frozen())
    return whole
