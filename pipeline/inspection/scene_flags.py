"""Findings about what a map shows: depth without range, people without joints."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.inspection.draft import AGAIN, Draft, wishes_for
from pipeline.inspection.small_columns import People, Scalars
from pipeline.output.pages import plural

NARROW_RANGE = 0.05
"""Of the set's median range. A map is stretched over its own range, so a wall's noise looks as deep
as a street."""

FEW_JOINTS = 4
"""Of 18. With fewer there is no limb pair left that says how a person stands."""


def scene_flags(annotators: Mapping[str, Any], scalars: Scalars) -> Iterator[Draft]:
    """Flat and narrow depth, people of whom next to nothing was seen."""
    for name in annotators:
        if name == "depth":
            yield from _depth_flags(name, scalars)
        if name in scalars.people:
            yield from _people_flags(name, scalars.people[name])


def depth_range(name: str, numbers: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Largest minus smallest raw value of each row; None where the annotator tells neither."""
    low, high = numbers.get(f"{name}_min"), numbers.get(f"{name}_max")
    return None if low is None or high is None else high - low


def _depth_flags(name: str, scalars: Scalars) -> Iterator[Draft]:
    known = scalars.rows - int(scalars.missing[name].sum())
    is_flat = scalars.numbers.get(f"{name}_flat", np.zeros(scalars.rows)) == 1
    flat = np.flatnonzero(is_flat)
    if len(flat):
        yield Draft(
            name=f"flat_{name}",
            severity="fix",
            title=f"{plural(len(flat), f'{name} map')} without any range",
            count=len(flat),
            of=known,
            meaning="The network saw one distance everywhere; the map is black.",
            advice=f"Delete these pictures from the source, {AGAIN}.",
            wishes=wishes_for(flat, name),
        )
    ranges = depth_range(name, scalars.numbers)
    if ranges is None or not np.isfinite(ranges[~is_flat]).any():
        return
    limit = NARROW_RANGE * float(np.nanmedian(ranges[~is_flat]))
    order = np.argsort(ranges)  # NaN last
    narrow = [row for row in order[: int((ranges < limit).sum())] if not is_flat[row]]
    if narrow:
        yield Draft(
            name=f"narrow_{name}",
            severity="look",
            title=f"{plural(len(narrow), f'{name} map')} with under a twentieth of the usual range",
            count=len(narrow),
            of=known,
            threshold=limit,
            meaning="A map is stretched over its own range: in a scene without depth it shows the "
            "network's noise.",
            advice="Look at them; delete flat scenes (walls, pages, skies) from the source.",
            wishes=wishes_for(narrow, name),
        )


def _people_flags(name: str, people: People) -> Iterator[Draft]:
    few = people.joints < FEW_JOINTS
    if few.any():
        rows = people.rows[np.argsort(people.joints, kind="stable")[: int(few.sum())]]
        count = int(few.sum())
        yield Draft(
            name=f"few_joints_{name}",
            severity="look",
            title=f"{count:,} {'person' if count == 1 else 'people'} with fewer than "
            f"{FEW_JOINTS} joints",
            count=count,
            of=len(people.joints),
            threshold=FEW_JOINTS,
            meaning="An ear and a shoulder tell no pose: people cut off, hidden or made up.",
            advice="Nothing to do if they are few. pose_visible_joints lets a reader leave them "
            "out.",
            wishes=wishes_for(list(dict.fromkeys(rows.tolist())), name),
        )
