"""What an annotator is: a frozen `Spec` that crosses the wire, and the function it loads.

Third parties add one through the entry-point group `controlset.annotators`: the entry point's name
is the condition, its object a `Spec` class that can be made without arguments.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from schemas.errors import Rejected
from schemas.pixels import MapU8, RgbU8

HintMode = Literal["bilevel", "grey", "rgb"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One condition map and what is known about it."""

    pixels: MapU8 | RgbU8  # exactly the image's height and width
    stats: Mapping[str, float | int]  # one value for each name in `Spec.stats`


# One batch in, one result for each image out, in order. The keys let an annotator draw something
# random for each image that is the same in every run.
Annotator = Callable[[Sequence[RgbU8], Sequence[str]], list[Annotation | Rejected]]


@runtime_checkable
class Spec(Protocol):
    """Frozen dataclass whose fields are the annotator's parameters."""

    name: ClassVar[str]  # the condition's column
    revision: ClassVar[int]  # bump when any output pixel may change
    hint_mode: ClassVar[HintMode]  # how the map is stored
    stats: ClassVar[Mapping[str, str]]  # column suffix -> Arrow type name
    licence: ClassVar[str]  # of the code and weights that draw the map

    def load(self) -> Annotator:
        """Called once a process; holds the model."""
        ...


def parameters(spec: Spec) -> dict[str, Any]:
    """The spec's parameters as plain values, for footer, manifest and fingerprint."""
    return dataclasses.asdict(spec)  # type: ignore[call-overload]  # specs are dataclasses
