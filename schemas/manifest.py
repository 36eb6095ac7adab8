"""What a shard did and what a data set is: the records that commits, resume and readers rest on.

A manifest may come from a stranger. So whatever a record says is checked here, when it is made or
read: a path in it never leaves its folder, a name is one that `generate` gives, and sums add up.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import pyarrow as pa

from schemas.columns import KINDS
from schemas.documents import as_record, misfit, parse_json
from schemas.errors import ConfigError
from schemas.latents import LatentInfo
from schemas.ledger import CaptionCounts, ColumnCounts, Ledger
from schemas.triple import SCHEMA_VERSION, Condition, column_types

MANIFEST_NAME = "manifest.json"
"""Written last: its presence means that the data set is complete."""

CARD_NAME = "README.md"
PREVIEW_NAME = "preview.html"

RECORDS_DIR = ".controlset"
"""One record for each committed shard, and `RUN_NAME`."""

RUN_NAME = "run.json"
"""In `RECORDS_DIR`: the identity of the run that owns the folder."""

ADDING_DIR = f"{RECORDS_DIR}/adding"
"""Shards with more columns that wait to replace the old ones; there may be none."""

SHARD_NAME = re.compile(
    r"(?P<split>[A-Za-z0-9_]{1,64})-(?P<index>\d{5,9})-of-(?P<total>\d{5,9})", re.ASCII
)
"""`train-00000-of-00042`; nothing that could be a path."""

_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_REASON = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ADVICE = "generate the data set again, or get it again"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """A committed file, checked after it was written."""

    path: str  # relative to the data set's folder: data/NAME.parquet or rejects/NAME.parquet
    rows: Count
    size_bytes: Count
    sha256: str

    def __post_init__(self) -> None:
        folder, _, name = self.path.partition("/")
        inside = folder in {"data", "rejects"} and name.endswith(".parquet")
        _demand(
            inside and _is(SHARD_NAME, name.removesuffix(".parquet")), "a path of ours", self.path
        )
        _demand(_is(_SHA256, self.sha256), "a sha256 of 64 hex digits", self.sha256)
        _demand(min(self.rows, self.size_bytes) >= 0, "counts from 0", (self.rows, self.size_bytes))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """A committed shard. planned = rows + rejected images, always."""

    name: str  # train-00000-of-00042
    split: str
    references: str  # hash of what the listing saw of its pictures
    fingerprint: str  # of references and recipe: equal -> nothing to do
    planned: Count
    data: FileRecord
    rejects: FileRecord | None
    rejected_images: Count  # reject rows for a whole image
    reasons: Mapping[str, Count]  # reason -> reject rows, those for one kind included
    captions: CaptionCounts | None = None  # of its images; older records do not speak of them
    columns: Mapping[str, ColumnCounts] = dataclasses.field(default_factory=dict)  # that are kept

    def __post_init__(self) -> None:
        found = SHARD_NAME.fullmatch(self.name)
        if found is None or not int(found["index"]) < int(found["total"]):
            raise ValueError(f"need a shard's name, got {self.name!r}")
        _demand(found["split"] == self.split, f"the split of {self.name}", self.split)
        files = {
            f"data/{self.name}.parquet": self.data,
            f"rejects/{self.name}.parquet": self.rejects,
        }
        for path, file in files.items():
            _demand(file is None or file.path == path, path, file and file.path)
        for digest in (self.references, self.fingerprint):
            _demand(_is(_SHA256, digest), "a sha256 of 64 hex digits", digest)
        if self.planned != self.data.rows + self.rejected_images:
            raise ValueError(
                f"{self.name}: planned {self.planned} images, but {self.data.rows} rows "
                f"+ {self.rejected_images} rejects"
            )
        _demand(all(_is(_REASON, reason) for reason in self.reasons), "reasons", list(self.reasons))
        rejects = 0 if self.rejects is None else self.rejects.rows
        if sum(self.reasons.values()) != rejects or self.rejected_images > rejects:
            raise ValueError(
                f"{self.name}: {rejects} reject rows, but {self.rejected_images} rejected images "
                f"and reasons {dict(self.reasons)}"
            )

    @property
    def files(self) -> list[FileRecord]:
        """Its Parquet files: rows, and rejects if there are any."""
        return [self.data] if self.rejects is None else [self.data, self.rejects]

    def to_json(self) -> dict[str, Any]:
        record = dataclasses.asdict(self)
        if self.captions is None:
            del record["captions"]
        if not self.columns:
            del record["columns"]
        return record


def _is(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.fullmatch(text) is not None


def _demand(holds: bool, need: str, got: object) -> None:
    if not holds:
        raise ValueError(f"need {need}, got {got!r}")


class _Weights(TypedDict):
    source: str
    file: str | None
    sha256: str
    licence: str


class _Annotator(TypedDict):
    """What a reader relies on in the record of a condition; there may be more."""

    revision: int
    parameters: dict[str, Any]
    hint_mode: Literal["bilevel", "grey", "grey16", "rgb"]
    stats: dict[str, str]
    weights: list[_Weights] | None
    licence: NotRequired[str | None]


class _Captioner(TypedDict):
    name: str
    revision: int
    parameters: dict[str, Any]
    weights: list[_Weights] | None
    licence: NotRequired[str | None]


class _Recipe(TypedDict, total=False):
    caption: str
    caption_text: str | None
    resolution: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    fit: str
    image_format: str
    quality: int
    min_side: int
    validation: float
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Document:
    """`manifest.json` as it lies on disk: the manifest and its totals."""

    format: Literal["controlset"]
    schema_version: int
    planned: Count
    rows: Count
    rejected_images: Count
    reasons: dict[str, Count]
    size_bytes: Count
    source: str
    recipe: dict[str, Any]
    annotators: dict[str, dict[str, Any]]
    captioner: dict[str, Any] | None
    software: dict[str, str]
    shards: list[ShardRecord]
    latents: LatentInfo | None = None
    ledger: Ledger | None = None
    columns: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A complete data set."""

    recipe: Mapping[str, Any]  # every option that can change a stored byte
    source: str
    annotators: Mapping[str, Any]  # condition -> revision, parameters, weights, licence, hint range
    software: Mapping[str, str]  # package -> version
    shards: Sequence[ShardRecord]  # ordered by split, then index
    captioner: Mapping[str, Any] | None = None  # the model that wrote captions, likewise
    latents: Mapping[str, Any] | None = None  # LatentInfo of cached VAE moments, if there are any
    ledger: Ledger | None = None  # all that the source held; older manifests do not speak of it
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # kept from it -> type
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        names = Counter(shard.name for shard in self.shards)
        twice = [name for name, times in names.items() if times > 1]
        _demand(not twice, "every shard once", twice)
        msgspec.convert(self.recipe, _Recipe)
        for name, record in self.annotators.items():
            known = msgspec.convert(record, _Annotator)
            for column in (name, *known["stats"]):
                _demand(_is(_COLUMN, column), "the name of a column", column)
        if self.captioner is not None:
            msgspec.convert(self.captioner, _Captioner)
        for name, kind in self.columns.items():
            _demand(_is(_COLUMN, name), "the name of a column", name)
            _demand(kind in KINDS, "the type of a column", kind)
        column_types(self.conditions, self.columns)
        counted = {} if self.ledger is None else self.ledger.columns
        _demand(counted.keys() <= self.columns.keys(), "columns of the set", list(counted))

    @property
    def conditions(self) -> list[Condition]:
        """The columns of every condition, in order."""
        return [
            Condition(name=name, stats=record["stats"]) for name, record in self.annotators.items()
        ]

    @property
    def told(self) -> dict[str, Any]:
        """What manifest, footers and the record of the run say alike."""
        return {
            "recipe": dict(self.recipe),
            "annotators": dict(self.annotators),
            "captioner": self.captioner,
            **({} if self.latents is None else {"latents": dict(self.latents)}),
            **({"columns": dict(self.columns)} if self.columns else {}),
        }

    @property
    def column_types(self) -> dict[str, pa.DataType]:
        """Name -> type of the columns that every shard has."""
        moments = () if self.latents is None else LatentInfo.from_json(self.latents).columns
        return column_types(self.conditions, self.columns) | dict.fromkeys(moments, pa.binary())

    @property
    def files(self) -> list[FileRecord]:
        """Parquet files of all shards."""
        return [file for shard in self.shards for file in shard.files]

    @property
    def rows_of_splits(self) -> dict[str, int]:
        """Split -> its rows."""
        return {
            split: sum(shard.data.rows for shard in shards) for split, shards in self.splits.items()
        }

    @property
    def planned(self) -> int:
        return sum(shard.planned for shard in self.shards)

    @property
    def rows(self) -> int:
        return sum(shard.data.rows for shard in self.shards)

    @property
    def rejected_images(self) -> int:
        return sum(shard.rejected_images for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        return sum(shard.data.size_bytes for shard in self.shards)

    @property
    def reasons(self) -> dict[str, int]:
        """Reason -> reject rows, most frequent first."""
        counts: Counter[str] = Counter()
        for shard in self.shards:
            counts.update(shard.reasons)
        return dict(counts.most_common())

    @property
    def splits(self) -> dict[str, list[ShardRecord]]:
        """Split -> its shards in order; `train` first."""
        splits: dict[str, list[ShardRecord]] = {}
        for shard in self.shards:
            splits.setdefault(shard.split, []).append(shard)
        return splits

    def to_json(self) -> str:
        document = {
            "format": "controlset",
            "schema_version": self.schema_version,
            "planned": self.planned,
            "rows": self.rows,
            "rejected_images": self.rejected_images,
            "reasons": self.reasons,
            "size_bytes": self.size_bytes,
            "source": self.source,
            "recipe": dict(self.recipe),
            "annotators": dict(self.annotators),
            "captioner": None if self.captioner is None else dict(self.captioner),
            # Only where there are some: a manifest without them stays the text that it always was.
            **({} if self.latents is None else {"latents": dict(self.latents)}),
            **({} if self.ledger is None else {"ledger": self.ledger.to_json()}),
            **({"columns": dict(self.columns)} if self.columns else {}),
            "software": dict(self.software),
            "shards": [shard.to_json() for shard in self.shards],
        }
        return json.dumps(document, indent=1, sort_keys=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> "Manifest":
        """Read a manifest back.

        Args:
            text: contents of `manifest.json`; UTF-8 where it is bytes.
            where: its path, for the error.

        Raises:
            ConfigError: not a manifest, or of a schema version that this release does not read;
                one whose paths, names, types or sums cannot be.
        """
        document = parse_json(text, dict[str, Any], where=where, advice=_ADVICE)
        version = document.get("schema_version", SCHEMA_VERSION)
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"{where}: need schema version {SCHEMA_VERSION}, got {version!r}; "
                "use the controlset release that wrote it, or generate again"
            )
        said = as_record(document, _Document, where=where, advice=_ADVICE)
        if not said.shards:
            raise misfit(where, "no shard at all", _ADVICE)
        try:
            manifest = cls(
                recipe=said.recipe,
                source=said.source,
                annotators=said.annotators,
                captioner=said.captioner,
                latents=None if said.latents is None else said.latents.to_json(),
                ledger=said.ledger,
                columns=said.columns,
                software=said.software,
                shards=said.shards,
            )
            if manifest.ledger is not None:
                planned = manifest.ledger.planned
                _demand(planned == manifest.planned, f"a ledger of {manifest.planned}", planned)
            for total in ("planned", "rows", "rejected_images", "reasons", "size_bytes"):
                ours, theirs = getattr(manifest, total), getattr(said, total)
                _demand(ours == theirs, f"{total} {ours}, the sum of the shards", theirs)
        except (msgspec.MsgspecError, RecursionError, TypeError, ValueError) as error:
            raise misfit(where, error, _ADVICE) from error
        return manifest


def read_record(text: str | bytes, *, where: str) -> ShardRecord:
    """A shard's own record, read back.

    Args:
        text: contents of `.controlset/NAME.json`.
        where: its path, for the error.

    Raises:
        ConfigError: not a record of ours, or of another shard than its file's name says.
    """
    record = parse_json(text, ShardRecord, where=where, advice=_ADVICE)
    if not where.endswith(f"/{record.name}.json"):
        raise misfit(where, f"the record of {record.name}", _ADVICE)
    return record
