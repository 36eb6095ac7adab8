"""A finding before its examples are looked up."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.inspection.examples import EXAMPLES, Wish
from pipeline.inspection.records import Flag, Member, Severity

AGAIN = "then run controlset generate again"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A flag whose examples are still row numbers."""

    name: str
    severity: Severity
    title: str
    count: int
    of: int
    meaning: str
    advice: str
    threshold: float | None = None
    wishes: Sequence[Wish] = ()
    about_text: bool = False

    def flag(self, members: Mapping[Wish, Member]) -> Flag:
        """The flag, once its examples were looked up."""
        return Flag(
            name=self.name,
            severity=self.severity,
            title=self.title,
            count=self.count,
            of=self.of,
            meaning=self.meaning,
            advice=self.advice,
            threshold=self.threshold,
            examples=[members[wish] for wish in self.wishes],
            about_text=self.about_text,
        )


def wishes_for(rows: Sequence[int] | np.ndarray, condition: str | None = None) -> list[Wish]:
    """The first few rows, to be shown with their map of a condition if one is named."""
    return [Wish(row=int(row), condition=condition) for row in rows[:EXAMPLES]]
