# Beam is not typed for pyright: transforms, `|` and bundles of results are all `Any` to it.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false, reportArgumentType=false
"""From references to shards: which row goes where. Pure functions and their wiring.

A picture from a folder is placed by the hash of its key; pictures of one container (a tar, a
Parquet row group) stay together and in order, so output shards follow input shards: small
containers share a shard, a large tar is cut into equal ranges. Parquet row groups are never cut,
since a piece would have to be read through from the group's start.
"""

import dataclasses
import hashlib
import json
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping

import apache_beam as beam

from pipeline.job import Job
from pipeline.progress import PROGRESS
from schemas.records import ImageRef, Place, ShardPlan, unit_interval

_RAW = -15  # deflate without header and checksum
_FAST = 1


class Packer:
    """Packs references of one source; both ends must be made for the same root."""

    def __init__(self, root: str) -> None:
        place = Place(uri=f"{root}/", file_bytes=1 << 17, modified_s=1.7e9)
        typical = ImageRef(key="", source=".jpg", place=place, caption_place=place)
        # What all references have in common then costs next to nothing.
        self._dictionary = pickle.dumps(typical, protocol=5)

    def pack(self, ref: ImageRef) -> bytes:
        """The reference as bytes, never empty."""
        deflate = zlib.compressobj(_FAST, zlib.DEFLATED, _RAW, zdict=self._dictionary)
        return deflate.compress(pickle.dumps(ref, protocol=5)) + deflate.flush()

    def unpack(self, packed: bytes) -> ImageRef:
        """The inverse of `pack`."""
        inflate = zlib.decompressobj(_RAW, zdict=self._dictionary)
        return pickle.loads(inflate.decompress(packed) + inflate.flush())


