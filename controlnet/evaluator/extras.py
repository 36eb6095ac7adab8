"""Measures beside adherence: of the pictures themselves, and of their captions."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from controlnet.evaluator.metrics.base import Measure
from controlnet.evaluator.metrics.clip_score import ClipScore
from controlnet.evaluator.metrics.diversity import pairwise
from controlnet.evaluator.metrics.features import Extractor
from controlnet.evaluator.metrics.fid_kid import frechet_distance, kernel_distance
from controlnet.nano.reading import text_scores
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


class Distance:
    """How far the distribution of pictures lies from that of the real ones.

    Args:
        extractor: pictures -> features.
        real: the real pictures; read when they are first needed.
        names: of the Fréchet and the kernel distance.
        labels: likewise.
    """

    def __init__(
        self,
        extractor: Extractor,
        real: Callable[[], Iterable[RgbU8]],
        *,
        names: tuple[str, str],
        labels: tuple[str, str],
    ) -> None:
        self._extractor, self._real, self._names = extractor, real, names
        self._real_ND: np.ndarray | None = None
        functions = (self._frechet, self._kernel)
        self._measures = tuple(
            Measure(
                name=name,
                label=label,
                higher_is_better=False,
                kind="quality",
                aggregate=function,
                resampled=False,
            )
            for name, label, function in zip(names, labels, functions, strict=True)
        )

    @property
    def protocol(self) -> str:
        """Extractor and definition."""
        return f"{', '.join(self._names)}: {self._extractor.name}"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Fréchet, then kernel distance."""
        return self._measures

    def __call__(
        self, pictures: Sequence[RgbU8], keys: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[np.ndarray]]:
        """See `Extra`; what a picture contributes are its features."""
        features = list(self._extractor(pictures).astype(np.float64))
        return {name: features for name in self._names}

    @property
    def _features_of_real(self) -> np.ndarray:
        if self._real_ND is None:
            features = [self._extractor([picture])[0] for picture in self._real()]
            self._real_ND = np.stack(features).astype(np.float64)
        return self._real_ND

    def _frechet(self, features_ND: np.ndarray) -> float:
        return _or_nan(frechet_distance, self._features_of_real, features_ND)

    def _kernel(self, features_ND: np.ndarray) -> float:
        return _or_nan(lambda *sets: kernel_distance(*sets)[0], self._features_of_real, features_ND)


class Words:
    """Whether the words of a caption came true in a drawn scene: nano's captions only."""

    protocol = "drawn scenes: regions of the named colour; shape by IoU >= 0.75 with drawn masks"
    measures = tuple(
        Measure(name=f"words_{name}", label=label, higher_is_better=True, kind="text")
        for name, label in (
            ("colors", "colours come true"),
            ("shapes", "coloured shapes come true"),
            ("background", "backgrounds come true"),
        )
    )

    def __call__(
        self, pictures: Sequence[RgbU8], keys: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[np.ndarray]]:
        """See `Extra`."""
        found = [text_scores(*pair) for pair in zip(pictures, texts, strict=True)]
        return {
            one.name: [np.array([each[one.name.removeprefix("words_")]]) for each in found]
            for one in self.measures
        }


class Clip:
    """CLIP score of a picture and its caption.

    Args:
        score: the model.
    """

    measures = (Measure(name="clip_score", label="CLIP score", higher_is_better=True, kind="text"),)

    def __init__(self, score: ClipScore) -> None:
        self._score = score

    @property
    def protocol(self) -> str:
        """Model and definition."""
        return f"CLIP score: 100 max(cos, 0) of each picture and its caption, {self._score.name}"

    def __call__(
        self, pictures: Sequence[RgbU8], keys: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[np.ndarray]]:
        """See `Extra`."""
        return {"clip_score": [np.array([one]) for one in self._score(pictures, texts)]}


class Diversity:
    """How much the pictures of one row differ, who share everything but their noise.

    Args:
        distance: of two pictures.
        name: of the distance.
    """

    def __init__(self, distance: Callable[[RgbU8, RgbU8], float], name: str) -> None:
        self._distance, self._name = distance, name
        self.measures = (
            Measure(
                name="diversity",
                label=f"diversity ({name})",
                higher_is_better=True,
                kind="diversity",
            ),
        )

    @property
    def protocol(self) -> str:
        """Distance and definition."""
        return f"diversity: mean {self._name} between the pictures of one row"

    def __call__(
        self, pictures: Sequence[RgbU8], keys: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[np.ndarray]]:
        """See `Extra`; the first picture of a row carries its number."""
        counts = [np.array([np.nan]) for _ in pictures]
        for key in dict.fromkeys(keys):
            places = [place for place, other in enumerate(keys) if other == key]
            value = pairwise([pictures[place] for place in places], self._distance)
            counts[places[0]] = np.array([value])
        return {"diversity": counts}


def _or_nan(
    distance: Callable[[np.ndarray, np.ndarray], float], real_ND: np.ndarray, fake_ND: np.ndarray
) -> float:
    """A distance of sets that are large enough to have one."""
    return distance(real_ND, fake_ND) if min(len(real_ND), len(fake_ND)) > 1 else float("nan")
