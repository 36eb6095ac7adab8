"""The inspection as one HTML file, in the look of the preview."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import markupsafe

from pipeline.inspection.charts import bars
from pipeline.inspection.examples import EXAMPLES
from pipeline.inspection.leak import LEAK_LIMIT
from pipeline.inspection.records import ConditionFacts, Histogram, Inspection, Member
from pipeline.inspection.scene_flags import FEW_JOINTS, NARROW_RANGE
from pipeline.output.pages import data_uri, number, percent, shortened, templates
from pipeline.output.reasons import ledger_facts

_GROUPS = 12
_TEXT_LIMIT = 160
_TITLES = {"leak": "shading outside of the edges, 1 = a copy of the picture"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Chart:
    title: str
    drawing: markupsafe.Markup
    note: str


def render_inspection(inspection: Inspection) -> str:
    """A page a person can act on: what to fix first, then charts, copies and rejects.

    Args:
        inspection: from `inspect_dataset`.

    Returns:
        HTML without script or outside addresses.
    """
    return (
        templates()
        .get_template("inspection.html.j2")
        .render(
            found=inspection,
            picture_charts=list(_picture_charts(inspection)),
            caption_charts=list(_caption_charts(inspection)),
            condition_charts=[
                (condition, list(_condition_charts(condition)))
                for condition in inspection.conditions
            ],
            exact=inspection.duplicates.exact[:_GROUPS],
            near=inspection.duplicates.near[:_GROUPS],
            ledger=[]
            if inspection.ledger is None
            else list(ledger_facts(inspection.ledger, rows=inspection.rows)),
            shown_members=EXAMPLES,
            limits={"leak": LEAK_LIMIT, "joints": FEW_JOINTS, "range": NARROW_RANGE},
            thumbnail=_thumbnail,
            short=lambda text: shortened(text, _TEXT_LIMIT),
        )
    )


def _thumbnail(member: Member, *, of_map: bool = False) -> str | None:
    encoded = member.map_thumbnail if of_map else member.thumbnail
    return None if encoded is None else data_uri(encoded)


def _picture_charts(found: Inspection) -> Iterator[_Chart]:
    yield _chart("shorter side of the originals, px", found.original_side, _px)
    yield _chart("width / height of the originals", found.original_aspect, _ratio)
    if len(found.stored_sizes) > 1:
        yield _chart("width / height as stored", found.stored_aspect, _ratio)


def _caption_charts(found: Inspection) -> Iterator[_Chart]:
    yield _chart("words in a caption", found.captions.words, _px)
    yield _chart("characters in a caption", found.captions.characters, _px)


def _condition_charts(condition: ConditionFacts) -> Iterator[_Chart]:
    for name, counted in condition.stats.items():
        title = f"{condition.name}: {_TITLES.get(name, name.replace('_', ' '))}"
        lows, highs = counted.edges[:-1], counted.edges[1:]
        if name == "edge_density" and condition.density_limits is not None:
            least, most = condition.density_limits
            marked = [high <= least or low >= most for low, high in zip(lows, highs, strict=True)]
            yield _chart(title, counted, percent, marked)
        elif name == "leak":
            yield _chart(title, counted, number, [low >= LEAK_LIMIT for low in lows])
        elif name == "joints_of_a_person":
            yield _chart(title, counted, _px, [low < FEW_JOINTS for low in lows])
        elif counted.smallest != counted.largest:
            yield _chart(title, counted, _px if counted.whole else number)


def _chart(
    title: str,
    counted: Histogram,
    value: Callable[[float], str],
    marked: Sequence[bool] | None = None,
) -> _Chart:
    note = ""
    if counted.median is not None:
        low, high = counted.smallest or 0, counted.largest or 0
        note = f"median {value(counted.median)}, from {value(low)} to {value(high)}"
    drawing = bars(counted, value, marked=marked, name=f"{title}: {note}")
    return _Chart(title=title, drawing=drawing, note=note)


def _px(value: float) -> str:
    return f"{value:,.0f}"


def _ratio(value: float) -> str:
    return f"{value:.3g}"
