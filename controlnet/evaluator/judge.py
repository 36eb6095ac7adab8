"""Who looks at pictures; handed in by `controlset`, since this package never annotates."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from controlnet.evaluator.metrics.base import Seen
from schemas.pixels import RgbU8

# Pictures, and keys of the rows whose maps they should obey (an annotator may draw its thresholds
# by key) -> what is seen in each; None where there is nothing (e.g. no person).
Look = Callable[[Sequence[RgbU8], Sequence[str]], list[Seen | None]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Eye:
    """An annotator as the judge of pictures."""

    record: Mapping[str, Any]  # name, revision, parameters, weights: goes into the protocol
    look: Look
    by_key: bool  # whether what it sees depends on the key
    from_pictures: bool = False  # wanted is what it sees in the real picture, not the stored map
