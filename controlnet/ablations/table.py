"""The paper's ablations in one table: train, sample, score, as an evaluation with a curve does.

OUTPUT/ablation-config.json       what the table depends on
OUTPUT/runs/VARIANT-SEED/         the trainer's run; its checkpoints go when they were sampled from
OUTPUT/pictures/                  samples of every variant after some steps, of the base, real ones
OUTPUT/ablation.json              every number of every variant and step, with intervals
OUTPUT/ablation.md, ablation.png  the table for a README; curves and samples
"""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file

from controlnet.ablations.config import AblationConfig
from controlnet.ablations.scores import (
    PROTOCOL,
    CaptionWords,
    LatentDistance,
    ScoredSets,
    StepScores,
    Table,
    VariantScores,
    claims_of,
    real_features,
    scores_of,
)
from controlnet.ablations.variants import VARIANTS, Variant
from controlnet.architecture.backbone import Base, load_base
from controlnet.architecture.control import ControlNet
from controlnet.architecture.sampling import SampleOptions, Steering, to_pictures
from controlnet.evaluator.examples import JudgedRows, read_rows
from controlnet.evaluator.judge import JudgeAnnotator, SampleScorer
from controlnet.evaluator.metrics.base import Scored, Scorer
from controlnet.evaluator.samples import (
    Place,
    Request,
    SampleFolder,
    Sampler,
    fill,
    take_folder,
)
from controlnet.trainer.batch import DrawOptions
from controlnet.trainer.checkpoint import WEIGHTS
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.devices import new_accelerator
from controlnet.trainer.index import scan
from controlnet.trainer.loader import Loader
from controlnet.trainer.log import METRICS, read_lines
from controlnet.trainer.probe import snap_step
from controlnet.trainer.run_folder import CONFIG_NAME, CONTROL_DIR
from controlnet.trainer.step import Texts, inputs_of
from controlnet.trainer.train import train
from schemas.dataset import open_dataset
from schemas.documents import digest_of, read_checked, with_digest
from schemas.errors import ConfigError
from schemas.files import held, machine_limits, write_json, write_text
from schemas.pixels import RgbU8

_CONFIG, _PICTURES = "ablation-config.json", "pictures"
COSTS = "costs.json"  # of a run: trainable parameters and seconds
_AT_ONCE = 64  # pictures; guidance doubles them
_REAL, _BASE = "real", "base"
_Set = Literal["prompts", "empty_prompts", "base_without_control"]

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """`costs.json`."""

    parameters: int
    seconds: float


def ablate(
    config: AblationConfig, annotator: JudgeAnnotator, scorer: Scorer, *, base: str, tell: Tell
) -> Table | int:
    """Make the table, or go on with it.

    Args:
        config: of the table.
        annotator: judges adherence.
        scorer: compares; its first measure in which higher is better is the adherence.
        base: folder of the nano base.
        tell: shows a line.

    Returns:
        The table; or the signal that stopped it, then the same command goes on.

    Raises:
        ConfigError: data, base or output are not what is needed.
    """
    folder = Path(config.output)
    asked = Asked(config, base)
    with machine_limits(folder), held(folder):
        take_folder(folder, _CONFIG, config.identity(), what="table")
        stopped_by = make_samples(config, asked, base=base, tell=tell)
        if stopped_by is not None:
            return stopped_by
        tell("scoring")
        table = _scored(config, asked, annotator, scorer)
        from controlnet.ablations.report import draw_figure, markdown  # matplotlib only now

        maps = [row.wanted.pixels for row in asked.rows.rows]
        shown = functools.partial(pictures_of, config, asked)
        draw_figure(table, maps, shown, folder / "ablation.png")
        write_text(folder / "ablation.md", markdown(table))
        # through JSON, which has null for NaN
        write_json(folder / "ablation.json", msgspec.json.decode(msgspec.json.encode(table)))
        return table


