"""Which conditions exist: ours and third parties', found through one entry-point group."""

from importlib.metadata import entry_points
from typing import Any

from annotators.canny import CannySpec
from annotators.protocol import Spec, parameters
from schemas.errors import ConfigError

# Names of the design that no release has yet; asking for one is a clear error, not a typo.
PLANNED = frozenset({"depth", "pose", "hed"})


def spec_of(condition: str, *, canny_thresholds: str, seed: int) -> Spec:
    """The spec of a condition.

    Raises:
        ConfigError: nobody provides this condition.
    """
    if condition == CannySpec.name:
        return CannySpec.parse(canny_thresholds, seed=seed)
    for entry in entry_points(group="controlset.annotators", name=condition):
        return entry.load()()
    if condition in PLANNED:
        raise ConfigError(f"--conditions {condition}: not available yet; available: canny")
    raise ConfigError(f"--conditions {condition}: no such annotator; available: canny")


def record_of(spec: Spec) -> dict[str, Any]:
    """What footer and manifest say of an annotator; JSON-able, tuples as lists."""
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in parameters(spec).items()
    }
    return {
        "revision": spec.revision,
        "parameters": values,
        "hint_mode": spec.hint_mode,
        "hint_range": [0, 1],
        "color_order": "RGB" if spec.hint_mode == "rgb" else None,
        "stats": dict(spec.stats),
        "weights": None,
        "licence": spec.licence,
    }
