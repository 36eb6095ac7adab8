"""What an annotator is: a frozen `Spec` that crosses the wire, and the function it loads.

Third parties add one through the entry-point group `controlset.annotators`: the entry point's name
is the condition, its object a `Spec` class that can be made without arguments.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from annotators.runtime import Runtime
from annotators.weights import Weights
from schemas.errors import Rejected
from schemas.pixels import RgbU8

HintMode = Literal["bilevel", "grey", "grey16", "rgb"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One condition map and what is known about it."""

    # (H, W) uint8, for grey16 uint16, for rgb (H, W, 3) uint8; exactly the image's size. Whoever
    # breaks that gets a reject, so the type is as wide as what third parties may hand over.
    pixels: np.ndarray
    stats: Mapping[str, Any]  # one value for each name in `Spec.stats`


# One batch in, one result for each image out, in order. The keys let an annotator draw something
# random for each image that is the same in every run. A result must not depend on its neighbours.
Annotator = Callable[[Sequence[RgbU8], Sequence[str]], list[Annotation | Rejected]]

# The same for words: one caption for each image.
Captioner = Callable[[Sequence[RgbU8], Sequence[str]], list[str | Rejected]]


@runtime_checkable
class Spec(Protocol):
    """Frozen dataclass whose fields are the annotator's parameters, and thereby its options.

    See `annotators.options`. The class is imported to show the help, so what is heavy belongs into
    `load`. It may also have, as class variables or properties:

    - `weights`: what it needs on disk, see `weights_of`;
    - `variants`: sets of parameters that need other weights, for `controlset weights` to list;
    - `background`: where its maps are not 0 where there is nothing, see `annotators.border`.
    """

    name: ClassVar[str]  # the condition's column
    revision: ClassVar[int]  # bump when any output pixel may change
    hint_mode: ClassVar[HintMode]  # how the map is stored
    stats: ClassVar[Mapping[str, str]]  # column suffix -> type name, see schemas.triple
    licence: ClassVar[str]  # of the code that draws the map; weights bring their own

    def load(self, runtime: Runtime) -> Annotator:
        """Called once a process; holds the model, which all threads share."""
        ...


@runtime_checkable
class CaptionSpec(Protocol):
    """The same for a captioner; its name goes into `caption_source`."""

    name: ClassVar[str]
    revision: ClassVar[int]
    licence: ClassVar[str]

    def load(self, runtime: Runtime) -> Captioner:
        """Called once a process; holds the model, which all threads share."""
        ...


def parameters(spec: Spec | CaptionSpec) -> dict[str, Any]:
    """The spec's parameters as plain values, for footer, manifest and fingerprint."""
    return dataclasses.asdict(spec)  # type: ignore[call-overload]  # specs are dataclasses


def weights_of(spec: Spec | CaptionSpec) -> tuple[Weights, ...]:
    """What a spec must find before it can be loaded; most third-party ones need nothing."""
    return getattr(spec, "weights", ())
