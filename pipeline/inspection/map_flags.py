"""Findings about condition maps."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.inspection.draft import AGAIN, Draft, wishes_for
from pipeline.inspection.pixels import Pixels
from pipeline.inspection.scalars import Scalars
from pipeline.pages import percent, plural

DENSITY_LOW, DENSITY_HIGH = 0.005, 0.35


def map_flags(conditions: Sequence[str], scalars: Scalars, pixels: Pixels) -> Iterator[Draft]:
    """Blank and missing maps, edge density out of range."""
    for index, name in enumerate(conditions):
        blank = pixels.blank[index]
        if blank:
            yield Draft(
                name=f"blank_{name}",
                severity="fix",
                title=f"{plural(len(blank), f'{name} map')} with next to nothing in "
                f"{'it' if len(blank) == 1 else 'them'}",
                count=len(blank),
                of=len(pixels.map_bytes[index]),
                meaning="An empty hint beside a full picture teaches the ControlNet to ignore it.",
                advice=f"Delete these pictures from the source or change the thresholds, {AGAIN}.",
                wishes=wishes_for(blank, name),
            )
        missing = np.flatnonzero(scalars.missing[name])
        if len(missing):
            yield Draft(
                name=f"missing_{name}",
                severity="look",
                title=f"{plural(len(missing), 'row')} without a {name} map",
                count=len(missing),
                of=scalars.rows,
                meaning="The annotator found nothing; training on this condition leaves them out.",
                advice="Nothing to do if that is right. The rejects table says why, row by row.",
                wishes=wishes_for(missing),
            )
        density = scalars.numbers.get(f"{name}_edge_density")
        if density is not None:
            yield from _density_flags(name, density)


def _density_flags(name: str, density: np.ndarray) -> Iterator[Draft]:
    known = int(np.isfinite(density).sum())
    order = np.argsort(density)  # NaN last
    low = order[: int((density < DENSITY_LOW).sum())]
    high = order[:known][::-1][: int((density > DENSITY_HIGH).sum())]
    if len(low):
        yield Draft(
            name=f"sparse_{name}",
            severity="look",
            title=f"{plural(len(low), f'{name} map')} with under {percent(DENSITY_LOW)} edges",
            count=len(low),
            of=known,
            meaning="There is hardly anything to follow: flat, dark or blurred pictures.",
            advice="Lower --canny-thresholds, or delete these pictures from the source.",
            wishes=wishes_for(low, name),
        )
    if len(high):
        yield Draft(
            name=f"dense_{name}",
            severity="look",
            title=f"{plural(len(high), f'{name} map')} with over {percent(DENSITY_HIGH)} edges",
            count=len(high),
            of=known,
            meaning="Edges everywhere say little: noise, foliage, strong JPEG compression.",
            advice="Raise --canny-thresholds, or delete these pictures from the source.",
            wishes=wishes_for(high, name),
        )
