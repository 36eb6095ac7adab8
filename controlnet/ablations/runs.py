"""Training and looking at every variant; what is there already is not made again.

OUTPUT/ablation-config.json       what the table depends on
OUTPUT/runs/VARIANT-SEED/         the trainer's run; its checkpoints go when they were looked at
OUTPUT/looks/VARIANT-SEED-STEP.npz    samples of one look; `base.npz` those of the untouched base
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from controlnet.ablations.bench import Bench, Samples
from controlnet.ablations.config import AblationConfig
from controlnet.ablations.variants import VARIANTS, Variant
from controlnet.architecture.control import ControlNet
from controlnet.trainer.checkpoint import WEIGHTS
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.log import METRICS, read_lines
from controlnet.trainer.run_folder import CONFIG_NAME, CONTROL_DIR
from controlnet.trainer.train import train
from schemas.documents import read_checked, with_digest
from schemas.errors import ConfigError
from schemas.files import clear_temporary, replacing, write_json

_CONFIG, _BASE = "ablation-config.json", "base"
COSTS = "costs.json"  # of a run: trainable parameters and seconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """`costs.json`."""

    parameters: int
    seconds: float


Tell = Callable[[str], None]


def claim_table(config: AblationConfig) -> None:
    """Refuse a folder that holds something else or another table.

    Raises:
        ConfigError: so it is.
    """
    folder = Path(config.output)
    path = folder / _CONFIG
    if path.is_file():
        before: dict[str, Any] = read_checked(path, dict, advice="take another --output")
        changed = [
            f"{name} {before.get(name)!r} -> {one!r}"
            for name, one in config.identity().items()
            if before.get(name) != one
        ]
        if changed:
            raise ConfigError(
                f"{folder}: need the options that the table was started with, got "
                f"{'; '.join(changed)}; use those, or another --output"
            )
        return
    clear_temporary(folder)
    if any(folder.iterdir()):
        raise ConfigError(
            f"{folder}: need an empty folder or an unfinished table, got something else; "
            "take another --output"
        )
    write_json(path, with_digest(config.identity()))


def make_all(config: AblationConfig, bench: Bench, *, base: str, tell: Tell) -> int | None:
    """Train and sample whatever is missing.

    Args:
        config: of the table.
        bench: what is asked for.
        base: folder of the base.
        tell: shows a line.

    Returns:
        The signal that stopped it; None: everything is there.
    """
    folder = Path(config.output)
    (folder / "looks").mkdir(exist_ok=True)
    if not look_path(config, _BASE).is_file():
        tell("samples of the base without control")
        _save(look_path(config, _BASE), {"real": bench.real(), "free": bench.before()})
    jobs = [(variant, seed) for seed in range(config.seeds) for variant in VARIANTS]
    for number, (variant, seed) in enumerate(jobs, start=1):
        title = f"[{number}/{len(jobs)}] {variant.label}, seed {seed}"
        missing = [
            step
            for step in config.looks
            if not look_path(config, variant.name, seed, step).is_file()
        ]
        if not missing:
            tell(f"{title}: is there already")
            continue
        stopped_by = _train(config, variant, seed, base, lambda text, t=title: tell(f"{t}: {text}"))
        if stopped_by is not None:
            return stopped_by
        for step in missing:
            tell(f"{title}: samples after step {step} of {config.steps}")
            control = at_step(config, variant, seed, base, bench, step)
            samples = dataclasses.asdict(bench.look(variant, control))
            _save(
                look_path(config, variant.name, seed, step),
                {name: one for name, one in samples.items() if one is not None},
            )
        shutil.rmtree(run_folder(config, variant.name, seed) / "checkpoints")
    return None


def at_step(
    config: AblationConfig, variant: Variant, seed: int, base: str, bench: Bench, step: int
) -> ControlNet:
    """A variant's network as it was after a step."""
    run = run_folder(config, variant.name, seed)
    control = variant.method.build(training_of(config, variant, seed, base), bench.base)
    control.to(bench.device)
    control.to(memory_format=torch.channels_last)
    if step:
        folder = run / "checkpoints" / f"step-{step:08d}" / CONTROL_DIR
        control.load_state_dict(load_file(folder / WEIGHTS))
    return control


def training_of(config: AblationConfig, variant: Variant, seed: int, base: str) -> TrainConfig:
    """The configuration of one run, not resumed."""
    output = str(run_folder(config, variant.name, seed))
    return dataclasses.replace(
        config.training(base=base, output=output, seed=seed), **variant.changes
    )


def run_folder(config: AblationConfig, variant: str, seed: int) -> Path:
    """Where a variant is trained."""
    return Path(config.output) / "runs" / f"{variant}-{seed}"


def look_path(config: AblationConfig, variant: str, seed: int = 0, step: int | None = None) -> Path:
    """Where samples of one look lie; without a step, those of the base."""
    name = variant if step is None else f"{variant}-{seed}-{step:08d}"
    return Path(config.output) / "looks" / f"{name}.npz"


def load_look(config: AblationConfig, variant: str, seed: int, step: int) -> Samples:
    """Samples of one look."""
    with np.load(look_path(config, variant, seed, step)) as file:
        free = file["free"] if "free" in file.files else None
        return Samples(prompted=file["prompted"], empty=file["empty"], free=free)


def load_base_look(config: AblationConfig) -> tuple[np.ndarray, np.ndarray]:
    """The rows' own pictures through the VAE, and the untouched base's samples without control."""
    with np.load(look_path(config, _BASE)) as file:
        return file["real"], file["free"]


def costs_of(config: AblationConfig, variant: str, seed: int) -> dict[str, Any]:
    """Trainable parameters, and seconds of training steps at the speed that was reached."""
    costs = read_checked(run_folder(config, variant, seed) / COSTS, Costs)
    return dataclasses.asdict(costs)


def losses_of(config: AblationConfig, variant: str, seed: int) -> dict[int, float]:
    """Training losses by step, each the mean since the one before."""
    lines = read_lines(run_folder(config, variant, seed) / METRICS)
    return {line["step"]: line["loss"] for line in lines}


def _train(
    config: AblationConfig, variant: Variant, seed: int, base: str, tell: Tell
) -> int | None:
    """Train a variant, or go on; keeps a checkpoint for every look."""
    folder = run_folder(config, variant.name, seed)
    if (folder / COSTS).is_file() and (folder / "checkpoints").is_dir():
        return None  # only samples are missing
    tell("training")
    training = training_of(config, variant, seed, base)
    going_on = (folder / CONFIG_NAME).is_file()
    outcome = train(dataclasses.replace(training, resume=going_on), method=variant.method)
    if outcome.stopped_by is None:
        weights = load_file(folder / CONTROL_DIR / WEIGHTS)
        speed = read_lines(folder / METRICS)[-1]["samples_per_s"]
        costs = {
            "parameters": sum(one.numel() for one in weights.values()),
            "seconds": config.steps * config.batch_size / speed,
        }
        write_json(folder / COSTS, with_digest(costs))
    return outcome.stopped_by


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
