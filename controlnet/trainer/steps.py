"""One optimizer step after the other, and the refusal to go on from a broken one."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from controlnet.trainer import checkpoint
from controlnet.trainer.batch import Batch
from controlnet.trainer.learner import inputs_of, losses
from controlnet.trainer.optimizers import learning_rate
from controlnet.trainer.setup import Run
from schemas.errors import ConfigError


@dataclasses.dataclass(slots=True)
class Place:
    """Where in the data a run stands."""

    step: int = 0  # optimizer steps done
    epoch: int = 0
    batch: int = 0  # done in this epoch


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one optimizer step gave; tensors stay on the device until they are read."""

    number: int
    losses: list[Tensor]  # (B,) of each of its batches
    keys: list[list[str]]
    norm: Tensor  # of all gradients together, before clipping


def batches_from(run: Run, place: Place) -> Iterator[Batch]:
    """All batches from where a run stands, epoch after epoch."""
    epoch, start = place.epoch, place.batch
    while True:
        yield from run.loader.iterate(epoch, start)
        epoch, start = epoch + 1, 0


def optimize(run: Run, place: Place, batches: Iterator[Batch]) -> Step:
    """One optimizer step over `accumulation` batches; moves the place on.

    Args:
        run: its parts.
        place: changed.
        batches: from `batches_from`.
    """
    config = run.config
    rate = learning_rate(place.step, config)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    seen: list[Tensor] = []
    keys: list[list[str]] = []
    for number in range(config.accumulation):
        batch = next(batches)
        inputs = inputs_of(
            batch,
            run.texts(batch.texts),
            run.base,
            device=run.accelerator.device,
            channels_last=config.channels_last,
            noise_offset=config.noise_offset,
        )
        last = number == config.accumulation - 1
        with contextlib.nullcontext() if last else run.accelerator.no_sync(run.learner):
            loss_B = losses(run.learner, inputs)
            run.accelerator.backward(loss_B.mean() / config.accumulation)
        seen.append(loss_B.detach())
        keys.append(batch.keys)
        place.epoch, place.batch = batch.epoch, batch.index + 1
    norm = run.accelerator.clip_grad_norm_(
        run.control.parameters(), config.clip if config.clip > 0 else math.inf
    )
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    if run.average is not None:
        run.average.update(place.step)
    place.step += 1
    return Step(number=place.step, losses=seen, keys=keys, norm=norm)


def refuse_nan(run: Run, steps: Sequence[Step]) -> None:
    """Stop before a broken weight is stored.

    Args:
        run: whose checkpoints stay.
        steps: that nobody has looked at yet; a GPU is waited for.

    Raises:
        ConfigError: a loss or a gradient is not finite; names the rows of its batch.
    """
    for step in steps:
        for loss_B, keys in zip(step.losses, step.keys, strict=True):
            pairs = zip(keys, loss_B.tolist(), strict=True)
            bad = [key for key, loss in pairs if not math.isfinite(loss)]
            if bad:
                raise _broken(run, step.number, f"loss is not finite for {', '.join(bad)}")
        scaled = run.config.precision == "fp16"  # its scaler skips such steps by itself
        if not scaled and not math.isfinite(step.norm.item()):
            rows = ", ".join(key for keys in step.keys for key in keys)
            raise _broken(run, step.number, f"gradient is not finite in the batch {rows}")


def _broken(run: Run, step: int, what: str) -> ConfigError:
    kept = checkpoint.last_checkpoint(run.folder)
    stays = f"{kept} is whole" if kept else "no checkpoint was written yet"
    return ConfigError(
        f"{run.folder}: step {step}: {what}; {stays}: look at these rows, then --resume with "
        "--exclude-keys FILE (one key a line) or a lower --learning-rate"
    )
