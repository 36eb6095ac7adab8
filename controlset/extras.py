"""Measures beside adherence that an evaluation can have here, and why it cannot have others."""

from collections.abc import Sequence

from controlnet.evaluator.extras import Extra
from controlnet.evaluator.settings import EvaluateConfig


def extras_of(config: EvaluateConfig) -> tuple[Sequence[Extra], list[dict[str, str]]]:
    return [], []
