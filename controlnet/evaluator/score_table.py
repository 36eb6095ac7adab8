"""Scores of all pictures: contributions by picture, numbers with intervals, one Parquet file."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from controlnet.evaluator.metrics.base import (
    RESAMPLES,
    Estimate,
    Measure,
    estimate,
    estimate_difference,
)
from schemas.writing import replacing


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scored:
    """Pictures of one row of the result: ceiling, floor, or model and shuffled of one cell."""

    row: str
    cell: str
    keys: tuple[str, ...]  # of each picture; an image's pictures follow each other
    numbers: tuple[int, ...]
    counts: dict[str, list[np.ndarray]]  # measure -> of each picture (K,)

    def groups(self, measure: str) -> list[np.ndarray]:
        """Of each image what its pictures contributed, (samples, K)."""
        groups: list[list[np.ndarray]] = []
        last = None
        for key, counts in zip(self.keys, self.counts[measure], strict=True):
            if key != last:
                groups.append([])
            groups[-1].append(counts)
            last = key
        return [np.stack(group) for group in groups]

    def estimates(self, measures: Iterable[Measure]) -> dict[str, Estimate]:
        """Number and interval of each measure that this row has."""
        return {
            one.name: estimate(
                self.groups(one.name), one.aggregate, resamples=RESAMPLES if one.resampled else 0
            )
            for one in measures
            if one.name in self.counts
        }

    def of_pictures(self, measure: Measure) -> list[float]:
        """The number of each picture by itself."""
        return [measure.of_one(counts) for counts in self.counts[measure.name]]

    def with_counts(self, more: dict[str, list[np.ndarray]]) -> "Scored":
        """With other measures beside these."""
        return dataclasses.replace(self, counts={**self.counts, **more})


def difference(a: Scored, b: Scored, measure: Measure) -> Estimate:
    """B minus A, paired by image."""
    return estimate_difference(a.groups(measure.name), b.groups(measure.name), measure.aggregate)


def write_scores(path: Path, scored: Sequence[Scored], measures: Sequence[Measure]) -> None:
    """One row a picture: row, cell, key, number and every measure; null where there is none."""
    columns: dict[str, list] = {name: [] for name in ("row", "cell", "key", "number")}
    columns |= {one.name: [] for one in measures}
    for each in scored:
        count = len(each.keys)
        columns["row"] += [each.row] * count
        columns["cell"] += [each.cell] * count
        columns["key"] += each.keys
        columns["number"] += each.numbers
        for one in measures:
            has = one.name in each.counts and one.resampled
            columns[one.name] += each.of_pictures(one) if has else [float("nan")] * count
    texts = {name: pa.array(columns[name], pa.string()) for name in ("row", "cell", "key")}
    numbers = {"number": pa.array(columns["number"], pa.int32())}
    values = {
        one.name: pa.array(columns[one.name], pa.float64(), from_pandas=True) for one in measures
    }
    with replacing(path) as temporary:
        pq.write_table(pa.table(texts | numbers | values), temporary)