class Asked:
    """What every variant is asked for: the same validation rows and noise; and the untouched base.

    Args:
        config: of the table.
        base: folder of the base.

    Raises:
        ConfigError: no such data set, split or condition; too few rows.
    """

    def __init__(self, config: AblationConfig, base: str) -> None:
        index = scan(
            config.data, split="validation", condition=config.condition, wants_latents=False
        )
        self.size, count = next(iter(index.sizes.items()))
        width, height = self.size
        if count < config.images:
            raise ConfigError(
                f"{config.data}: need {config.images} validation rows of one size, got {count} of "
                f"{width}x{height} px; give fewer --images, or generate with a larger --validation"
            )
        # By the trainer's own rule, so that samples come from where training will be.
        self.device = new_accelerator(config.training(base=base, output="-", seed=0)).device
        torch.set_flush_denormal(True)  # as in training: fresh zero convolutions make denormals
        whole = load_base(base, offline=True)
        assert whole.text is not None
        self.base: Base = dataclasses.replace(whole, text=None)
        for module in (whole.unet, whole.vae, *whole.text.models):
            module.to(self.device)
        self.base.unet.to(memory_format=torch.channels_last)
        of_size = (index.widths == width) & (index.heights == height)
        chosen = of_size.nonzero()[0][: config.images]
        dataset = open_dataset(config.data, split="validation")
        self.rows = JudgedRows(
            rows=tuple(read_rows(dataset, index, chosen)),
            null_maps=index.null_maps,
            found=len(index) + index.null_maps,
        )
        loader = Loader(
            index,
            seed=0,
            batch_size=1,
            options=DrawOptions(prompt_dropout=0.0),
            latent_channels=self.base.space.channels,
            latent_factor=self.base.space.factor,
        )
        batch = loader.rows(chosen.tolist())
        self._texts = Texts(whole.text, [*batch.texts, ""])
        self._inputs = inputs_of(
            batch,
            self._texts(batch.texts),
            self.base,
            device=self.device,
            channels_last=True,
            noise_offset=0.0,
        )
        self._noise = dict(zip(batch.keys, self._inputs.noise_BCHW.cpu().numpy(), strict=True))
        self._prompted = SampleOptions(steps=config.sample_steps, guidance=config.guidance)
        self._empty = SampleOptions(steps=config.sample_steps, guidance=1.0)

    def real(self) -> list[RgbU8]:
        """The rows' own pictures, through the VAE and back: the best that can be reached."""
        return to_pictures(self.base.pictures(self._inputs.clean_BCHW))

    def sampled(
        self, batch: Sequence[Place], kind: _Set, variant: Variant, control: ControlNet | None
    ) -> list[RgbU8]:
        """A batch of one set of a variant's samples.

        Args:
            batch: rows; their noise is the same for every seed of training.
            kind: which set.
            variant: whose.
            control: what was built and trained for it; None: the untouched base without control.
        """
        free = kind == "base_without_control" or control is None
        # The sampler of every evaluation; only what it is given differs from variant to variant.
        how: dict[str, Any] = {
            "options": self._empty if kind == "empty_prompts" else self._prompted,
            "negative_prompt": "",
            "device": self.device,
            "autocast": torch.float32,
            "text": self._texts,
            "may_be_flat": True,  # a variant that draws nothing is a result, too
        }
        if control is None:
            sampler = Sampler(self.base, [], **how)
        elif free:
            sampler = Sampler(variant.free(self.base, control), [], **how)
        else:
            sampler = _VariantSampler(variant, control, self.base, **how)
        return sampler(
            [
                Request(
                    key=row.key,
                    prompt="" if kind == "empty_prompts" else row.text,
                    hints=() if free else (row.wanted.pixels,),
                    seed=number,
                    noise_CHW=self._noise[row.key],
                    size=row.size,
                )
                for row, number in batch
            ]
        )


class _VariantSampler(Sampler):
    """Samples under control, whatever a variant understands by that."""

    def __init__(self, variant: Variant, control: ControlNet, base: Base, **how: Any) -> None:
        super().__init__(base, [], **how)
        self._variant, self._control = variant, control

    def steered(self, hints: Sequence[tuple[np.ndarray, ...]]) -> tuple[Base, list[Steering]]:
        """See `Sampler`."""
        hint_BCHW = self.hints([pixels for (pixels,) in hints])
        base, control = self._variant.under_control(self._base, self._control, hint_BCHW)
        shown = [] if control is None else [Steering(control=control, hint_BCHW=hint_BCHW)]
        return base, shown


