"""What was found in a source and not used, counted under closed reasons.

found = planned + ignored, and captions offered = used + unused: a file, member, row, caption or
line of a caption table that leaves no row is never left out in silence. Counts and a few names,
never lists, so that a source of 10^8 files has a small ledger.
"""

import dataclasses
import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.documents import as_record

MOST_EXAMPLES = 3
_MOST_NAME = 200  # characters of an example


class Ignored(enum.StrEnum):
    """Why something that was found is not among the images."""

    NOT_A_PICTURE = "not_a_picture"  # neither its name nor its first bytes are a picture's
    UNREAD_FORMAT = "unread_format"  # a picture that is not decoded here: SVG, camera raw, …
    HIDDEN = "hidden"  # a name that starts with a dot, or __MACOSX
    DATA_SET = "data_set"  # a folder that controlset wrote; it is read if it is the source itself
    FOLDER_SEEN = "folder_seen"  # a link to a folder that is walked on another way
    PICTURE_SHADOWED = "picture_shadowed"  # another field of a tar's sample that has a picture
    CONDITION_IMAGE = "condition_image"  # imported with its picture, or by its name one of these
    OTHER_KIND = "other_kind"  # e.g. a picture beside Parquet, with --source-format parquet
    OTHER_SPLIT = "other_split"  # e.g. test-*.parquet, with --source-split train
    TABLE_NOT_UNDERSTOOD = "table_not_understood"  # named like a caption table, but no file names
    BEYOND_LIMIT = "beyond_limit"  # --limit


class Unused(enum.StrEnum):
    """Why a caption that was found is no row's text."""

    WITHOUT_PICTURE = "caption_without_picture"
    LINE_UNMATCHED = "table_line_unmatched"  # it names no picture that is there
    LINE_AMBIGUOUS = "table_line_ambiguous"  # it may mean any of several pictures
    LINE_REPEATED = "table_line_repeated"  # a later or an exacter line names the same picture
    EMPTY = "caption_empty"
    UNUSABLE = "caption_unusable"  # not UTF-8, not JSON, not a string
    OTHER_PREFERRED = "other_caption_preferred"  # the picture has a nearer one
    NOT_ASKED_FOR = "caption_not_asked_for"  # by --caption
    PICTURE_REJECTED = "picture_rejected"
    PICTURE_NOT_TAKEN = "picture_not_taken"  # not what a glob or a name selects, or not a file
    BEYOND_LIMIT = "beyond_limit"  # --limit


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Noted:
    """So many things under one reason."""

    count: int
    examples: tuple[str, ...] = ()  # names, the first ones in their order


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CaptionCounts:
    """What became of captions; one that two pictures share counts for each of them."""

    used: int = 0
    unused: Mapping[str, Noted] = dataclasses.field(default_factory=dict)
    lists: int = 0  # used ones of which --caption-list had to choose or join

    @property
    def offered(self) -> int:
        return self.used + sum(noted.count for noted in self.unused.values())

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ColumnCounts:
    """What became of a source's values of a column that is kept; rows without one have null."""

    kept: int = 0
    unusable: Noted | None = None  # not of the column's type, too long, or not to be read: null


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """Everything that a source held. found = planned + ignored, always."""

    found: int  # pictures and other files, members of tars, rows of Parquet; captions apart
    planned: int  # images: rows + rejects
    ignored: Mapping[str, Noted]
    captions: CaptionCounts | None = None  # None: not known, a part was made by an older release
    columns: Mapping[str, ColumnCounts] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        ignored = sum(noted.count for noted in self.ignored.values())
        if self.found != self.planned + ignored:
            raise ValueError(
                f"found {self.found} things, but planned {self.planned} + ignored {ignored}"
            )

    def to_json(self) -> dict[str, Any]:
        """As it stands in the manifest, with the sum of the captions for people."""
        document = dataclasses.asdict(self)
        if not self.columns:
            del document["columns"]
        if self.captions is not None:
            document["captions"] = {"offered": self.captions.offered, **document["captions"]}
        return document

    @classmethod
    def from_json(cls, record: Mapping[str, Any], *, where: str) -> "Ledger":
        """The inverse of `to_json`.

        Raises:
            ConfigError: of another form, or its sums are wrong.
        """
        return as_record(record, cls, where=where)


class Counts:
    """Reasons with their counts and first few examples, while they are counted."""

    def __init__(self) -> None:
        self._noted: dict[str, tuple[int, list[str]]] = {}

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count something under a reason."""
        if count:
            self._merge(reason, count, (example,))

    def add_all(self, noted: Mapping[str, Noted]) -> None:
        """Add counts that were made elsewhere."""
        for reason, counted in noted.items():
            self._merge(reason, counted.count, counted.examples)

    def _merge(self, reason: str, count: int, examples: Iterable[str]) -> None:
        before, names = self._noted.get(reason, (0, []))
        for example in examples:
            name = example[:_MOST_NAME]
            if len(names) < MOST_EXAMPLES or name < names[-1]:
                # The first ones by name: they do not depend on who counted what.
                names = sorted({*names, name})[:MOST_EXAMPLES]
        self._noted[reason] = (before + count, names)

    @property
    def total(self) -> int:
        return sum(count for count, _ in self._noted.values())

    def frozen(self) -> dict[str, Noted]:
        """The counts in the order of the reasons' names."""
        return {
            reason: Noted(count=count, examples=tuple(names))
            for reason, (count, names) in sorted(self._noted.items())
        }


def joined_columns(parts: Iterable[Mapping[str, ColumnCounts]]) -> dict[str, ColumnCounts]:
    """The sum of several counts, column by column."""
    kept: Counter[str] = Counter()
    unusable = Counts()
    for part in parts:
        for name, counts in part.items():
            kept[name] += counts.kept
            unusable.add_all({} if counts.unusable is None else {name: counts.unusable})
    noted = unusable.frozen()
    return {name: ColumnCounts(kept=kept[name], unusable=noted.get(name)) for name in kept}


def joined_captions(parts: Iterable[CaptionCounts]) -> CaptionCounts:
    """The sum of several counts."""
    used, lists, unused = 0, 0, Counts()
    for part in parts:
        used += part.used
        lists += part.lists
        unused.add_all(part.unused)
    return CaptionCounts(used=used, lists=lists, unused=unused.frozen())
