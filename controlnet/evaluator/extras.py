"""Measures beside adherence: of the pictures themselves, and of their captions."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from controlnet.evaluator.scores import Measure
from schemas.pixels import RgbU8


@runtime_checkable
class Extra(Protocol):
    """Scores pictures without looking at their condition."""

    @property
    def protocol(self) -> str:
        """Extractor, version and definition in one line."""
        ...

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What it gives."""
        ...

    def __call__(
        self, pictures: Sequence[RgbU8], keys: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[np.ndarray]]:
        """Contributions of each picture.

        Args:
            pictures: of one size; all of an image's pictures come together.
            keys: of the image that each belongs to.
            texts: its caption.

        Returns:
            Name of each measure -> (K,) float64 of each picture.
        """
        ...
