"""Histograms as inline SVG: sharp at any size, colours from the page, no library."""

from collections.abc import Callable, Sequence

import markupsafe

from pipeline.inspection.records import Histogram
from pipeline.output.pages import number

_WIDTH, _HEIGHT = 360, 132
_LEFT, _BOTTOM, _TOP = 4, 22, 16


def bars(
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
    labels = _bin_labels if counted.whole else _edge_labels
    parts += labels(counted.edges, label, step)
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


def _edge_labels(edges: Sequence[float], label: Callable[[float], str], step: float) -> list[str]:
    """As many as fit, the inner ones only: the outer bins are open."""
    every = -(-len(edges) // 7)
    return [
        f'<text x="{_LEFT + index * step:.1f}" y="{_HEIGHT - 7}" text-anchor="middle">'
        f"{label(edges[index])}</text>"
        for index in range(1, len(edges) - 1, every)
    ]


def _bin_labels(edges: Sequence[float], label: Callable[[float], str], step: float) -> list[str]:
    """Whole numbers, each under the middle of its bar, as many as fit."""
    every = -(-len(edges) // 16)
    return [
        f'<text x="{_LEFT + (index + 0.5) * step:.1f}" y="{_HEIGHT - 7}" text-anchor="middle">'
        f"{label(edges[index])}</text>"
        for index in range(0, len(edges) - 1, every)
    ]
