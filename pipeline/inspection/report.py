"""The inspection as one HTML file, in the look of the preview."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import markupsafe

from pipeline.inspection.charts import bars
from pipeline.inspection.map_flags import DENSITY_HIGH, DENSITY_LOW
from pipeline.inspection.members import EXAMPLES
from pipeline.inspection.model import ConditionFacts, Histogram, Inspection, Member
from pipeline.pages import data_uri, number, percent, shortened, templates

_GROUPS = 12
_TEXT_LIMIT = 160


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
            shown_members=EXAMPLES,
            thumbnail=_thumbnail,
            short=lambda text: shortened(text, _TEXT_LIMIT),
        )
    )


def _thumbnail(member: Member, *, of_map: bool = False) -> str | None:
    encoded = member.map_thumbnail if of_map else member.thumbnail
    return None if encoded is None else data_uri(encoded, "png" if of_map else "jpeg")


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
        title = f"{condition.name}: {name.replace('_', ' ')}"
        if name != "edge_density":
            if counted.smallest != counted.largest:
                yield _chart(title, counted, number)
            continue
        marked = [low < DENSITY_LOW or low >= DENSITY_HIGH for low in counted.edges[:-1]]
        yield _chart(title, counted, percent, marked)


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
