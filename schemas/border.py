"""The border of a padded image. It is no part of the picture, so it has no map."""

import dataclasses
from collections.abc import Mapping
from typing import Any

BORDER_COLUMNS = ("pad_left", "pad_top", "pad_right", "pad_bottom")
"""Columns of a data set that was made with `--fit pad`, px of the stored image."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Border:
    """Width of the border on each side, px; at least one of them is not 0."""

    left: int
    top: int
    right: int
    bottom: int

    def share(self, width: int, height: int) -> float:
        """Part of a stored image of this size that is border, 0..1."""
        inside = (width - self.left - self.right) * (height - self.top - self.bottom)
        return 1 - inside / (width * height)


def border_of(row: Mapping[str, Any]) -> Border | None:
    """The border that a stored row tells of; None without one, or in a set without the columns."""
    left, top, right, bottom = (row.get(name) or 0 for name in BORDER_COLUMNS)
    if not (left or top or right or bottom):
        return None
    return Border(left=left, top=top, right=right, bottom=bottom)
