"""Measure what an image takes, by generating small data sets and solving for their parts."""

import dataclasses
import datetime
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.optimize import nnls

from pipeline.config import GenerateConfig
from pipeline.generate import generate, list_here, resolve
from pipeline.job import BATCH_IMAGES
from pipeline.plan import Packer
from pipeline.progress import PROGRESS
from pipeline.scale.cost import CAPTION, Figures
from schemas.errors import ConfigError, NothingKept
from schemas.machine import processor
from schemas.manifest import MANIFEST_NAME, Manifest

CHEAP = ("canny", "grey")
"""Always measured: each alone and both together tell what an image takes without any map."""

_LONG_ENOUGH_S = 5.0
_GROWTH = 4

OnRun = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One small run."""

    parts: tuple[str, ...]
    seconds: float
    """Of this machine an image, from the first one read to the last commit."""

    images: int


def measure(
    config: GenerateConfig, *, images: int = 32, on_run: OnRun = lambda _done, _of: None
) -> Figures:
    """Generate samples with few parts and with all of them, and fit seconds and bytes to each part.

    A run of less than 5 s is repeated on four times the images. Loading and imports do not count.

    Args:
        config: source, conditions and whatever shapes the work; the output is not touched.
        images: of the source, for a run; more, so that every core gets equally many batches.
        on_run: called with (runs done, runs planned).

    Returns:
        Seconds of a core: of the machine, times its cores. So what a part leaves idle is its cost.

    Raises:
        ConfigError: as `generate` would, or no picture of the source could be used.
    """
    parts = _parts(config)
    runs = _runs(parts)
    images = whole_rounds(images, config.workers)
    with tempfile.TemporaryDirectory(prefix="controlset-scale-") as folder:
        config = dataclasses.replace(config, output=f"{folder}/set")
        device = resolve(config).runtime.device
        _long_run(config, CHEAP, images)  # the first one is slower
        trials: list[Trial] = []
        for run in runs:
            trials.append(_long_run(config, run, images))
            on_run(len(trials), len(runs))
        stored = _stored_bytes(Path(config.output), parts)
    seconds, error = _fitted(trials, parts)
    # A mean over a thousand: listing alone, so all of them cost little.
    source_bytes, reference_bytes = _bytes_of_source(dataclasses.replace(config, limit=1000))
    return Figures(
        machine=_machine(config.workers, device),
        measured_on=datetime.datetime.now(datetime.UTC).date().isoformat(),
        source=config.source,
        images=max(trial.images for trial in trials),
        resolution=config.resolution,
        vcpus=config.workers,
        gpus=int(device != "cpu"),
        base_seconds=seconds[0] * config.workers,
        seconds={p: s * config.workers for p, s in zip(parts, seconds[1:], strict=True)},
        base_bytes=stored[""],
        stored_bytes={part: stored[part] for part in parts},
        source_bytes=source_bytes,
        reference_bytes=reference_bytes,
        largest_error=error,
    )


def whole_rounds(images: int, cores: int) -> int:
    """At least so many images, and as many batches for one core as for another.

    Three batches on two cores take as long as four: 24 images cost 1.4 times what 48 do (measured).
    """
    round_images = BATCH_IMAGES * cores
    return math.ceil(images / round_images) * round_images


def _parts(config: GenerateConfig) -> tuple[str, ...]:
    """What is measured, the cheap ones first."""
    captions = (CAPTION,) if config.captioner else ()
    wanted = (*CHEAP, *config.conditions, *captions)
    return tuple(dict.fromkeys(wanted))


def _runs(parts: Sequence[str]) -> list[tuple[str, ...]]:
    """Parts of each run; the last one has all."""
    few = [("canny",), ("grey",), CHEAP, *(("grey", part) for part in parts[len(CHEAP) :])]
    return few if len(parts) == len(CHEAP) else [*few, tuple(parts)]


def _long_run(config: GenerateConfig, parts: tuple[str, ...], images: int) -> Trial:
    """A run that is long enough to be measured, or on all there is."""
    while True:
        run = dataclasses.replace(
            config,
            conditions=tuple(part for part in parts if part != CAPTION),
            caption=config.caption if CAPTION in parts else "none",
            limit=images,
            overwrite=os.path.exists(config.output),
        )
        try:
            generate(run)
        except NothingKept as error:
            raise ConfigError(
                f"{config.source}: need pictures to measure with, but all {PROGRESS.rejected} were "
                "rejected; `controlset generate` would say why"
            ) from error
        done, seconds = PROGRESS.kept + PROGRESS.rejected, PROGRESS.work_seconds
        if seconds >= _LONG_ENOUGH_S or done < images:
            return Trial(parts=parts, seconds=seconds / done, images=done)
        images *= _GROWTH


def _fitted(trials: Sequence[Trial], parts: Sequence[str]) -> tuple[np.ndarray, float]:
    """Seconds of the base and of each part, none negative, and the largest relative error."""
    rows = np.array([[1.0, *(part in trial.parts for part in parts)] for trial in trials])
    measured = np.array([trial.seconds for trial in trials])
    # Relative errors are made small; else the slowest run alone would count.
    seconds, _ = nnls(rows / measured[:, None], np.ones(len(trials)))
    return seconds, float(np.abs(rows @ seconds / measured - 1).max())


def _stored_bytes(output: Path, parts: Sequence[str]) -> Mapping[str, float]:
    """Stored bytes a row of each part, "" for the rest: headers, footers, rejects."""
    rows = Manifest.from_json((output / MANIFEST_NAME).read_text(), where=str(output)).rows
    found = dict.fromkeys(("", *parts), 0)
    files = sorted(output.rglob("*.parquet"))
    for name, size in _columns(files):
        found[_part_of(name, parts)] += size
    found[""] += sum(path.stat().st_size for path in files) - sum(found.values())
    return {part: size / rows for part, size in found.items()}


def _columns(files: Sequence[Path]) -> Iterator[tuple[str, int]]:
    """Name of the top-level column, compressed bytes."""
    for path in files:
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                yield column.path_in_schema.split(".")[0], column.total_compressed_size


def _part_of(column: str, parts: Sequence[str]) -> str:
    """The part that a column belongs to: `canny` and `canny_low` to canny."""
    if column == "text" and CAPTION in parts:
        return CAPTION
    fitting = [part for part in parts if column == part or column.startswith(f"{part}_")]
    return max(fitting, key=len, default="")


def _bytes_of_source(config: GenerateConfig) -> tuple[float, float]:
    """Mean bytes of an image's file or range, and of its packed reference."""
    job = resolve(config)
    packer = Packer(job.source.root)
    sizes: list[int] = []
    packed: list[int] = []
    for ref in list_here(job):
        packed.append(len(packer.pack(ref)))
        if ref.place.expected_bytes is not None and ref.row is None:
            sizes.append(ref.place.expected_bytes)
    return float(np.mean(sizes)) if sizes else 0.0, float(np.mean(packed))


def _machine(cores: int, device: str) -> str:
    """Processor, cores used, GPU."""
    text = f"{processor()}, {cores} cores"
    if not device.startswith("cuda"):
        return text if device == "cpu" else f"{text}, {device}"
    import torch

    return f"{text}, {torch.cuda.get_device_name(device)}"
