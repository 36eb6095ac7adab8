"""The verdict in a sentence made from numbers, and which pictures stand for it."""

import dataclasses
from collections.abc import Sequence

from controlset.report.records import Evaluation, PictureView, Value
from controlset.report.words import interval, places_of, said
from pipeline.output.pages import percent

HALF_WAY = 0.5
RULE = (
    "Obeys: the interval lies clear of those without control and with another picture's map, and "
    "the number at least half of the way from without control to the real pictures. In part: "
    "clear, but less than half of the way. Does not obey: not clear."
)

_EACH = 3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Of one run."""

    run: str
    word: str  # obeys, obeys in part, does not obey, …
    good: bool | None  # None: cannot be told
    number: str  # `Canny F1 (1 px) 0.88 (0.87-0.90)`
    beside: str  # `without control 0.22, with another picture's map 0.21, the real pictures 0.99`
    way: str  # `90 % of the way …`; empty where it cannot be said


def verdict_of(found: Evaluation, run: str) -> Verdict:
    """What the four rows say about a run.

    Args:
        found: the evaluation.
        run: name of one of its runs.
    """
    model, shuffled = found.value("model", run), found.value("shuffled", run)
    ceiling, floor = found.value("ceiling"), found.value("floor")
    word, good = _word(model, shuffled, floor, ceiling, found.headline.higher_is_better)
    way = None if model is None else _way(model, floor, ceiling)
    names = ("without control", "with another picture's map", "the real pictures")
    others = zip(names, (floor, shuffled, ceiling), strict=True)
    return Verdict(
        run=run,
        word=word,
        good=good,
        number=_number(found, model),
        beside=", ".join(
            f"{name} {said(one, found.headline, places_of(found, found.headline))}"
            for name, one in others
            if one is not None
        ),
        way=""
        if way is None
        else f"{percent(way)} of the way from no control to the real pictures",
    )


def _word(
    model: Value | None,
    shuffled: Value | None,
    floor: Value | None,
    ceiling: Value | None,
    higher: bool,
) -> tuple[str, bool | None]:
    if model is None:
        return "cannot be told: no number for the model", None
    below = [one for one in (floor, shuffled) if one is not None]
    if not below:
        return "cannot be told: nothing to compare with", None
    if ceiling is not None and floor is not None and not _clear(ceiling, floor, higher):
        return "cannot be told: the judge rates real pictures no better than the floor", None
    if not all(_clear(model, one, higher) for one in below):
        return "does not obey", False
    way = _way(model, floor, ceiling)
    if way is None:
        return "better than chance, how far is not known", None
    return ("obeys", True) if way >= HALF_WAY else ("obeys in part", False)


def _clear(better: Value, worse: Value, higher: bool) -> bool:
    """Whether the intervals do not touch, the right way round."""
    return better.ends[0] > worse.ends[1] if higher else better.ends[1] < worse.ends[0]


def _way(model: Value, floor: Value | None, ceiling: Value | None) -> float | None:
    if floor is None or ceiling is None or floor.value == ceiling.value:
        return None
    return (model.value - floor.value) / (ceiling.value - floor.value)


def _number(found: Evaluation, model: Value | None) -> str:
    measure, name = found.headline, str(found.protocol.get("condition") or "")
    named = measure.label.lower().startswith(name.lower())
    label = measure.label if named else f"{name[:1].upper()}{name[1:]} {measure.label}"
    if model is None:
        return f"{label}: not computed"
    places = places_of(found, measure)
    ends = interval(model, places)
    return f"{label} {said(model, measure, places)}{f' ({ends})' if ends else ''}"


def by_rank(found: Evaluation) -> list[tuple[str, list[PictureView]]]:
    """Pictures that were chosen by their score: best, middle and worst, each the best one first.

    As the document says; where it does not, by rank among those that it holds.
    """
    ranked = sorted(
        (one for one in found.pictures if one.score is not None),
        key=lambda one: -(one.score or 0) if found.headline.higher_is_better else one.score or 0,
    )
    said_so = {why: [one for one in ranked if one.why == why] for why in ("best", "median")}
    if all(said_so.values()):
        worst = [one for one in ranked if one.why == "worst"]
        groups = [said_so["best"][:_EACH], said_so["median"][:_EACH], worst[-_EACH:]]
    elif len(ranked) >= 3:
        each = min(_EACH, len(ranked) // 3)
        middle = (len(ranked) - each) // 2
        groups = [ranked[:each], ranked[middle : middle + each], ranked[-each:]]
    else:
        return [("all", ranked)] if ranked else []
    return [(n, g) for n, g in zip(("best", "median", "worst"), groups, strict=True) if g]


def in_order(pictures: Sequence[PictureView], limit: int) -> list[PictureView]:
    """The first pictures by key, one of each image: chosen by nobody."""
    firsts = [one for one in pictures if one.number == 0]
    return sorted(firsts, key=lambda one: one.key)[:limit]