SplitGroup = tuple[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardRange:
    """Consecutive shards that one group of references is spread over."""

    first: int
    pieces: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where every group goes."""

    ranges: Mapping[SplitGroup, ShardRange]
    totals: Mapping[str, int]  # split -> number of shards
    group_sizes: Mapping[str, int]  # group -> references in all splits


def split_of(key: str, *, validation: float, seed: int) -> str:
    """`train` or `validation`: a pure function of the key, whatever else is in the source."""
    if validation and unit_interval(f"split:{seed}:{key}") < validation:
        return "validation"
    return "train"


def lay_out(counts: Mapping[SplitGroup, int], *, shard_rows: int) -> Layout:
    """Assign groups to shards of about `shard_rows` references.

    Args:
        counts: (split, group) -> number of references, each > 0.
        shard_rows: wanted rows of a shard.

    Returns:
        Every group's run of shards; groups in sorted order, so the layout depends on nothing else.
    """
    ranges: dict[SplitGroup, ShardRange] = {}
    totals: dict[str, int] = {}
    sizes: dict[str, int] = {}
    open_rows: dict[str, int] = {}  # split -> rows already in its last, shared shard
    for (split, group), count in sorted(counts.items()):
        sizes[group] = sizes.get(group, 0) + count
        used = open_rows.get(split, 0)
        if used and used + count <= shard_rows:
            # A small group joins the last shard of its split, if it fits whole.
            ranges[split, group] = ShardRange(first=totals[split] - 1, pieces=1)
            open_rows[split] = used + count
            continue
        pieces = 1 if _is_row_group(group) else -(-count // shard_rows)
        ranges[split, group] = ShardRange(first=totals.get(split, 0), pieces=pieces)
        totals[split] = totals.get(split, 0) + pieces
        # Pieces of a large group are full; no other group shares the last one.
        open_rows[split] = count if pieces == 1 else shard_rows
    return Layout(ranges=ranges, totals=totals, group_sizes=sizes)


def shard_of(ref: ImageRef, split: str, layout: Layout) -> int:
    """Index of the shard that a reference belongs to."""
    run = layout.ranges[split, ref.group]
    if run.pieces == 1:
        return run.first
    if ref.group:
        return run.first + ref.ordinal * run.pieces // layout.group_sizes[ref.group]
    return run.first + int(unit_interval(f"shard:{ref.key}") * run.pieces)


def shard_plan(split: str, index: int, refs: Iterable[ImageRef], layout: Layout) -> ShardPlan:
    """A shard's references in their fixed order."""
    return ShardPlan(
        split=split,
        index=index,
        total=layout.totals[split],
        refs=tuple(sorted(refs, key=lambda ref: (ref.group, ref.ordinal, ref.key))),
    )


def fingerprint(references: str, identity: str) -> str:
    """Hash of everything that a shard's bytes depend on."""
    return hashlib.sha256(f"{identity} {references}".encode()).hexdigest()


def hash_of_references(plan: ShardPlan) -> str:
    """Hash of a shard's references in order, with the sizes and times that the listing saw.

    It stands in the shard's record, so that `add` can renew the fingerprint without the source.
    """
    digest = hashlib.sha256()
    for ref in plan.refs:
        record = dataclasses.asdict(_unrooted(ref))
        for name in _LATER_FIELDS:  # without them, the hash is that of releases without them
            if not record[name]:
                del record[name]
        digest.update(json.dumps(record, sort_keys=True).encode())
    return digest.hexdigest()


_LATER_FIELDS = ("more_captions", "caption_problem", "caption_was_list", "maps", "fields", "record")


def _unrooted(ref: ImageRef) -> ImageRef:
    """The reference without absolute paths: a moved source is the same source."""
    sidecar = ref.caption_place
    return dataclasses.replace(
        ref,
        place=dataclasses.replace(ref.place, uri=""),
        caption_place=None if sidecar is None else dataclasses.replace(sidecar, uri=""),
        more_captions=tuple(
            dataclasses.replace(more, place=dataclasses.replace(more.place, uri=""))
            for more in ref.more_captions
        ),
        maps=tuple(
            (name, None if place is None else dataclasses.replace(place, uri=""))
            for name, place in ref.maps
        ),
        record=None if ref.record is None else dataclasses.replace(ref.record, uri=""),
    )


def _is_row_group(group: str) -> bool:
    return "#rg" in group


class PlanShards(beam.PTransform):
    """References -> one `ShardPlan` a shard. Only references are grouped, never pixels."""

    def __init__(
        self,
        job: Job,
        *,
        validation: float | None = None,
        leaders: beam.PCollection[Mapping[str, str]] | None = None,
    ) -> None:
        """Plan a job.

        Args:
            job: the resolved job.
            validation: another fraction than the job's.
            leaders: from `FindCopies`, one mapping; None: every picture draws its own split.
        """
        super().__init__()
        self._config = job.config
        self._packer = Packer(job.source.root)
        self._validation = job.config.validation if validation is None else validation
        self._leaders = {} if leaders is None else beam.pvalue.AsSingleton(leaders, {})

    def expand(self, refs: beam.PCollection[ImageRef]) -> beam.PCollection[ShardPlan]:
        placed = refs | "Split" >> beam.Map(
            _placed,
            validation=self._validation,
            seed=self._config.seed,
            packer=self._packer,
            leaders=self._leaders,
        )
        layout = (
            placed
            | "Groups" >> beam.Map(_split_and_group)
            | "CountGroups" >> beam.combiners.Count.PerElement()
            | "AllCounts" >> beam.combiners.ToDict()
            | "LayOut" >> beam.Map(_lay_out, shard_rows=self._config.shard_rows)
        )
        layout_view = beam.pvalue.AsSingleton(layout)
        assigned = placed | "AssignShard" >> beam.Map(
            _assign, layout=layout_view, packer=self._packer
        )
        # A shard that the hash left without rows is still a file, so that `-of-00042` is true.
        every_shard = layout | "EveryShard" >> beam.FlatMap(_markers)
        return (
            (assigned, every_shard)
            | beam.Flatten()
            | beam.GroupByKey()
            | "Plan" >> beam.Map(_plan, layout=layout_view, packer=self._packer)
        )


def _lay_out(counts: Mapping[SplitGroup, int], shard_rows: int) -> Layout:
    PROGRESS.planned = sum(counts.values())
    return lay_out(counts, shard_rows=shard_rows)


def _placed(
    ref: ImageRef, validation: float, seed: int, packer: Packer, leaders: Mapping[str, str]
) -> tuple[str, str, bytes]:
    """Split, group, and the packed reference."""
    split = split_of(leaders.get(ref.key, ref.key), validation=validation, seed=seed)
    return split, ref.group, packer.pack(ref)


def _split_and_group(placed: tuple[str, str, bytes]) -> SplitGroup:
    split, group, _ = placed
    return split, group


def _assign(
    placed: tuple[str, str, bytes], layout: Layout, packer: Packer
) -> tuple[tuple[str, int], bytes]:
    split, _, packed = placed
    return (split, shard_of(packer.unpack(packed), split, layout)), packed


_NO_REFERENCE = b""


def _markers(layout: Layout) -> Iterator[tuple[tuple[str, int], bytes]]:
    for split, total in layout.totals.items():
        for index in range(total):
            yield (split, index), _NO_REFERENCE


def _plan(
    grouped: tuple[tuple[str, int], Iterable[bytes]], layout: Layout, packer: Packer
) -> ShardPlan:
    (split, index), packed = grouped
    return shard_plan(split, index, (packer.unpack(ref) for ref in packed if ref), layout)
