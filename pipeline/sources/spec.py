"""Records of a source: what to list, how to read it, what was found. All of them can be pickled.

`--import-condition` says which condition images belong to which pictures:

`NAME=source/{name}.png`          files, by the picture's name; relative to the source's root
`NAME={key}.scribble.png`         in tars: members of the same tar, here of the same sample
`NAME=column:conditioning_image`  a Parquet column, or a field of prompt.json or metadata.jsonl
"""

import dataclasses
import enum
import fnmatch
import functools
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.config import CaptionList, SourceCaption, SourceSplit
from pipeline.sources import names
from schemas.errors import ConfigError, Rejected
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
from schemas.records import Place, Problem, as_utf8

_COLUMN = "column:"
_FIELD = re.compile(r"\{(\w*)\}")
_FIELDS = {"name": "[^/]+", "stem": ".+", "key": "(?:[^/]+/)*[^/.]*", "folder": ".*"}
_NAMING = {"name", "stem", "key"}  # one of them tells pictures apart
_OURS = {"image", "text", "key", "source", "sha256", "caption_source", "width", "height"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """Where the condition images of one condition lie; picklable."""

    condition: str
    where: str  # as it was asked for

    @property
    def option(self) -> str:
        """As the user said it."""
        return f"--import-condition {self.condition}={self.where}"

    @property
    def column(self) -> str | None:
        """Column or field that holds or names them; None: they are files."""
        return self.where.removeprefix(_COLUMN) if self.where.startswith(_COLUMN) else None

    def path_of(self, relative: str) -> str:
        """The condition image's path for a picture; both relative to the root, or to their tar."""
        stem = names.split_suffix(relative)[0]
        folder, name = posixpath.split(stem)
        key = names.join(folder, name.partition(".")[0])
        values = {"name": name, "stem": stem, "key": key, "folder": folder or "."}
        filled = _FIELD.sub(lambda match: values[match[1]], self.where)
        return posixpath.normpath(filled)

    def is_map(self, relative: str) -> bool:
        """Whether a file has the name of a condition image."""
        return _regex_of(self.where).fullmatch(relative) is not None


@functools.cache
def _regex_of(template: str) -> re.Pattern[str]:
    regex = ""
    parts = _FIELD.split(posixpath.normpath(template))
    for number, part in enumerate(parts):
        regex += _FIELDS[part] if number % 2 else re.escape(part)
    # {folder} is "" at the root, and then no slash follows.
    return re.compile(regex.replace(".*/", "(?:.*/)?"), re.DOTALL)


def parse_pairings(asked: Sequence[str], conditions: Sequence[str]) -> tuple[Pairing, ...]:
    """What `--import-condition` says.

    Raises:
        ConfigError: another form, a name that is taken, or a template that is the same file for
            every picture.
    """
    found: list[Pairing] = []
    taken = set(conditions)
    for condition in asked:
        name, _, where = condition.partition("=")
        option = f"--import-condition {condition}"
        if not re.fullmatch("[a-z][a-z0-9_]{0,62}", name) or not where or where == _COLUMN:
            raise ConfigError(
                f"{option}: need NAME=TEMPLATE or NAME=column:COLUMN, NAME of small letters, "
                "digits and _; e.g. scribble=source/{name}.png"
            )
        if name in taken or name in _OURS:
            raise ConfigError(f"{option}: need a name of its own, got {name}, which is taken")
        fields = _FIELD.findall(where)
        strange = [field for field in fields if field not in _FIELDS]
        if not where.startswith(_COLUMN) and (strange or not _NAMING & {*fields}):
            raise ConfigError(
                f"{option}: need a template with {{name}} (file name without suffix), {{stem}} "
                "(its whole path without suffix) or {key} (the path to the first dot of the name), "
                f"and perhaps {{folder}}, got {where!r}"
            )
        taken.add(name)
        found.append(Pairing(condition=name, where=where))
    return tuple(found)


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
class FileStat:
    """A regular file."""

    uri: str
    size_bytes: int
    modified_s: float | None

    @property
    def place(self) -> Place:
        """The whole file."""
        return Place(uri=self.uri, file_bytes=self.size_bytes, modified_s=self.modified_s)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """One folder of a walk."""

    relative: str  # to the selection's base
    uri: str
    stat: Callable[[str], FileStat | Problem]
    names: list[str] = dataclasses.field(default_factory=list)  # of all but folders, sorted
    folders: list[str] = dataclasses.field(default_factory=list)  # names, sorted
    problem: Problem | None = None  # the folder itself cannot be listed
    hidden: tuple[str, ...] = ()  # names of hidden files and folders
    ours: bool = False  # a data set of controlset: nothing in it is read, its names are not here
    seen: bool = False  # a link to a folder that is walked on another way: names are not here


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
        return frozenset(pairing.column for pairing in self.pairings if pairing.column is not None)

    def relative(self, uri: str) -> str:
        """`uri` relative to the root."""
        return uri[len(self.root) :].lstrip("/")

    def relative_or_whole(self, uri: str) -> str:
        """The same; a `uri` outside of the root as it is."""
        return self.relative(uri) if uri.startswith(f"{self.root}/") else uri


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Container(FileStat):
    """A tar or Parquet file as the listing saw it."""

    relative: str  # to the root of the source; may hold surrogate escapes


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
    """The error of a source of several kinds."""
    got = " and ".join(
        kind + (f" ({as_utf8(name)})" if name else "") for kind, name in found.items()
    )
    choices = " or ".join(f"--source-format {kind}" for kind in found)
    return ConfigError(
        f"{as_utf8(source)}: need one kind of source, got {got}; choose with {choices}, or name "
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
    # A bracket that closes nowhere, a first `]` in it included, stands for itself.
    for token in re.findall(r"\*+|\?|\[!?+\]?+[^\]]*\]|.", part, re.DOTALL):
        if token[0] == "*":
            regex += "[^/]*"
        elif token == "?":
            regex += "[^/]"
        elif token[0] == "[" and len(token) > 1:
            inside = fnmatch.translate(token).removeprefix("(?s:")[: -len(r")\Z")]
            regex += f"(?!/){inside}"  # `[!a]` and `[+-9]` would match it
        else:
            regex += re.escape(token)
    return regex


# Counts -------------------------------------------------------------------------------------------


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
        self.ignored.add(reason, as_utf8(name), count)

    def leave(self, reason: Unused, name: str, count: int = 1) -> None:
        """Count a caption that no reference carries."""
        self.unused.add(reason, as_utf8(name), count)

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
