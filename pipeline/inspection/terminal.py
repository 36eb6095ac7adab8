"""The inspection on a terminal: facts in a table, then what to fix."""

from collections.abc import Iterator

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.inspection.records import Captions, ConditionFacts, Histogram, Inspection, Member
from pipeline.output.pages import is_share, number, percent, plural, shortened, size
from pipeline.output.reasons import ledger_facts
from schemas.printable import printable
from schemas.terminal import Terminal

_NAME_LIMIT = 60
_EXAMPLES = 3
_STYLES = {"fix": "bold red", "look": "yellow"}


def print_inspection(inspection: Inspection, console: Terminal) -> None:
    """Print what was found; names out of the data are shown literally.

    Args:
        inspection: from `inspect_dataset`.
        console: where to.
    """
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
            names = ", ".join(_name(member) for member in flag.examples[:_EXAMPLES])
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
