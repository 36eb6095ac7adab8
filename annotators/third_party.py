"""Annotators of other packages: found through an entry-point group, held to the protocol."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args

from annotators.protocol import HintMode
from schemas.errors import ConfigError

GROUP = "controlset.annotators"

_ATTRIBUTES = ("name", "revision", "hint_mode", "stats", "licence", "load")


def installed() -> dict[str, EntryPoint]:
    """Condition -> entry point, of every package that is installed; ours is one of them."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def imported(entry: EntryPoint) -> Any:
    """The `Spec` class that an entry point names.

    Raises:
        ConfigError: it cannot be imported, or is no annotator's.
    """
    where = f"{entry.name} ({entry.value})"
    try:
        kind = entry.load()
    except Exception as error:  # another package's code: whatever stops its import
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(
            f"{where}: need an annotator that can be imported, got {reason}; repair its package"
        ) from error
    absent = [name for name in _ATTRIBUTES if not hasattr(kind, name)]
    if absent:
        raise ConfigError(
            f"{where}: need {', '.join(_ATTRIBUTES)} of an annotator, got none of "
            f"{', '.join(absent)}; see docs/own-annotator.md"
        )
    if kind.name != entry.name:
        raise ConfigError(
            f"{where}: need the name of its entry point, got name = {kind.name!r}; make them equal"
        )
    if kind.hint_mode not in get_args(HintMode):
        raise ConfigError(
            f"{where}: need hint_mode {', '.join(get_args(HintMode))}, got {kind.hint_mode!r}"
        )
    return kind
