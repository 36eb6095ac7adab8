"""The training loop: batches in, steps out; looked at, written down, and stopped without loss."""

import contextlib
import dataclasses
import math
import shutil
import signal
import threading
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from controlnet.trainer import checkpoint
from controlnet.trainer.batch import Batch
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.devices import other_processes
from controlnet.trainer.figures import draw_curves, draw_strips
from controlnet.trainer.loader import starving_sizes
from controlnet.trainer.log import PROBES, Display, Journal, read_lines
from controlnet.trainer.probe import Bounds, Judge, snap_step
from controlnet.trainer.run_folder import (
    CONTROL_DIR,
    SUMMARY_NAME,
    held_output,
    result_files,
    same_run,
    write_config,
)
from controlnet.trainer.setup import CONTROLNET, Run, prepare
from controlnet.trainer.step import Method, inputs_of, learning_rate, losses
from schemas.documents import with_digest
from schemas.errors import ConfigError
from schemas.files import machine_limits, write_json

_STOPPING = ("SIGTERM", "SIGINT", "SIGHUP")  # the last: a terminal was closed; not on Windows


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run ended."""

    step: int
    stopped_by: int | None  # the signal; None: all steps are done
    seconds: float  # of training in this process, probes included
    samples_per_s: float  # of training steps alone, all processes together
    loss: float | None  # mean of the last lines
    adherence: float | None
    bounds: Bounds | None
    snap: int | None


@dataclasses.dataclass(slots=True)
class Position:
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


class StopRequest:
    """Set by a signal while its context is open."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for name in _STOPPING:
                number = getattr(signal, name, None)
                # Who ignores a signal (`nohup`, a job in the background) goes on so.
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt  # asked a second time: not even the checkpoint is waited for
        self.signal = number


def train(
    config: TrainConfig, *, judge: Judge | None = None, method: Method = CONTROLNET
) -> Outcome:
    """Train a ControlNet.

    Args:
        config: everything.
        judge: scores samples in probes.
        method: what is trained instead of a ControlNet; a run goes on with the one that it was
            started with.

    Returns:
        How it ended. The result is in `output/controlnet`, a diffusers `ControlNetModel` folder.

    Raises:
        ConfigError: something is wrong with data, base or output; or a loss is not finite, then
            the last good checkpoint stays; or another process of several is gone.
    """
    with machine_limits(config.output), held_output(config) as found, other_processes():
        return _Loop(prepare(config, judge, method), found).go()


