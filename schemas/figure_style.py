"""One look for every figure, and the colours that pages share with them.

matplotlib is imported when something is drawn, not before.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

Given = ParamSpec("Given")
Drawn = TypeVar("Drawn")

INK, SOFT, FAINT = "#1c1d1f", "#63666b", "#a0a3a8"  # text, what is beside it, what is behind it
ACCENT, STOP = "#2f5bd0", "#b3261e"  # what it is about; what to look at
COLORS = (ACCENT, "#0d8a72", "#a4459d", "#b07a00", "#4d5560")
"""Of lines, in this order."""

WIDTH_IN, DPI = 4.6, 200
"""Of a figure with one panel: narrow, with large type, so that it reads on a phone and a slide."""

_STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "text.parse_math": False,  # a name with a dollar sign is a name
}


def styled(draw: Callable[Given, Drawn]) -> Callable[Given, Drawn]:
    """Decorates whatever draws a figure; everybody else's figures keep their look."""

    @functools.wraps(draw)
    def drawn(*args: Given.args, **kwargs: Given.kwargs) -> Drawn:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn
