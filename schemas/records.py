"""Records that travel through the pipeline: references and plans, never pixels."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from schemas.errors import Reason, Rejected


def bytes_of(name: str) -> bytes:
    """A name's bytes, which do not depend on this machine's locale (`os.fsencode` does).

    Args:
        name: of a file, or of what lies in a tar or in a table; surrogate escapes stand for bytes
            that are no UTF-8.
    """
    return name.encode("utf-8", "surrogateescape")


def key_of(relative_name: str) -> str:
    """Stable key of a picture: a hash of its name relative to the input root.

    Args:
        relative_name: e.g. `cats/01.jpg`, `shard-0.tar/cats/01.jpg`, `train.parquet#17`; may hold
            surrogate escapes where a file name is not UTF-8.

    Returns:
        32 hexadecimal digits, the same on every machine and in every run.
    """
    return hashlib.sha256(bytes_of(relative_name)).hexdigest()[:32]


def as_utf8(name: str) -> str:
    r"""A file name as valid UTF-8 text; undecodable bytes become `\xNN`."""
    return bytes_of(name).decode("utf-8", "backslashreplace")


def unit_interval(seed: str) -> float:
    """A number in [0, 1) that depends on `seed` alone."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") / 2**64


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where bytes lie: a whole file, or a range inside one."""

    uri: str
    offset: int = 0
    size_bytes: int | None = None  # None: to the end of the file
    file_bytes: int | None = None  # size of the file when it was listed
    modified_s: float | None = None  # its modification time then, seconds since the epoch

    @property
    def expected_bytes(self) -> int | None:
        """How many bytes there are to read, as far as the listing knows."""
        return self.file_bytes if self.size_bytes is None else self.size_bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A failure that the listing already saw; the shard writes it to its rejects."""

    reason: Reason
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CaptionFile:
    """A file or tar member that may hold a caption."""

    place: Place
    is_json: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef:
    """One picture as the listing saw it; no pixels.

    `group` and `ordinal` keep rows of one container together and in order: a picture from a folder
    has group "" and is placed by the hash of its key.
    """

    key: str
    source: str  # valid UTF-8, relative to the input root
    place: Place
    row_group: int | None = None  # Parquet only
    row: int | None = None  # Parquet only: row inside the row group
    group: str = ""
    ordinal: int = 0
    caption: str | None = None  # known at listing (metadata.jsonl)
    caption_place: Place | None = None  # sidecar file or tar member; comes before `caption`
    caption_is_json: bool = False
    problem: Problem | None = None
    more_captions: tuple[CaptionFile, ...] = ()  # taken where the first one says nothing
    caption_problem: Problem | None = None  # instead of `caption`: its table's line is no text
    caption_was_list: bool = False  # `caption` was chosen from a list, or joined
    # Condition -> where its condition image lies; None: nobody says. Most sources bring none.
    maps: tuple[tuple[str, Place | None], ...] = ()
    fields: str | None = None  # JSON of what a caption table says for columns that are kept
    record: Place | None = None  # JSON file or member that says more of it, and before `fields`

    @property
    def captions(self) -> int:
        """How many captions it carries; at most one of them is used."""
        in_table = self.caption is not None or self.caption_problem is not None
        return (self.caption_place is not None) + len(self.more_captions) + in_table


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """One output shard: which references, in which order. The unit of work, commit and resume."""

    split: str
    index: int
    total: int  # shards of this split
    refs: tuple[ImageRef, ...]

    @property
    def name(self) -> str:
        """`train-00000-of-00042`."""
        return f"{self.split}-{self.index:05d}-of-{self.total:05d}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RejectRow:
    """One row of the rejects table; `kind` None means the whole image."""

    key: str
    source: str
    stage: str  # list, read, decode, caption, or an annotator's name
    reason: Reason
    detail: str
    kind: str | None = None  # `text` or a condition's name where only that is missing


def reject_of(
    row: Mapping[str, Any], stage: str, rejected: Rejected, *, kind: str | None
) -> RejectRow:
    """The reject of something that belongs to a row of the data set, or would have.

    Args:
        row: with at least `key` and `source`.
        stage: where it failed.
        rejected: why.
        kind: `text` or a condition's name; None is the whole image.
    """
    return RejectRow(
        key=row["key"],
        source=row["source"],
        stage=stage,
        reason=rejected.reason,
        detail=rejected.detail,
        kind=kind,
    )
