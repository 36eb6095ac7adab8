"""What was measured: one row a variant, and all of it as JSON."""

import dataclasses
import math
from typing import Any

from controlnet.ablations.claims import Claim
from controlnet.ablations.config import AblationConfig
from controlnet.ablations.marks import Score
from controlnet.ablations.quality import PROTOCOL
from controlnet.evaluator.metrics.base import Estimate


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One variant in numbers."""

    name: str
    label: str
    parameters: int  # that are trained
    seconds: float  # of training, all seeds
    is_locked: bool
    prompted: dict[int, Score]  # by step
    empty: dict[int, Score]
    free: dict[int, Score]  # the variant's base without control
    losses: dict[int, float]  # of training, first seed, by step
    snap: int | None  # step by which half the way from floor to ceiling lasted


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Everything that was measured."""

    config: AblationConfig
    judge: str
    rows: list[Row]
    before: Score  # the untouched base without control: floor of adherence, and its quality
    real: Score  # the rows' own pictures through the VAE: ceiling
    claims: list[Claim]


def plain(table: Table) -> dict[str, Any]:
    """As JSON; no NaN in it."""
    claims = [
        {
            "text": one.text,
            "measure": one.measure,
            "difference": _numbers(one.difference),
            "verdict": one.verdict,
        }
        for one in table.claims
    ]
    rows = [
        {
            "name": row.name,
            "label": row.label,
            "trained_parameters": row.parameters,
            "training_seconds": row.seconds,
            "locked": row.is_locked,
            "control_in_by_step": row.snap,
            "training_loss": row.losses,
            "looks": [
                {
                    "step": step,
                    "prompts": _score(row.prompted[step]),
                    "empty_prompts": _score(row.empty[step]),
                    "base_without_control": _score(row.free[step]),
                }
                for step in row.prompted
            ],
        }
        for row in table.rows
    ]
    return {
        "config": dataclasses.asdict(table.config),
        "judge": table.judge,
        "quality": PROTOCOL,
        "before": _score(table.before),
        "real": _score(table.real),
        "variants": rows,
        "claims": claims,
    }


def _score(score: Score) -> dict[str, Any]:
    named = {"adherence": score.adherence, "frechet_distance": score.distance, "text": score.text}
    return {name: _numbers(one) for name, one in named.items() if one is not None}


def _numbers(one: Estimate) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in dataclasses.asdict(one).items()
    }