def make_samples(config: AblationConfig, asked: Asked, *, base: str, tell: Tell) -> int | None:
    """Train and sample whatever is missing.

    Args:
        config: of the table.
        asked: what every variant is asked for.
        base: folder of the base.
        tell: shows a line.

    Returns:
        The signal that stopped it; None: everything is there.
    """
    first = VARIANTS[0]
    places: list[Place] = [(row, 0) for row in asked.rows.rows]
    real, free = samples_of(config, _REAL), samples_of(config, _BASE)
    if not (_is_whole(real, places) and _is_whole(free, places)):
        tell("samples of the base without control")
        pictures = dict(zip([row.key for row, _ in places], asked.real(), strict=True))
        fill(real, places, lambda batch: [pictures[row.key] for row, _ in batch], batch_size=1)
        draw = functools.partial(
            asked.sampled, kind="base_without_control", variant=first, control=None
        )
        fill(free, places, draw, batch_size=_AT_ONCE)
    # Seed by seed: a table that is stopped early has one of every variant.
    jobs = [(variant, seed) for seed in range(config.seeds) for variant in VARIANTS]
    for number, (variant, seed) in enumerate(jobs, start=1):
        title = f"[{number}/{len(jobs)}] {variant.label}, seed {seed}"
        places = [(row, seed) for row in asked.rows.rows]
        folders = {
            (step, kind): samples_of(config, variant.name, step, kind)
            for step in config.sampled_after
            for kind in sets_of(variant)
        }
        missing = [at for at, folder in folders.items() if not _is_whole(folder, places)]
        if not missing:
            tell(f"{title}: is there already")
            continue
        stopped_by = _train(config, variant, seed, base, lambda text, t=title: tell(f"{t}: {text}"))
        if stopped_by is not None:
            return stopped_by
        for step in dict.fromkeys(step for step, _ in missing):
            tell(f"{title}: samples after step {step} of {config.steps}")
            control = at_step(config, variant, seed, base, asked, step)
            for kind in (kind for at, kind in missing if at == step):
                draw = functools.partial(asked.sampled, kind=kind, variant=variant, control=control)
                fill(folders[step, kind], places, draw, batch_size=_AT_ONCE)
        shutil.rmtree(run_folder(config, variant.name, seed) / "checkpoints")
    return None


def sets_of(variant: Variant) -> tuple[_Set, ...]:
    """The samples of a variant; a locked base draws the same without control whatever is learnt."""
    under_control: tuple[_Set, ...] = ("prompts", "empty_prompts")
    return under_control if variant.is_locked else (*under_control, "base_without_control")


def samples_of(config: AblationConfig, variant: str, step: int = 0, kind: str = "") -> SampleFolder:
    """Where one set of samples lies; the number of a picture is the seed of its training."""
    name = f"{variant}-{step:08d}-{kind}" if kind else variant
    return SampleFolder(
        folder=Path(config.output) / _PICTURES / name,
        purpose=f"{digest_of(config.identity())} {name}",
    )


def pictures_of(
    config: AblationConfig, asked: Asked, variant: str, step: int = 0, kind: str = ""
) -> list[RgbU8]:
    """A set of samples of the first seed, in the order of the rows; for the figure."""
    folder = samples_of(config, variant, step, kind)
    return [folder.read(row.key, 0) for row in asked.rows.rows]


def _is_whole(folder: SampleFolder, places: Sequence[Place]) -> bool:
    return all(folder.state(row, number) == "whole" for row, number in places)


def at_step(
    config: AblationConfig, variant: Variant, seed: int, base: str, asked: Asked, step: int
) -> ControlNet:
    """A variant's network as it was after a step."""
    # Built as training builds it: step 0 has no checkpoint, and its seed decides the hint block.
    control = variant.method.build(training_of(config, variant, seed, base), asked.base)
    control.to(asked.device)
    control.to(memory_format=torch.channels_last)
    if step:
        checkpoints = run_folder(config, variant.name, seed) / "checkpoints"
        control.load_state_dict(load_file(checkpoints / f"step-{step:08d}" / CONTROL_DIR / WEIGHTS))
    return control.eval()


def training_of(config: AblationConfig, variant: Variant, seed: int, base: str) -> TrainConfig:
    """The configuration of one run, not resumed."""
    output = str(run_folder(config, variant.name, seed))
    return dataclasses.replace(
        config.training(base=base, output=output, seed=seed), **variant.changes
    )


