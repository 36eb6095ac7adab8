"""Findings about condition maps of any kind: blank, missing, too few edges or too many."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.inspection.draft import AGAIN, Draft, wishes_for
from pipeline.inspection.leak import LEAK_LIMIT
from pipeline.inspection.pixels import Pixels
from pipeline.inspection.small_columns import Scalars
from pipeline.output.pages import percent, plural

BLANK_SHARE = 0.001
"""A map with fewer pixels that are not zero is blank, and so is one of a single tone."""

_DENSITY_LIMITS = (0.005, 0.35)
_SCRIBBLE_LIMITS = (0.005, 0.5)  # thick lines: up to 32 % on 17 photographs
_LINE_LIMITS = (0.002, 0.2)  # one px wide, and of straight things only
_MANY_LEAKS = 0.05
_THRESHOLDS = {"canny": "--canny-thresholds", "mlsd": "--mlsd-thresholds"}


def density_limits(name: str, record: Mapping[str, Any]) -> tuple[float, float] | None:
    """Edge densities between which nothing stands out; None for maps without edges.

    Args:
        name: of the condition.
        record: of its annotator, from the manifest.
    """
    if "edge_density" not in record.get("stats", {}):
        return None
    if name == "mlsd":
        return _LINE_LIMITS
    scribbled = record["parameters"].get("mode") == "scribble"
    return _SCRIBBLE_LIMITS if scribbled else _DENSITY_LIMITS


def map_flags(annotators: Mapping[str, Any], scalars: Scalars, pixels: Pixels) -> Iterator[Draft]:
    """Blank and missing maps, edge density out of range, shading that leaks into soft edges."""
    for index, (name, record) in enumerate(annotators.items()):
        flat = scalars.numbers.get(f"{name}_flat", np.zeros(0))
        blank = sorted(set(pixels.blank[index]) - set(np.flatnonzero(flat == 1).tolist()))
        if blank:
            yield _blank_flag(name, record, blank, len(pixels.map_bytes[index]))
        missing = np.flatnonzero(scalars.missing[name])
        if len(missing):
            yield _missing_flag(name, missing, scalars)
        limits = density_limits(name, record)
        if limits is not None:
            yield from _density_flags(name, scalars.numbers[f"{name}_edge_density"], limits)
        yield from _leak_flags(name, pixels.leak_rows[index], pixels.leaks[index])


def _blank_flag(name: str, record: Mapping[str, Any], blank: list[int], measured: int) -> Draft:
    wanted = bool(record["parameters"].get("keep_empty"))  # asked for: nobody, so a black map
    change = " or change the thresholds" if name in _THRESHOLDS else ""
    return Draft(
        name=f"blank_{name}",
        severity="look" if wanted else "fix",
        title=f"{plural(len(blank), f'{name} map')} with next to nothing in "
        f"{'it' if len(blank) == 1 else 'them'}",
        count=len(blank),
        of=measured,
        threshold=BLANK_SHARE,
        meaning="Nobody is in these pictures, and --keep-empty-pose keeps their maps."
        if wanted
        else "An empty hint beside a full picture teaches the ControlNet to ignore it.",
        advice="Nothing to do if they are few; many teach the ControlNet to ignore the hint."
        if wanted
        else f"Delete these pictures from the source{change}, {AGAIN}.",
        wishes=wishes_for(blank, name),
    )


def _missing_flag(name: str, missing: np.ndarray, scalars: Scalars) -> Draft:
    people = name in scalars.people
    return Draft(
        name=f"missing_{name}",
        severity="look",
        title=f"{plural(len(missing), 'row')} "
        + ("with nobody to draw" if people else f"without a {name} map"),
        count=len(missing),
        of=scalars.rows,
        meaning="The annotator found nothing; training on this condition leaves them out.",
        advice="Nothing to do if that is right. The rejects table says why, row by row.",
        wishes=wishes_for(missing),
    )


def _density_flags(name: str, density: np.ndarray, limits: tuple[float, float]) -> Iterator[Draft]:
    known = int(np.isfinite(density).sum())
    order = np.argsort(density)  # NaN last
    low = order[: int((density < limits[0]).sum())]
    high = order[:known][::-1][: int((density > limits[1]).sum())]
    option = _THRESHOLDS.get(name)
    if len(low):
        yield Draft(
            name=f"sparse_{name}",
            severity="look",
            title=f"{plural(len(low), f'{name} map')} with under {percent(limits[0])} edges",
            count=len(low),
            of=known,
            threshold=limits[0],
            meaning="There is hardly anything to follow: flat, dark or blurred pictures.",
            advice=f"Lower {option}, or delete these pictures from the source."
            if option
            else "Delete these pictures from the source, if they are many.",
            wishes=wishes_for(low, name),
        )
    if len(high):
        yield Draft(
            name=f"dense_{name}",
            severity="look",
            title=f"{plural(len(high), f'{name} map')} with over {percent(limits[1])} edges",
            count=len(high),
            of=known,
            threshold=limits[1],
            meaning="Edges everywhere say little: noise, foliage, strong JPEG compression.",
            advice=f"Raise {option}, or delete these pictures from the source."
            if option
            else "Delete these pictures from the source, if they are many.",
            wishes=wishes_for(high, name),
        )


def _leak_flags(name: str, rows: np.ndarray, leaks: np.ndarray) -> Iterator[Draft]:
    order = np.argsort(-leaks, kind="stable")
    leaking = rows[order[: int((leaks >= LEAK_LIMIT).sum())]]
    if len(leaking):
        yield Draft(
            name=f"leak_{name}",
            severity="fix" if len(leaking) > _MANY_LEAKS * len(rows) else "look",
            title=f"{plural(len(leaking), f'{name} map')} through which the shading can be read",
            count=len(leaking),
            of=len(rows),
            threshold=LEAK_LIMIT,
            meaning="Outside of its edges such a map is a dim copy of the picture; a ControlNet "
            "learns to brighten that up instead of painting.",
            advice=f"Use --{name}-mode safe, which leaves three levels of grey, {AGAIN}.",
            wishes=wishes_for(leaking, name),
        )
