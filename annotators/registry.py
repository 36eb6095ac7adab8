"""Which conditions exist: ours and third parties', found through one entry-point group."""

from collections.abc import Mapping
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


def spec_from_record(condition: str, record: Mapping[str, Any]) -> Spec:
    """The spec that a manifest's record was made from: the inverse of `record_of`.

    Raises:
        ConfigError: nobody provides this condition, or only at another revision.
    """
    if condition == CannySpec.name:
        kind: Any = CannySpec
    else:
        entries = list(entry_points(group="controlset.annotators", name=condition))
        if not entries:
            raise ConfigError(f"{condition}: need its annotator to be installed, found none")
        kind = entries[0].load()
    if kind.revision != record["revision"]:
        raise ConfigError(
            f"{condition}: need revision {record['revision']} of the annotator, "
            f"got {kind.revision}; use the release that made the data set"
        )
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record["parameters"].items()
    }
    return kind(**values)


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
