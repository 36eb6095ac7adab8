"""What an inspection found: plain records, as JSON without the thumbnails."""

import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from pipeline.output.pages import percent
from schemas.ledger import Ledger

Severity = Literal["fix", "look"]
"""fix: training on it does harm. look: often harmless, worth a glance."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Counts between edges; the first and the last bin take everything beyond them."""

    edges: Sequence[float]  # one more than counts
    counts: Sequence[int]
    median: float | None  # None where nothing was counted
    smallest: float | None
    largest: float | None
    whole: bool = False  # each bin is one whole number, the lower edge

    @property
    def total(self) -> int:
        return sum(self.counts)


def histogram(values: np.ndarray, edges: Sequence[float]) -> Histogram:
    """Histogram of finite values; NaN stands for "there is none" and is left out."""
    values = values[np.isfinite(values)]
    inside = np.clip(values, edges[0], edges[-1])
    counts, _ = np.histogram(inside, edges)
    empty = values.size == 0
    return Histogram(
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
        median=None if empty else float(np.median(values)),
        smallest=None if empty else float(values.min()),
        largest=None if empty else float(values.max()),
    )


def whole_histogram(values: np.ndarray, most_bins: int) -> Histogram:
    """Histogram of whole numbers: one bin for each, or wider ones where that would be too many."""
    known = values[np.isfinite(values)]
    low, high = (int(known.min()), int(known.max())) if known.size else (0, 0)
    width = max(1, -(-(high - low + 1) // most_bins))
    edges = list(range(low, high + width + 1, width))
    counted = histogram(values, edges)
    return dataclasses.replace(counted, whole=width == 1)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A row that a finding names."""

    row: int
    split: str
    key: str
    source: str
    text: str | None = None
    thumbnail: bytes | None = dataclasses.field(default=None, repr=False)  # JPEG
    # PNG or JPEG, where the finding is about a map
    map_thumbnail: bytes | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Rows that show the same picture; the first few members have thumbnails."""

    members: Sequence[Member]

    @property
    def leaks(self) -> bool:
        """Whether the picture is in more than one split."""
        return len({member.split for member in self.members}) > 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """Something that a person should know, with what it means and what to do."""

    name: str
    severity: Severity
    title: str
    count: int
    of: int
    meaning: str
    advice: str
    threshold: float | None = None  # from which on a row is counted, where there is one
    examples: Sequence[Member] = ()
    about_text: bool = False  # the examples' captions are what matters

    @property
    def share(self) -> float:
        """Count / of; 0 of nothing."""
        return self.count / self.of if self.of else 0.0

    @property
    def share_text(self) -> str:
        """`of 1,212 (3.1 %)`."""
        return f"of {self.of:,} ({percent(self.share)})"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CaptionSource:
    """What the texts of one source are like, e.g. `sidecar` or `blip`."""

    name: str
    rows: int
    words_median: float
    over_77_tokens: int  # estimated
    loops: int
    repetitive: int  # captions that say their words twice


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Captions:
    """What the texts are like."""

    present: int
    missing: int
    words: Histogram
    characters: Histogram
    over_77_tokens: int  # estimated
    loops: int  # captions where a run of words repeats itself
    distinct: int
    repeats: Sequence[tuple[str, int]]  # most frequent captions that occur more than once
    repeated_rows: int  # rows whose caption another row has too
    openings: Sequence[tuple[str, int]]  # most frequent first three words
    sources: Sequence[CaptionSource]  # most rows first


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ConditionFacts:
    """What one condition's maps are like."""

    name: str
    present: int
    missing: int
    measured: int
    blank: int  # of the measured ones
    bytes_median: float | None
    stats: Mapping[str, Histogram]  # what was counted, stored statistics first -> histogram
    density_limits: tuple[float, float] | None  # edge densities beyond are flagged


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ColumnFacts:
    """What one column is like that was kept from the source."""

    name: str
    kind: str  # name of its type
    present: int
    missing: int
    numbers: Histogram | None  # None: it does not hold numbers


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """The same picture more than once; groups across splits first, then the largest."""

    exact: Sequence[Group]  # same source bytes or same stored bytes
    near: Sequence[Group]  # look the same, not all of them exact copies

    @property
    def leaking(self) -> Sequence[Group]:
        return [group for group in (*self.exact, *self.near) if group.leaks]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RejectFacts:
    """One reason and a few of its cases."""

    reason: str
    count: int
    advice: str
    examples: Sequence[tuple[str, str]]  # (source, detail)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """All findings about one data set."""

    path: str
    source: str
    rows: int
    splits: Mapping[str, int]
    size_bytes: int
    planned: int
    rejected_images: int
    measured: int  # rows whose pixels were decoded
    original_side: Histogram  # shorter side, px
    original_aspect: Histogram  # width / height
    stored_aspect: Histogram
    stored_sizes: Sequence[tuple[int, int, int]]  # width, height, rows; most frequent first
    enlarged: int  # rows whose source was smaller than what is stored
    grey: int
    flat: int
    broken: int  # stored images that do not decode
    image_bytes_median: float | None
    captions: Captions
    conditions: Sequence[ConditionFacts]
    duplicates: Duplicates
    rejects: Sequence[RejectFacts]
    flags: Sequence[Flag]  # what to fix first
    ledger: Ledger | None = None  # what the source held; None in sets of older releases
    columns: Sequence[ColumnFacts] = ()

    def to_json(self) -> str:
        """Everything but the thumbnails; all members of all groups are in it."""
        return json.dumps(_plain(self), indent=1) + "\n"

    def _repr_html_(self) -> str:
        """The page of `controlset inspect --html`, in a frame of a notebook."""
        from pipeline.inspection.report import render_inspection  # which needs this module

        page = html.escape(render_inspection(self))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 640px; border: 0"></iframe>'


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        plain = {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not field.name.endswith("thumbnail")
        }
        return plain | {"share": value.share} if isinstance(value, Flag) else plain
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
