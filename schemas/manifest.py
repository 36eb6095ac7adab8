"""What a shard did and what a data set is: the records that commits, resume and readers rest on."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.documents import as_record
from schemas.errors import ConfigError
from schemas.latents import LatentInfo
from schemas.ledger import CaptionCounts, Ledger
from schemas.triple import SCHEMA_VERSION

MANIFEST_NAME = "manifest.json"
"""Written last: its presence means that the data set is complete."""

RECORDS_DIR = ".controlset"
"""One record for each committed shard, and the identity of the run that owns the folder."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """A committed file, checked after it was written."""

    path: str  # relative to the data set's folder
    rows: int
    size_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """A committed shard. planned = rows + rejected images, always."""

    name: str  # train-00000-of-00042
    split: str
    references: str  # hash of what the listing saw of its pictures
    fingerprint: str  # of references and recipe: equal -> nothing to do
    planned: int
    data: FileRecord
    rejects: FileRecord | None
    rejected_images: int  # reject rows for a whole image
    reasons: Mapping[str, int]  # reason -> reject rows, those for one kind included
    captions: CaptionCounts | None = None  # of its images; older records do not speak of them

    def __post_init__(self) -> None:
        if self.planned != self.data.rows + self.rejected_images:
            raise ValueError(
                f"{self.name}: planned {self.planned} images, but {self.data.rows} rows "
                f"+ {self.rejected_images} rejects; this is a bug in controlset"
            )

    def to_json(self) -> dict[str, Any]:
        record = dataclasses.asdict(self)
        if self.captions is None:
            del record["captions"]
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "ShardRecord":
        rejects, captions = record["rejects"], record.get("captions")
        if captions is not None:
            captions = as_record(captions, CaptionCounts, where=f"{record['name']}: captions")
        return cls(
            **{
                **record,
                "data": FileRecord(**record["data"]),
                "rejects": None if rejects is None else FileRecord(**rejects),
                "captions": captions,
            }
        )


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
    schema_version: int = SCHEMA_VERSION

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
            "software": dict(self.software),
            "shards": [shard.to_json() for shard in self.shards],
        }
        return json.dumps(document, indent=1, sort_keys=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> "Manifest":
        """Read a manifest back.

        Args:
            text: contents of `manifest.json`.
            where: its path, for the error.

        Raises:
            ConfigError: not a manifest, or of a schema version that this release does not read.
        """
        try:
            document = json.loads(text)
            version = document["schema_version"]
            if version != SCHEMA_VERSION:
                raise ConfigError(
                    f"{where}: need schema version {SCHEMA_VERSION}, got {version}; "
                    "use the controlset release that wrote it, or generate again"
                )
            return cls(
                recipe=document["recipe"],
                source=document["source"],
                annotators=document["annotators"],
                captioner=document["captioner"],
                latents=_latents_in(document),
                ledger=_ledger_in(document, where),
                software=document["software"],
                shards=[ShardRecord.from_json(shard) for shard in document["shards"]],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{where}: need a controlset manifest, got {error!r}; generate the data set again"
            ) from error


def _ledger_in(document: Mapping[str, Any], where: str) -> Ledger | None:
    record = document.get("ledger")
    return None if record is None else Ledger.from_json(record, where=where)


def _latents_in(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of moments, with every field; older manifests do not speak of it."""
    record = document.get("latents")
    return None if record is None else LatentInfo.from_json(record).to_json()
