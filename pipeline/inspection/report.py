"""The inspection for a person: one HTML file in the look of the preview, or a terminal's table."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import markupsafe
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.inspection.findings import EXAMPLES, FEW_JOINTS, NARROW_RANGE
from pipeline.inspection.measure import LEAK_LIMIT
from pipeline.inspection.records import Captions, ConditionFacts, Histogram, Inspection, Member
from pipeline.output.pages import (
    data_uri,
    is_share,
    number,
    percent,
    plural,
    shortened,
    size,
    templates,
)
from pipeline.progress import ledger_facts
from schemas.printable import printable
from schemas.terminal import Terminal

_WIDTH, _HEIGHT = 360, 132
_LEFT, _BOTTOM, _TOP = 4, 22, 16

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
    # With one size the chart would be one bar.
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
        # A single value is a bar over everything, which shows nothing.
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
    drawing = _bars(counted, value, marked=marked, name=f"{title}: {note}")
    return _Chart(title=title, drawing=drawing, note=note)


def _px(value: float) -> str:
    return f"{value:,.0f}"


def _ratio(value: float) -> str:
    return f"{value:.3g}"


# On a terminal ------------------------------------------------------------------------------------

_NAME_LIMIT = 60
_NAMED = 3
_STYLES = {"fix": "bold red", "look": "yellow"}


def print_inspection(inspection: Inspection, console: Terminal) -> None:
    """Print what was found; names out of the data are shown literally."""
    console.tell(f"Data set {inspection.path}", style="italic")
    table = Table(show_header=False)
    for name, value in _facts(inspection):
        table.add_row(name, value)
    console.print(table)
    console.print()
    if not inspection.flags:
        console.print(Text("Nothing stood out.", style="bold green"))
        return
    for flag in inspection.flags:
        title = Text(f"{flag.severity}  ", style=_STYLES[flag.severity])
        title.append(printable(flag.title), style="bold").append(
            f"  {flag.share_text}", style="dim"
        )
        console.print(title)
        console.print(_indented(f"{flag.meaning} {flag.advice}"))
        if flag.examples:
            names = ", ".join(_name(member) for member in flag.examples[:_NAMED])
            console.print(_indented(f"e.g. {names}", style="dim"))
    console.print()


def _indented(text: str, style: str = "") -> Padding:
    return Padding(Text(text, style=style), (0, 0, 0, 6))


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    for split, rows in found.splits.items():
        yield f"rows, {split}", number(rows)
    yield "rejected", f"{number(found.rejected_images)} of {plural(found.planned, 'image')}"
    for reject in found.rejects:
        yield f"  {reject.reason}", number(reject.count)
    if found.ledger is not None:
        for fact in ledger_facts(found.ledger, rows=found.rows):
            yield fact.as_text
    yield "size", size(found.size_bytes)
    if found.measured < found.rows:
        yield "pixels measured", f"{number(found.measured)} of {plural(found.rows, 'row')}"
    sizes = ", ".join(f"{w}x{h} ({number(count)})" for w, h, count in found.stored_sizes[:4])
    yield "stored sizes", sizes + (", …" if len(found.stored_sizes) > 4 else "")
    yield "originals, shorter side", _range(found.original_side, " px")
    yield "enlarged, grey, flat", f"{found.enlarged:,}, {found.grey:,}, {found.flat:,}"
    yield from _caption_facts(found.captions)
    for condition in found.conditions:
        yield from _condition_facts(condition)
    for column in found.columns:
        values = f"{plural(column.present, 'value')} of {column.kind}, {column.missing:,} missing"
        yield f"column {column.name}", values
        if column.numbers is not None:
            yield "  range", _range(column.numbers, "")
    for name, groups in (("exact", found.duplicates.exact), ("near", found.duplicates.near)):
        extra = sum(len(group.members) - 1 for group in groups)
        yield f"{name} copies", f"{number(extra)} in {plural(len(groups), 'group')}"


def _caption_facts(captions: Captions) -> Iterator[tuple[str, str]]:
    yield "captions", f"{number(captions.present)}, {number(captions.missing)} missing"
    yield "  words", _range(captions.words, "")
    yield "  distinct", number(captions.distinct)
    yield "  over 77 tokens", f"{number(captions.over_77_tokens)} (estimated)"
    for source in captions.sources:
        words = f"{number(source.rows)}, median {source.words_median:.0f} words"
        yield f"  {source.name}", f"{words}, {number(source.repetitive)} repetitive"


def _condition_facts(condition: ConditionFacts) -> Iterator[tuple[str, str]]:
    maps = f"{plural(condition.present, 'map')}, {condition.missing:,} missing"
    yield condition.name, f"{maps}, {condition.blank:,} blank"
    for stat, counted in condition.stats.items():
        yield f"  {stat.replace('_', ' ')}", _range(counted, "", is_share=is_share(stat))


def _range(counted: Histogram, unit: str, *, is_share: bool = False) -> str:
    if counted.median is None or counted.smallest is None or counted.largest is None:
        return "none"
    low, middle, high = (
        percent(value) if is_share else f"{value:,.4g}"
        for value in (counted.smallest, counted.median, counted.largest)
    )
    if low == high:
        return f"{middle}{unit}"
    return f"{low} to {high}{unit}, median {middle}"


def _name(member: Member) -> str:
    name, left_out = shortened(printable(member.source), _NAME_LIMIT)
    return name + ("…" if left_out else "")


# Histograms as inline SVG: sharp at any size, colours from the page, no library ------------------


def _bars(
    counted: Histogram,
    label: Callable[[float], str],
    *,
    marked: Sequence[bool] | None = None,
    name: str,
) -> markupsafe.Markup:
    """A histogram with one bar for each bin, all of the same width.

    Args:
        counted: what to draw.
        label: of an edge.
        marked: which bins stand out, as findings.
        name: said to those who cannot see it.
    """
    if counted.total == 0:
        return markupsafe.Markup('<p class="soft">nothing to count</p>')
    step = (_WIDTH - 2 * _LEFT) / len(counted.counts)
    highest = max(counted.counts)
    floor = _HEIGHT - _BOTTOM
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{markupsafe.escape(name)}">'
    ]
    for index, count in enumerate(counted.counts):
        kind = "bar marked" if marked is not None and marked[index] else "bar"
        between = label(counted.edges[index])
        if not counted.whole:
            between += f" to {label(counted.edges[index + 1])}"
        words = f"{between}: {number(count)}"
        parts.append(_bar(_LEFT + index * step, step, count / highest, kind, words))
        if count == highest:
            top = f'x="{_LEFT + (index + 0.5) * step:.1f}" y="{_TOP - 5}"'
            parts.append(f'<text {top} text-anchor="middle">{number(count)}</text>')
    parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _LEFT}" y1="{floor}" y2="{floor}"/>')
    parts += _labels(counted, label, step)
    return markupsafe.Markup("".join(parts) + "</svg>")


def _bar(x: float, step: float, share: float, kind: str, words: str) -> str:
    """One bar, and an invisible one of full height that shows its words under the pointer."""
    floor = _HEIGHT - _BOTTOM
    height = (floor - _TOP) * share
    return (
        f'<g><title>{words}</title><rect class="hit" x="{x:.1f}" y="0" width="{step:.1f}" '
        f'height="{floor}"/><rect class="{kind}" x="{x + 1:.1f}" y="{floor - height:.1f}" '
        f'width="{step - 2:.1f}" height="{height:.1f}"/></g>'
    )


def _labels(counted: Histogram, label: Callable[[float], str], step: float) -> list[str]:
    """As many as fit. Whole numbers stand under the middle of their bar; else inner edges do."""
    start, most, shift = (0, 16, 0.5) if counted.whole else (1, 7, 0.0)  # outer bins are open
    return [
        f'<text x="{_LEFT + (index + shift) * step:.1f}" y="{_HEIGHT - 7}" text-anchor="middle">'
        f"{label(counted.edges[index])}</text>"
        for index in range(start, len(counted.edges) - 1, -(-len(counted.edges) // most))
    ]