class _Loop:
    def __init__(self, run: Run, found: checkpoint.Found) -> None:
        self._run, self._config = run, run.config
        self._notes = [*run.notes, *_passed_over(found)]
        self._changes: list[dict[str, Any]] = []
        self._position = Position()
        self._journal = Journal(run.folder, run.accelerator)
        self._unread: list[Step] = []
        self._bounds: Bounds | None = None
        self._trained_s = 0.0  # in steps, not in probes or checkpoints
        self._trained_samples = 0
        self._loss: float | None = None
        if found.newest is not None:
            self._restore(found.newest)
        if run.is_main:
            self._start_folder()
        run.accelerator.wait_for_everyone()

    def go(self) -> Outcome:
        """Train to the last step or to a signal."""
        started_s = time.monotonic()
        config, run, position = self._config, self._run, self._position
        visible = run.is_main
        with (
            StopRequest() as stop,
            Display(config.steps, done=position.step, visible=visible) as display,
        ):
            self._tell(display)
            if run.probe is not None:
                self._bounds = run.probe.bounds()
                self._probe_if_due(display)
            batches = batches_from(run, position)
            while position.step < config.steps and not self._stops(stop):
                self._step(batches, display)
            batches.close()  # its threads end here, not when Python finds the time
            self._read(display)
            self._checkpoint()
            outcome = self._outcome(stop.signal, time.monotonic() - started_s)
            if run.is_main:
                self._publish(outcome)
        run.accelerator.end_training()
        return outcome

    def _step(self, batches: Iterator[Batch], display: Display) -> None:
        config, position = self._config, self._position
        started_s = time.monotonic()
        done = optimize(self._run, position, batches)
        self._trained_s += time.monotonic() - started_s
        self._trained_samples += (
            config.accumulation * config.batch_size * self._run.accelerator.num_processes
        )
        self._unread.append(done)
        if done.norm.device.type == "cpu":  # a GPU would wait; it is read every `log_every` steps
            refuse_nan(self._run, self._unread[-1:])
        if position.step % config.log_every == 0:
            self._read(display)
        self._probe_if_due(display)
        if position.step % config.checkpoint_every == 0 and position.step < config.steps:
            self._read(display)
            self._checkpoint()

    def _read(self, display: Display) -> None:
        """Bring losses to the host, check them, write a line."""
        if not self._unread:
            return
        refuse_nan(self._run, self._unread)
        every_loss = torch.stack(
            [loss_B.float().mean() for step in self._unread for loss_B in step.losses]
        )
        # Of all processes: the line is written by one of them, and says the same on any number.
        mean = self._run.accelerator.reduce(every_loss.mean(), reduction="mean").item()
        norms = [step.norm.item() for step in self._unread]
        speed = self._trained_samples / max(self._trained_s, 1e-9)
        self._loss = mean
        if self._run.is_main:
            self._journal.metrics(
                {
                    "step": self._position.step,
                    "epoch": self._position.epoch,
                    "loss": mean,
                    "grad_norm": sum(norms) / len(norms),
                    # of the step that was taken, not of the next one
                    "learning_rate": learning_rate(self._position.step - 1, self._config),
                    "samples_per_s": speed,
                }
            )
        display.step(self._position.step, loss=mean, samples_per_s=speed)
        self._unread.clear()

    def _probe_if_due(self, display: Display) -> None:
        run, position, config = self._run, self._position, self._config
        due = config.probe_every and (
            position.step % config.probe_every == 0 or position.step == config.steps
        )
        if not due:
            return
        probed = {line["step"] for line in read_lines(run.folder / PROBES)}  # by an earlier process
        if run.probe is not None and position.step not in probed:
            averaged = contextlib.nullcontext() if run.average is None else run.average.applied()
            with averaged:
                reading, pictures = run.probe.measure(position.step)
            self._journal.probe(dataclasses.asdict(reading), pictures)
            display.probed(reading.adherence, reading.gain)
            self._draw()
        run.accelerator.wait_for_everyone()

    def _draw(self) -> None:
        run = self._run
        assert run.probe is not None
        draw_curves(run.folder, bounds=self._bounds, snap=self._snap(), judge=run.probe.judge_name)
        draw_strips(run.folder, run.probe.maps, run.probe.real)

    def _snap(self) -> int | None:
        if self._bounds is None:
            return None
        lines = read_lines(self._run.folder / PROBES)
        return snap_step(
            [line["step"] for line in lines],
            [line["adherence"] for line in lines],
            floor=self._bounds.floor,
            ceiling=self._bounds.ceiling,
        )

    def _stops(self, stop: StopRequest) -> bool:
        """Whether to end here; several processes agree, else they would wait for each other."""
        if self._run.accelerator.num_processes == 1:
            return stop.signal is not None
        if self._position.step % self._config.log_every:
            return False  # a GPU would wait for the answer
        asked = torch.tensor(
            [1.0 if stop.signal is not None else 0.0], device=self._run.accelerator.device
        )
        return bool(self._run.accelerator.reduce(asked, reduction="sum").item() > 0)

    def _checkpoint(self) -> None:
        run = self._run
        run.accelerator.wait_for_everyone()
        if not run.is_main:
            return
        scaler = run.accelerator.scaler
        checkpoint.save_checkpoint(
            run.folder,
            run.control,
            run.optimizer,
            checkpoint.Progress(
                **dataclasses.asdict(self._position),
                identity=run.identity,
                extra={"scaler": None if scaler is None else scaler.state_dict()},
            ),
            metadata={**run.metadata, "controlset.step": str(self._position.step)},
            average=None if run.average is None else run.average.weights,
            keep_last=self._config.keep_last,
        )

    def _restore(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ConfigError: this configuration would not go on but change the run.
        """
        run = self._run
        progress = checkpoint.read_progress(folder)
        changes = same_run(progress.identity, run.identity, run.folder)
        average = checkpoint.load_checkpoint(folder, run.control, run.optimizer)
        if run.average is not None:
            run.average.restore(average)
        if run.accelerator.scaler is not None and progress.extra["scaler"]:
            run.accelerator.scaler.load_state_dict(dict(progress.extra["scaler"]))
        self._position = Position(progress.step, progress.epoch, progress.batch)
        if changes:  # told on screen, and kept in config.json
            self._changes = [{"step": progress.step, **changes}]
            each = ", ".join(f"{name} {was} -> {now}" for name, (was, now) in changes.items())
            self._notes.append(f"from here on with {each}")
        if "excluded" in changes:
            # Other rows are other batches: no row comes twice in an epoch if a new one begins.
            self._position = Position(progress.step, progress.epoch + 1, 0)
            self._notes.append(f"epoch {progress.epoch} ends early, since its batches are others")

    def _start_folder(self) -> None:
        write_config(self._config, self._run.identity, self._changes)
        self._notes += self._journal.forget_after(self._position.step)
        if self._config.tracker != "none":
            self._run.accelerator.init_trackers("controlset")

    def _tell(self, display: Display) -> None:
        run, index = self._run, self._run.loader.index
        plan = run.loader.plan(self._position.epoch)
        display.say(
            f"{len(index)} rows of {index.path} ({index.condition}), {len(plan)} batches of "
            f"{run.loader.batch_size} an epoch; {run.accelerator.device}, "
            f"{run.accelerator.num_processes} process(es), {run.identity['precision']}"
        )
        skipped = {"no map": index.null_maps, "no latents": index.null_latents}
        skipped["did not fill a batch"] = plan.dropped
        told = ", ".join(f"{count} {why}" for why, count in skipped.items() if count)
        if told:
            display.say(f"rows left out in epoch {self._position.epoch}: {told}")
        few = starving_sizes(index, run.loader.batch_size)
        if few:
            each = ", ".join(f"{rows} of {w}x{h} px" for (w, h), rows in few.items())
            display.say(
                f"sizes with fewer rows than the {run.loader.batch_size} of a batch, whose batches "
                f"fill up over several epochs: {each}"
            )
        for note in [*self._notes, *_short_of_room(run)]:
            display.say(note)
        if self._position.step:
            display.say(f"going on after step {self._position.step}")

    def _outcome(self, stopped_by: int | None, seconds: float) -> Outcome:
        lines = read_lines(self._run.folder / PROBES)
        return Outcome(
            step=self._position.step,
            stopped_by=stopped_by,
            seconds=seconds,
            samples_per_s=self._trained_samples / max(self._trained_s, 1e-9),
            loss=self._loss,
            adherence=lines[-1]["adherence"] if lines else None,
            bounds=self._bounds,
            snap=self._snap(),
        )

    def _publish(self, outcome: Outcome) -> None:
        """Write the result and its summary."""
        run = self._run
        # Until the new one is there: the old one names another network.
        (run.folder / SUMMARY_NAME).unlink(missing_ok=True)
        checkpoint.save_control(
            run.control,
            run.folder / CONTROL_DIR,
            metadata={**run.metadata, "controlset.step": str(outcome.step)},
            weights=None if run.average is None else run.average.weights,
        )
        if run.probe is not None:
            self._draw()
        summary = {**dataclasses.asdict(outcome), "files": result_files(run.folder)}
        write_json(run.folder / SUMMARY_NAME, with_digest(summary))


def _passed_over(found: checkpoint.Found) -> list[str]:
    said = [f"{folder} is not whole and is passed over: {why}" for folder, why in found.torn]
    if found.torn and found.newest is None:
        said.append("no checkpoint is whole: the run starts again")
    return said


def _short_of_room(run: Run) -> list[str]:
    """A word before training where its checkpoints will not fit: one more than stays is written."""
    config, folder = run.config, run.folder / "checkpoints"
    copies = 3 if config.ema is None else 4  # weights, two moments, averages; float32
    each = copies * 4 * sum(parameter.numel() for parameter in run.control.parameters())
    there = len(list(folder.glob("step-*")))
    need, free = (config.keep_last + 1 - there) * each, shutil.disk_usage(run.folder).free
    if free >= need:
        return []
    return [
        f"{run.folder}: {config.keep_last + 1} checkpoints of {each / 1e9:.2g} GB have to fit, but "
        f"{free / 1e9:.2g} GB are free: training may end for want of room"
    ]


def batches_from(run: Run, position: Position) -> Iterator[Batch]:
    """All batches from where a run stands, epoch after epoch."""
    epoch, start = position.epoch, position.batch
    while True:
        yield from run.loader.iterate(epoch, start)
        epoch, start = epoch + 1, 0


def optimize(run: Run, position: Position, batches: Iterator[Batch]) -> Step:
    """One optimizer step over `accumulation` batches; moves the position on.

    Args:
        run: its parts.
        position: changed.
        batches: from `batches_from`.
    """
    config = run.config
    rate = learning_rate(position.step, config)
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
        # Gradients travel between processes once a step, with the last batch.
        with contextlib.nullcontext() if last else run.accelerator.no_sync(run.learner):
            loss_B = losses(run.learner, inputs)
            run.accelerator.backward(loss_B.mean() / config.accumulation)
        seen.append(loss_B.detach())
        keys.append(batch.keys)
        # From the batch, since the loader may have gone on to the next epoch.
        position.epoch, position.batch = batch.epoch, batch.index + 1
    norm = run.accelerator.clip_grad_norm_(
        run.control.parameters(), config.clip if config.clip > 0 else math.inf
    )
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    if run.average is not None:
        run.average.update(position.step)
    position.step += 1
    return Step(number=position.step, losses=seen, keys=keys, norm=norm)


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
