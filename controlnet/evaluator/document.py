"""The result of an evaluation as a document: what the report and other programs read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controlnet.evaluator.claim import RESULT
from controlnet.evaluator.metrics.base import Measure
from controlnet.evaluator.score_table import Scored
from schemas.documents import with_digest
from schemas.writing import write_json

VERSION = 1
_FIRST, _EACH = 12, 4


def write_document(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write `evaluation.json`, whole or not at all, with a hash of what it says."""
    stamped = {"format": "controlset-evaluation", "version": VERSION, **document}
    write_json(folder / RESULT, with_digest(stamped))
    return folder / RESULT


def measure_records(measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """What the document says about measures; the headline first."""
    names = ("name", "label", "unit", "higher_is_better", "kind")
    return [{name: getattr(one, name) for name in names} for one in measures]


def chosen_places(model: Scored, headline: Measure) -> dict[int, str]:
    """Which pictures are shown, and why: the first by key, the best, the middle and the worst.

    Args:
        model: of the first run.
        headline: what is ranked by.

    Returns:
        Place of a picture among the run's -> why, in the order of the places.
    """
    scores = np.array(model.of_pictures(headline))
    ranked = np.argsort(scores if headline.higher_is_better else -scores, kind="stable")
    ranked = ranked[~np.isnan(scores[ranked])]
    firsts = [place for place, number in enumerate(model.numbers) if number == 0]
    middle = max(0, (len(ranked) - _EACH) // 2)
    chosen = {int(place): "first" for place in firsts[:_FIRST]}
    chosen |= {int(place): "median" for place in ranked[middle : middle + _EACH]}
    chosen |= {int(place): "worst" for place in ranked[:_EACH]}
    chosen |= {int(place): "best" for place in ranked[-_EACH:]}
    return dict(sorted(chosen.items()))