def run_folder(config: AblationConfig, variant: str, seed: int) -> Path:
    """Where a variant is trained."""
    return Path(config.output) / "runs" / f"{variant}-{seed}"


def _train(
    config: AblationConfig, variant: Variant, seed: int, base: str, tell: Tell
) -> int | None:
    """Train a variant, or go on; keeps a checkpoint for every step that is sampled."""
    folder = run_folder(config, variant.name, seed)
    # Written last, and checkpoints go last: together they say that training is over.
    if (folder / COSTS).is_file() and (folder / "checkpoints").is_dir():
        return None  # only samples are missing
    tell("training")
    training = training_of(config, variant, seed, base)
    going_on = (folder / CONFIG_NAME).is_file()
    outcome = train(dataclasses.replace(training, resume=going_on), method=variant.method)
    if outcome.stopped_by is None:
        weights = load_file(folder / CONTROL_DIR / WEIGHTS)
        # The clock of the whole run would count what was waited for between two sessions.
        speed = read_lines(folder / METRICS)[-1]["samples_per_s"]
        costs = Costs(
            parameters=sum(tensor.numel() for tensor in weights.values()),
            seconds=config.steps * config.batch_size / speed,
        )
        write_json(folder / COSTS, with_digest(msgspec.to_builtins(costs)))
    return outcome.stopped_by


def _scored(
    config: AblationConfig, asked: Asked, annotator: JudgeAnnotator, scorer: Scorer
) -> Table:
    adherence = next(measure for measure in scorer.measures if measure.higher_is_better)
    latents = LatentDistance(asked.base, real_features(asked.base, config.data, asked.size))
    judge = SampleScorer(
        rows=asked.rows,
        annotator=annotator,
        scorer=scorer,
        extras=(latents, CaptionWords()),
        partners=(),
    )
    unprompted = dataclasses.replace(judge, extras=(latents,))  # no caption that could come true

    def scored(name: str, step: int = 0, kind: str = "") -> Scored:
        folder, seeds = samples_of(config, name, step, kind), config.seeds if kind else 1
        by = unprompted if kind == "empty_prompts" else judge
        return by.score("model", name, folder.read, seeds, shuffled=False)[0]

    before, real = scored(_BASE), scored(_REAL)
    sets = {
        variant.name: {
            step: ScoredSets(
                **{kind: scored(variant.name, step, kind) for kind in sets_of(variant)},
                **({"base_without_control": before} if variant.is_locked else {}),
            )
            for step in config.sampled_after
        }
        for variant in VARIANTS
    }
    numbers = functools.partial(scores_of, adherence=adherence.name, distance=latents.distance)
    floor, ceiling = numbers(before), numbers(real)
    return Table(
        config=config,
        judge=f"{config.condition} {adherence.label}",
        quality=PROTOCOL,
        before=floor,
        real=ceiling,
        variants=[
            _variant_scores(
                config,
                variant,
                [
                    StepScores(
                        step=step,
                        prompts=numbers(found.prompts),
                        empty_prompts=numbers(found.empty_prompts),
                        base_without_control=floor
                        if variant.is_locked
                        else numbers(found.base_without_control),
                    )
                    for step, found in sets[variant.name].items()
                ],
                floor=floor.adherence.value,
                ceiling=ceiling.adherence.value,
            )
            for variant in VARIANTS
        ],
        claims=claims_of(config, sets, adherence.name, latents.distance),
    )


def _variant_scores(
    config: AblationConfig,
    variant: Variant,
    steps: list[StepScores],
    *,
    floor: float,
    ceiling: float,
) -> VariantScores:
    runs = [run_folder(config, variant.name, seed) for seed in range(config.seeds)]
    costs = [read_checked(run / COSTS, Costs) for run in runs]
    return VariantScores(
        name=variant.name,
        label=variant.label,
        trained_parameters=costs[0].parameters,
        training_seconds=sum(run.seconds for run in costs),
        locked=variant.is_locked,
        control_in_by_step=snap_step(
            [scores.step for scores in steps],
            [scores.prompts.adherence.value for scores in steps],
            floor=floor,
            ceiling=ceiling,
        ),
        training_loss={line["step"]: line["loss"] for line in read_lines(runs[0] / METRICS)},
        looks=steps,
    )
