"""Records of a source: what to list and how to read it. All of them can be pickled."""

import dataclasses
import enum
import functools
import re
from collections.abc import Mapping
from typing import Any

from pipeline.config import CaptionList, SourceCaption, SourceSplit
from pipeline.sources import names
from pipeline.sources.pairing import Pairing
from schemas.errors import ConfigError, Rejected
from schemas.ledger import Unused
from schemas.records import Problem, printable


class SourceKind(enum.StrEnum):
    """What the pictures lie in."""

    IMAGES = "images"
    TAR = "tar"
    PARQUET = "parquet"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Files below one folder: all of them, those of a pattern, or some by name."""

    base: str  # absolute local path or URI, without a trailing slash
    pattern: str | None = None  # glob relative to base; `**` stands for any folders
    names: frozenset[str] | None = None  # directly in base
    output: str = ""  # of the run itself: nothing in it is read

    @property
    def is_whole(self) -> bool:
        """Whether everything below the folder is selected."""
        return self.pattern is None and self.names is None

    @property
    def depth(self) -> int | None:
        """Levels of folders to look at; None is all."""
        if self.names is not None:
            return 1
        if self.pattern is None or "**" in self.pattern.split("/"):
            return None
        return self.pattern.count("/") + 1

    @property
    def is_any_depth(self) -> bool:
        """Whether nobody said which folders are meant: no pattern, or one with `**`."""
        return self.names is None and self.depth is None

    def matches(self, relative: str) -> bool:
        """Whether the file `relative` (to base) is selected."""
        if self.names is not None:
            return relative in self.names
        if names.is_hidden(relative):
            return False
        return self.pattern is None or glob_regex(self.pattern).fullmatch(relative) is not None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceSpec:
    """Everything that a worker needs to list a source and to read it."""

    root: str  # names of images are relative to it
    kind: SourceKind
    selections: tuple[Selection, ...]
    chosen: bool = False  # the kind was said; else one more kind is an error
    split: SourceSplit = "auto"
    caption: SourceCaption = "auto"
    caption_text: str | None = None
    caption_column: str | None = None
    caption_list: CaptionList = "first"
    seed: int = 0
    image_column: str | None = None
    pairings: tuple[Pairing, ...] = ()  # condition images that the source brings along
    keep: tuple[str, ...] = ()  # columns and fields that are kept

    @property
    def map_columns(self) -> frozenset[str]:
        """Columns of condition images, which are no pictures."""
        return frozenset(one.column for one in self.pairings if one.column is not None)

    def relative(self, uri: str) -> str:
        """`uri` relative to the root."""
        return uri[len(self.root) :].lstrip("/")

    def relative_or_whole(self, uri: str) -> str:
        """The same; a `uri` outside of the root as it is."""
        return self.relative(uri) if uri.startswith(f"{self.root}/") else uri


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """A tar or Parquet file as the listing saw it."""

    uri: str
    relative: str  # to the root of the source; may hold surrogate escapes
    size_bytes: int
    modified_s: float | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RawImage:
    """The bytes of one picture as they lie in the source, with its caption."""

    raw: bytes
    caption: str | None
    caption_source: str | None  # "sidecar", "metadata", "column:<name>", "fixed", "filename", …
    caption_problem: Problem | None  # the image stays; this goes to the rejects
    unused: tuple[Unused, ...] = ()  # one for each caption that was offered and is not `caption`
    used: int = 0  # 1 if `caption` was offered by the source
    was_list: bool = False  # `caption` was chosen from a list, or joined
    # Condition -> the bytes of its condition image, or why there are none.
    maps: Mapping[str, bytes | Rejected] = dataclasses.field(default_factory=dict)
    # Column that is kept -> its value as it stands there, or a ValueError; absent: there is none.
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def mixture(source: str, found: Mapping[str, str]) -> ConfigError:
    """The error of a source of several kinds.

    Args:
        source: as the user or the listing calls it.
        found: kind -> a file of it, or "".
    """
    got = " and ".join(
        kind + (f" ({printable(name)})" if name else "") for kind, name in found.items()
    )
    choices = " or ".join(f"--source-format {kind}" for kind in found)
    return ConfigError(
        f"{printable(source)}: need one kind of source, got {got}; choose with {choices}, or name "
        "the files with a glob"
    )


@functools.cache
def glob_regex(pattern: str) -> re.Pattern[str]:
    """Regular expression for a glob whose `*` and `?` do not cross `/`; `**/` does."""
    parts = pattern.split("/")
    regex = ""
    for number, part in enumerate(parts, start=1):
        last = number == len(parts)
        if part == "**":
            regex += ".*" if last else "(?:[^/]+/)*"
        else:
            regex += _segment_regex(part) + ("" if last else "/")
    return re.compile(regex, re.DOTALL)


def _segment_regex(part: str) -> str:
    regex = ""
    for token in re.findall(r"\*+|\?|\[!?\]?[^\]]*\]|.", part, re.DOTALL):
        if token[0] == "*":
            regex += "[^/]*"
        elif token == "?":
            regex += "[^/]"
        elif token[0] == "[" and len(token) > 1:
            inside = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
            negated = inside.startswith("!")
            inside = inside.removeprefix("!")
            inside = "\\]" + inside[1:] if inside.startswith("]") else inside
            inside = "\\^" + inside[1:] if inside.startswith("^") else inside
            regex += f"[{'^' if negated else ''}{inside}]"
        else:
            regex += re.escape(token)
    return regex
