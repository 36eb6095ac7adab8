"""What a run says: on screen, and as lines of JSON, pictures, TensorBoard or W&B."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import accelerate
import cv2
import numpy as np

from schemas.documents import as_record, parse_json
from schemas.errors import ConfigError
from schemas.files import read_plain, replacing, write_text, writing
from schemas.pixels import RgbU8
from schemas.printable import say
from schemas.terminal import Progress

METRICS, PROBES, SAMPLES = "metrics.jsonl", "probe.jsonl", "samples"


class Journal:
    """Written by the main process alone.

    Args:
        folder: of the run.
        accelerator: whose trackers get the same numbers.
    """

    def __init__(self, folder: Path, accelerator: accelerate.Accelerator) -> None:
        self._folder, self._accelerator = folder, accelerator

    def forget_after(self, step: int) -> list[str]:
        """Drop lines of steps that will be done again, and what is damaged.

        Returns:
            What is to be said of damaged lines.
        """
        said = []
        for name in (METRICS, PROBES):
            path = self._folder / name
            found = read_journal(path)
            said += found.told
            kept = [line for line in found.lines if line["step"] <= step]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        return said

    def metrics(self, values: Mapping[str, Any]) -> None:
        """One line of `metrics.jsonl`; `step` is one of the values."""
        self._append(METRICS, values)
        self._track("train", values)

    def probe(self, values: Mapping[str, Any], pictures: Sequence[RgbU8]) -> None:
        """One line of `probe.jsonl`, and the sampled pictures side by side as a PNG."""
        self._append(PROBES, values)
        self._track("probe", values)
        place = self._folder / SAMPLES
        with writing(place):
            place.mkdir(exist_ok=True)
        write_png(place / f"step-{values['step']:08d}.png", np.concatenate(pictures, axis=1))

    def _append(self, name: str, values: Mapping[str, Any]) -> None:
        with writing(self._folder / name), (self._folder / name).open("a") as file:
            file.write(json.dumps(_plain(values), allow_nan=False) + "\n")

    def _track(self, group: str, values: Mapping[str, Any]) -> None:
        numbers: dict[str, float] = {}
        for name, value in values.items():
            if isinstance(value, list | tuple):
                numbers |= {f"{group}/{name}/{n}": number for n, number in enumerate(value)}
            elif isinstance(value, int | float) and name != "step":
                numbers[f"{group}/{name}"] = value
        self._accelerator.log(numbers, step=values["step"])


class MetricLine(TypedDict):
    """A line of `metrics.jsonl`."""

    step: int
    loss: float
    epoch: NotRequired[int]
    grad_norm: NotRequired[float | None]  # None: not finite, a step that a scaler left out
    learning_rate: NotRequired[float]
    samples_per_s: NotRequired[float]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProbeReading:
    """What a probe saw; plain numbers, one line of `probe.jsonl`."""

    step: int
    loss_bins: tuple[float, ...]  # with the true condition, by timestep
    shuffled_bins: tuple[float, ...] = ()  # with the next row's condition; not in old lines
    gain: float  # mean of shuffled minus true: > 0 where the condition helps
    zero_norms: tuple[float, ...]  # root mean square weight of each zero convolution
    # residual / skip, root mean squares, at the middle of the schedule; not in old lines
    ratios: tuple[float, ...] = ()
    adherence: float | None  # of samples to their own map; None: without a judge, or not measured
    shuffled: float | None  # of samples to the next row's map


_KINDS: dict[str, Any] = {METRICS: MetricLine, PROBES: ProbeReading}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """What a journal says, and what of it cannot be read."""

    lines: list[dict[str, Any]]
    told: list[str]  # one sentence for a file with damaged lines


def read_journal(path: Path) -> Lines:
    """Lines of `metrics.jsonl` or `probe.jsonl`.

    A last line that was cut by a kill is passed over; any other line that is not one of ours is
    passed over and named.

    Raises:
        ConfigError: there is a file, but it cannot be read.
    """
    try:
        texts = read_plain(path).split(b"\n") if path.exists() else []
    except OSError as error:
        raise ConfigError(f"{path}: need a file that can be read, got {error}") from error
    lines: list[dict[str, Any]] = []
    damaged = []
    for number, text in enumerate(texts, start=1):
        if not text:
            continue
        where = f"{path}: line {number}"
        try:
            line: dict[str, Any] = parse_json(text, dict, where=where)
            as_record(line, _KINDS[path.name], where=where)  # checks; the line stays as it is
            lines.append(line)
        except ConfigError:
            if number < len(texts):  # the last one has no newline: it was being written
                damaged.append(number)
    if not damaged:
        return Lines(lines=lines, told=[])
    some = ", ".join(map(str, damaged[:5])) + (", …" if len(damaged) > 5 else "")
    told = f"{path}: {len(damaged)} of {len(texts) - 1} lines are damaged and left out ({some})"
    return Lines(lines=lines, told=[told])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """As `read_journal`, where damaged lines were told already."""
    return read_journal(path).lines


def write_png(path: Path, rgb: RgbU8) -> None:
    """Write an RGB picture, atomically."""
    _, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    with replacing(path, durable=False) as temporary:
        temporary.write_bytes(data.tobytes())  # `imwrite` says nothing of a full disk


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it: what is not finite is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


class Display:
    """Shows steps, loss, speed and obedience; only the main process shows anything.

    Args:
        steps: of the whole run.
        done: of an earlier run.
        visible: False shows nothing.
    """

    def __init__(self, steps: int, *, done: int, visible: bool) -> None:
        self._visible, self._steps = visible, steps
        self._obedience, self._is_first = "", True
        self._progress = Progress(
            "training", "status", total=steps, completed=done, visible=visible
        )

    def __enter__(self) -> "Display":
        self._progress.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._progress.__exit__(*raised)

    def step(self, step: int, *, loss: float, samples_per_s: float) -> None:
        """Show where the run stands.

        Args:
            step: optimizer steps done.
            loss: mean since the last call.
            samples_per_s: of all devices.
        """
        status = f"loss {loss:.4f}  {samples_per_s:.3g} samples/s{self._obedience}"
        line = f"step {step}/{self._steps}  {status}"
        # The first line tells that it runs, and how fast; the last one how it ended.
        at_once = self._is_first or step == self._steps
        self._is_first = False
        self._progress.show(line, at_once=at_once, completed=step, status=status)

    def probed(self, adherence: float | None, gain: float) -> None:
        """Show what a probe saw, from now on."""
        seen = f"gain {gain:.4f}" if adherence is None else f"adherence {adherence:.2f}"
        self._obedience = f"  {seen}"

    def say(self, line: str) -> None:
        """One line that stays."""
        if self._visible:
            say(line, error=True)
