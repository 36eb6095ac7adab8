"""What the probe needs to know about obedience; who can extract conditions hands one in.

Training never annotates by itself: `controlset train` makes a judge from the annotator whose maps
the data set holds.
"""

import dataclasses
from collections.abc import Callable, Sequence

from schemas.pixels import MapU8, MapU16, RgbU8

Map = MapU8 | MapU16 | RgbU8

# Pictures, the maps that each should obey, and keys of the rows that the maps came from (an
# annotator may draw its thresholds by key) -> one score a picture, 0..1, higher is better; NaN
# where a map asks for nothing that could be scored (a depth map that is black all over).
Score = Callable[[Sequence[RgbU8], Sequence[Map], Sequence[str]], list[float]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """How a picture is compared with the map that it should obey."""

    name: str  # of the score, e.g. `Canny F1 (1 px)`
    score: Score


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What adherence can be: without control, and at best."""

    floor: float
    ceiling: float
