"""From pictures to contributions: judge, compare, and measure the rest, a few at a time."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from controlnet.evaluator.examples import Row, Rows
from controlnet.evaluator.extras import Extra
from controlnet.evaluator.judge import Eye
from controlnet.evaluator.metrics.base import Scorer, Seen
from controlnet.evaluator.samples import Gallery
from controlnet.evaluator.score_table import Scored
from schemas.pixels import RgbU8

_AT_ONCE = 16


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Who judges what."""

    rows: Rows
    eye: Eye
    scorer: Scorer
    extras: Sequence[Extra]
    partners: Sequence[int | None]
    on_picture: Callable[[], None]

    def score(
        self, row_name: str, cell: str, gallery: Gallery, samples: int, *, shuffled: bool
    ) -> list[Scored]:
        """Score all pictures of a gallery.

        Args:
            row_name: ceiling, model or floor.
            cell: name of the network with its setting.
            gallery: its pictures.
            samples: for each row.
            shuffled: score them against other rows' maps, too.

        Returns:
            The row, and `shuffled` where it was asked for.
        """
        own, others = _Sheet(), _Sheet()
        for places in self._chunks(samples):
            chunk = [self.rows.rows[place] for place in places]
            numbers = [number for _ in places for number in range(samples)]
            each = [row for row in chunk for _ in range(samples)]
            keys = [row.key for row in each]
            pictures = [gallery.read(row.key, n) for row, n in zip(each, numbers, strict=True)]
            seen = self.eye.look(pictures, keys)
            own.add(keys, numbers, self._compared(seen, each))
            for extra in self.extras:
                own.extend(extra(pictures, keys, [row.text for row in each]))
            if shuffled:
                self._shuffle(others, places, samples, pictures, seen)
            for _ in pictures:
                self.on_picture()
        scored = [own.scored(row_name, cell)]
        return [*scored, others.scored("shuffled", cell)] if shuffled and others.keys else scored

    def wanted_of(self, rows: Sequence[Row]) -> list[Seen]:
        """The maps that pictures of these rows should obey."""
        if not self.eye.from_pictures:
            return [row.wanted for row in rows]
        seen = self.eye.look([row.image for row in rows], [row.key for row in rows])
        assert None not in seen, "an extractor of edges always sees a map"
        return [one for one in seen if one is not None]

    def _shuffle(
        self,
        sheet: "_Sheet",
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
        if self.eye.by_key:
            again = [pictures[at] for at, _, _, _ in pairs]
            found = self.eye.look(again, [other.key for other in partners])
        keys = [row.key for _, row, _, _ in pairs]
        sheet.add(keys, [number for *_, number in pairs], self._compared(found, partners))

    def _compared(
        self, found: Sequence[Seen | None], rows: Sequence[Row]
    ) -> dict[str, list[np.ndarray]]:
        wanted = self.wanted_of(rows)
        compared = [self.scorer(*pair) for pair in zip(found, wanted, strict=True)]
        return {one.name: [each[one.name] for each in compared] for one in self.scorer.measures}

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


class _Sheet:
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

    def scored(self, row: str, cell: str) -> Scored:
        return Scored(
            row=row,
            cell=cell,
            keys=tuple(self.keys),
            numbers=tuple(self.numbers),
            counts=self.counts,
        )
