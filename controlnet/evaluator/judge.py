"""From pictures to contributions: annotate again, compare, and measure the rest, a few at a time.

The annotator is handed in by `controlset`, since this package never annotates.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from controlnet.evaluator.examples import JudgedRow, JudgedRows
from controlnet.evaluator.metrics.base import Extra, Scored, Scorer, Seen
from controlnet.evaluator.truth import DrawnTruth
from controlnet.trainer.probe import Judge, Map
from schemas.pixels import RgbU8

_AT_ONCE = 16

# Pictures, and keys of the rows whose maps they should obey (an annotator may draw its thresholds
# by key) -> what is seen in each; None where there is nothing (e.g. no person).
Annotate = Callable[[Sequence[RgbU8], Sequence[str]], list[Seen | None]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JudgeAnnotator:
    """An annotator as the judge of pictures."""

    record: Mapping[str, Any]  # name, revision, parameters, weights: goes into the protocol
    annotate: Annotate
    by_key: bool  # whether what it sees depends on the key
    from_pictures: bool = False  # wanted is what it sees in the real picture, not the stored map


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Judging:
    """Who judges, and what else is measured."""

    condition: str
    rows: JudgedRows
    annotator: JudgeAnnotator
    scorer: Scorer
    same_judge: bool  # whether it drew the data set's maps
    truth: DrawnTruth | None = None  # what pictures are held to instead of the maps
    extras: Sequence[Extra]
    missing: Sequence[dict[str, str]]  # measures that cannot be had here, and why


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SampleScorer:
    """Scores the pictures of one network after the other."""

    rows: JudgedRows
    annotator: JudgeAnnotator
    scorer: Scorer
    extras: Sequence[Extra]
    partners: Sequence[int | None]
    truth: DrawnTruth | None = None
    on_picture: Callable[[], None] = lambda: None

    def score(
        self,
        row_name: str,
        setting: str,
        read: Callable[[str, int], RgbU8],
        samples: int,
        *,
        shuffled: bool,
    ) -> list[Scored]:
        """Score all pictures of a setting.

        Args:
            row_name: judge, ceiling, model or floor.
            setting: name of the network with its setting.
            read: gives a picture by the key of its row and its number.
            samples: for each row.
            shuffled: score them against other rows' maps, too.

        Returns:
            The row, and `shuffled` where it was asked for.
        """
        own, others = _Contributions(), _Contributions()
        for places in self._chunks(samples):
            chunk = [self.rows.rows[place] for place in places]
            numbers = [number for _ in places for number in range(samples)]
            each = [row for row in chunk for _ in range(samples)]
            keys = [row.key for row in each]
            pictures = [read(row.key, n) for row, n in zip(each, numbers, strict=True)]
            seen = self.annotator.annotate(pictures, keys)
            own.add(keys, numbers, self._compared(seen, each))
            for extra in self.extras:
                own.extend(extra(pictures, keys, [row.text for row in each]))
            if shuffled:
                self._shuffle(others, places, samples, pictures, seen)
            for _ in pictures:
                self.on_picture()
        scored = [own.scored(row_name, setting)]
        # Where every row has a size of its own, there is nobody to compare with.
        return [*scored, others.scored("shuffled", setting)] if shuffled and others.keys else scored

    def wanted_of(self, rows: Sequence[JudgedRow]) -> list[Seen]:
        """The maps that pictures of these rows should obey."""
        if self.truth is not None:
            return [self.truth(row) for row in rows]
        if not self.annotator.from_pictures:
            return [row.wanted for row in rows]
        seen = self.annotator.annotate([row.image for row in rows], [row.key for row in rows])
        assert None not in seen, "an extractor of edges always sees a map"
        return [found for found in seen if found is not None]

    def _shuffle(
        self,
        sheet: "_Contributions",
        places: Sequence[int],
        samples: int,
        pictures: Sequence[RgbU8],
        seen: Sequence[Seen | None],
    ) -> None:
        """The same pictures against the maps of their rows' partners."""
        pairs = [
            (index * samples + number, self.rows.rows[place], self.rows.rows[other], number)
            for index, place in enumerate(places)
            for number in range(samples)
            if (other := self.partners[place]) is not None
        ]
        if not pairs:
            return
        partners = [other for _, _, other, _ in pairs]
        found = [seen[at] for at, _, _, _ in pairs]
        if self.annotator.by_key:  # as the partner's map was drawn: with its thresholds
            again = [pictures[at] for at, _, _, _ in pairs]
            found = self.annotator.annotate(again, [other.key for other in partners])
        keys = [row.key for _, row, _, _ in pairs]
        sheet.add(keys, [number for *_, number in pairs], self._compared(found, partners))

    def _compared(
        self, found: Sequence[Seen | None], rows: Sequence[JudgedRow]
    ) -> dict[str, list[np.ndarray]]:
        wanted = self.wanted_of(rows)
        compared = [self.scorer(*pair) for pair in zip(found, wanted, strict=True)]
        names = [measure.name for measure in self.scorer.measures]
        return {name: [counts[name] for counts in compared] for name in names}

    def _chunks(self, samples: int) -> Iterator[list[int]]:
        """Places of rows of one size, about `_AT_ONCE` pictures together."""
        chunk: list[int] = []
        for place, row in enumerate(self.rows.rows):
            full = len(chunk) * samples >= _AT_ONCE
            if chunk and (full or self.rows.rows[chunk[0]].size != row.size):
                yield chunk
                chunk = []
            chunk.append(place)
        if chunk:
            yield chunk


class _Contributions:
    """Contributions as they come in."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.numbers: list[int] = []
        self.counts: dict[str, list[np.ndarray]] = {}

    def add(
        self, keys: Sequence[str], numbers: Sequence[int], counts: dict[str, list[np.ndarray]]
    ) -> None:
        self.keys += keys
        self.numbers += numbers
        self.extend(counts)

    def extend(self, counts: dict[str, list[np.ndarray]]) -> None:
        for name, several in counts.items():
            self.counts.setdefault(name, []).extend(several)

    def scored(self, row: str, setting: str) -> Scored:
        return Scored(
            row=row,
            setting=setting,
            keys=tuple(self.keys),
            numbers=tuple(self.numbers),
            counts=self.counts,
        )


def judge_of_probes(condition: str, annotator: JudgeAnnotator, scorer: Scorer) -> Judge:
    """What training asks whether a picture obeys: the first measure in which higher is better.

    Args:
        condition: its name.
        annotator: of maps whose pixels are all that is compared.
        scorer: compares.
    """
    measure = next(measure for measure in scorer.measures if measure.higher_is_better)

    def score(pictures: Sequence[RgbU8], maps: Sequence[Map], keys: Sequence[str]) -> list[float]:
        found = annotator.annotate(pictures, keys)
        counts = [
            scorer(seen, Seen(pixels=wanted, stats={}))[measure.name]
            for seen, wanted in zip(found, maps, strict=True)
        ]
        return [measure.of_one(counts_K) for counts_K in counts]

    return Judge(name=f"{condition} {measure.label}", score=score)
