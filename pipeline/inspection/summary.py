"""Counts and histograms of what was read."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.inspection.map_flags import density_limits
from pipeline.inspection.measure import FLAT_DEVIATION, GREY_SPREAD
from pipeline.inspection.pixels import Pixels
from pipeline.inspection.records import (
    Captions,
    ColumnFacts,
    ConditionFacts,
    Duplicates,
    Flag,
    Histogram,
    Inspection,
    RejectFacts,
    histogram,
    whole_histogram,
)
from pipeline.inspection.scene_flags import depth_range
from pipeline.inspection.small_columns import Scalars, number_stats
from pipeline.output.reasons import advice_for
from schemas.dataset import Dataset

_SIDE_EDGES = (0, 128, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048, 3072, 4096, 8192)
_ASPECT_EDGES = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.4, 1.6, 1.9, 2.4, 4.0)
_DENSITY_EDGES = (0, 0.005, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.35, 1)
_LEAK_EDGES = tuple(index / 20 for index in range(21))
_STAT_BINS = 12
_MOST_BINS = 24
_SIZES_LISTED = 12
_REJECT_EXAMPLES = 5


def enlarged_rows(scalars: Scalars) -> np.ndarray:
    """Rows whose source was smaller, both ways, than what is stored."""
    numbers = scalars.numbers
    return np.flatnonzero(
        (numbers["original_width"] < numbers["width"])
        & (numbers["original_height"] < numbers["height"])
    )


def summary(
    dataset: Dataset,
    scalars: Scalars,
    pixels: Pixels,
    *,
    captions: Captions,
    duplicates: Duplicates,
    flags: Sequence[Flag],
) -> Inspection:
    """Everything together."""
    manifest, numbers = dataset.manifest, scalars.numbers
    original = numbers["original_width"], numbers["original_height"]
    stored = numbers["width"], numbers["height"]
    grey = (pixels.spread < GREY_SPREAD) & (pixels.deviation >= FLAT_DEVIATION)
    return Inspection(
        path=dataset.path,
        source=manifest.source,
        rows=scalars.rows,
        splits={name: sum(s.data.rows for s in shards) for name, shards in manifest.splits.items()},
        size_bytes=manifest.size_bytes,
        planned=manifest.planned,
        rejected_images=manifest.rejected_images,
        measured=pixels.measured,
        original_side=histogram(np.minimum(*original), _SIDE_EDGES),
        original_aspect=histogram(np.divide(*original), _ASPECT_EDGES),
        stored_aspect=histogram(np.divide(*stored), _ASPECT_EDGES),
        stored_sizes=_stored_sizes(*stored),
        enlarged=len(enlarged_rows(scalars)),
        grey=int(grey.sum()),
        flat=int((pixels.deviation < FLAT_DEVIATION).sum()),
        broken=len(pixels.broken),
        image_bytes_median=_median(pixels.image_bytes),
        captions=captions,
        conditions=list(_conditions(dataset, scalars, pixels)),
        duplicates=duplicates,
        rejects=_rejects(dataset),
        flags=flags,
        ledger=manifest.ledger,
        columns=list(_columns(dataset, scalars)),
    )


def _conditions(dataset: Dataset, scalars: Scalars, pixels: Pixels) -> Iterator[ConditionFacts]:
    for index, (name, record) in enumerate(dataset.manifest.annotators.items()):
        missing = int(scalars.missing[name].sum())
        yield ConditionFacts(
            name=name,
            present=scalars.rows - missing,
            missing=missing,
            measured=len(pixels.map_bytes[index]),
            blank=len(pixels.blank[index]),
            bytes_median=_median(pixels.map_bytes[index]),
            stats=dict(_stats(name, record, scalars, pixels.leaks[index])),
            density_limits=density_limits(name, record),
        )


def _columns(dataset: Dataset, scalars: Scalars) -> Iterator[ColumnFacts]:
    for name, kind in dataset.manifest.columns.items():
        numbers = scalars.numbers.get(name)
        yield ColumnFacts(
            name=name,
            kind=kind,
            present=scalars.rows - scalars.nulls[name],
            missing=scalars.nulls[name],
            numbers=None if numbers is None else _stat(numbers, whole=False),
        )


def _stats(
    name: str, record: Any, scalars: Scalars, leaks: np.ndarray
) -> Iterator[tuple[str, Histogram]]:
    """What is stored of each map, and what follows from it or was measured."""
    for stat, kind in number_stats(record).items():
        if kind != "bool":
            values = scalars.numbers[f"{name}_{stat}"]
            if stat == "edge_density":
                edges = {*_DENSITY_EDGES, *(density_limits(name, record) or ())}
                yield stat, histogram(values, sorted(edges))
            else:
                yield stat, _stat(values, whole=kind.startswith(("int", "uint")))
    ranges = depth_range(name, scalars.numbers)
    if ranges is not None:
        yield "range", _stat(ranges, whole=False)
    if name in scalars.people:
        joints = scalars.people[name].joints.astype(float)
        yield "joints_of_a_person", whole_histogram(joints, _MOST_BINS)
    if leaks.size:
        yield "leak", histogram(leaks, _LEAK_EDGES)


def _stat(values: np.ndarray, *, whole: bool) -> Histogram:
    if whole:
        return whole_histogram(values, _MOST_BINS)
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    return histogram(
        values, np.linspace(low, high if high > low else low + 1, _STAT_BINS + 1).tolist()
    )


def _stored_sizes(width: np.ndarray, height: np.ndarray) -> list[tuple[int, int, int]]:
    sizes = Counter(zip(width.astype(int).tolist(), height.astype(int).tolist(), strict=True))
    return [(*size, count) for size, count in sizes.most_common(_SIZES_LISTED)]


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if values.size else None


def _rejects(dataset: Dataset) -> list[RejectFacts]:
    examples: dict[str, list[tuple[str, str]]] = {}
    for row in dataset.rejects():
        few = examples.setdefault(row["reason"], [])
        if len(few) < _REJECT_EXAMPLES:
            few.append((row["source"], row["detail"]))
    return [
        RejectFacts(
            reason=reason,
            count=count,
            advice=advice_for(reason),
            examples=examples.get(reason, []),
        )
        for reason, count in dataset.manifest.reasons.items()
    ]
