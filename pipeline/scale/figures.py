"""Measured seconds and bytes an image, and the file that keeps them. Light to import."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError

_SHIPPED = Path(__file__).with_name("figures.json")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What one machine was measured to take for an image. Nothing in here is a guess."""

    machine: str
    """Processor, cores and GPU."""

    measured_on: str
    """Date, ISO 8601."""

    source: str
    """The images, and whether the networks had released or random weights."""

    images: int
    """Pictures in the largest run."""

    resolution: int
    """Side of the stored images, px."""

    vcpus: int
    """Cores that the machine has."""

    gpus: int
    """GPUs that it used, 0 or 1."""

    base_seconds: float
    """Reading, decoding, resizing, encoding and writing, seconds of one core an image."""

    seconds: Mapping[str, float]
    """Part (condition, or `caption`) -> seconds of one core an image, its map's encoding included.
    With a GPU: seconds of the machine times its cores, so that both are used alike."""

    base_bytes: float
    """Stored bytes of a row without maps and caption."""

    stored_bytes: Mapping[str, float]
    """Part -> stored bytes a row."""

    source_bytes: float
    """Bytes read for an image."""

    reference_bytes: float
    """Bytes of a packed reference, all that a shuffle carries for an image."""

    largest_error: float
    """Of the fit, over all runs: |fitted - measured| / measured."""

    def core_seconds(self, parts: Iterable[str]) -> float:
        """Seconds of one core for an image with these parts.

        Raises:
            ConfigError: one that was not measured.
        """
        return self.base_seconds + sum(self._of(part, self.seconds) for part in parts)

    def row_bytes(self, parts: Iterable[str]) -> float:
        """Stored bytes of a row with these parts.

        Raises:
            ConfigError: one that was not measured.
        """
        return self.base_bytes + sum(self._of(part, self.stored_bytes) for part in parts)

    def _of(self, part: str, figures: Mapping[str, float]) -> float:
        if part not in figures:
            raise ConfigError(
                f"{part}: need a measured part out of {', '.join(sorted(figures))}; measure it "
                "with `controlset scale --measure FOLDER`"
            )
        return figures[part]

    def to_json(self) -> str:
        """The file's text; `read` is the inverse."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def shipped() -> Figures:
    """The figures that were measured for the documentation."""
    return read(_SHIPPED)


def read(path: Path) -> Figures:
    """Figures from a file of `controlset scale --save`.

    Raises:
        ConfigError: no such file, or not such a file.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        figures = Figures(**content)
        _check_numbers(figures)
    except (OSError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"--figures {path}: need a file of `controlset scale --measure … --save FILE`, "
            f"got {error}"
        ) from None
    return figures


def _check_numbers(figures: Figures) -> None:
    """Every figure is a number, finite and not negative.

    Raises:
        ValueError: names the first that is not.
    """
    single = ("base_seconds", "base_bytes", "source_bytes", "reference_bytes", "largest_error")
    named: dict[str, Any] = {name: getattr(figures, name) for name in single}
    named |= {name: getattr(figures, name) for name in ("images", "resolution", "vcpus", "gpus")}
    for name in ("seconds", "stored_bytes"):
        named |= {f"{name}.{part}": number for part, number in getattr(figures, name).items()}
    for name, number in named.items():
        if not isinstance(number, float | int) or not 0 <= number < math.inf:
            raise ValueError(f"{name} {number!r}")
