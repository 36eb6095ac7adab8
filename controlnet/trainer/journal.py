"""What a run leaves behind: metrics and probes as lines of JSON, pictures, TensorBoard or W&B."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import accelerate
import cv2
import numpy as np

from schemas.pixels import RgbU8

METRICS, PROBES, SAMPLES = "metrics.jsonl", "probe.jsonl", "samples"


class Journal:
    """Written by the main process alone.

    Args:
        folder: of the run.
        accelerator: whose trackers get the same numbers.
    """

    def __init__(self, folder: Path, accelerator: accelerate.Accelerator) -> None:
        self._folder, self._accelerator = folder, accelerator

    def forget_after(self, step: int) -> None:
        """Drop lines of steps that will be done again."""
        for name in (METRICS, PROBES):
            path = self._folder / name
            kept = [line for line in read_lines(path) if line["step"] <= step]
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            os.replace(temporary, path)

    def metrics(self, values: Mapping[str, Any]) -> None:
        """One line of `metrics.jsonl`; `step` is one of the values."""
        self._append(METRICS, values)
        self._track("train", values)

    def probe(self, values: Mapping[str, Any], pictures: Sequence[RgbU8]) -> None:
        """One line of `probe.jsonl`, and the sampled pictures side by side as a PNG."""
        self._append(PROBES, values)
        self._track("probe", values)
        place = self._folder / SAMPLES
        place.mkdir(exist_ok=True)
        write_png(place / f"step-{values['step']:08d}.png", np.concatenate(pictures, axis=1))

    def _append(self, name: str, values: Mapping[str, Any]) -> None:
        with (self._folder / name).open("a") as file:
            file.write(json.dumps(dict(values)) + "\n")

    def _track(self, group: str, values: Mapping[str, Any]) -> None:
        numbers: dict[str, float] = {}
        for name, value in values.items():
            if isinstance(value, list | tuple):
                numbers |= {f"{group}/{name}/{n}": one for n, one in enumerate(value)}
            elif isinstance(value, int | float) and name != "step":
                numbers[f"{group}/{name}"] = value
        self._accelerator.log(numbers, step=values["step"])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of JSON; a last line that was cut by a kill is passed over."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def write_png(path: Path, rgb: RgbU8) -> None:
    """Write an RGB picture, atomically."""
    temporary = path.with_suffix(".tmp.png")
    cv2.imwrite(str(temporary), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    os.replace(temporary, path)
