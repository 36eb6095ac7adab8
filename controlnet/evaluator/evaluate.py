"""Does it obey? Sample, look again, compare; four rows beside each other, always.

ceiling: the real pictures through the base's VAE. model: sampled with the condition. shuffled: the
model's pictures against another row's condition. floor: the base without control, same noise. Where
pictures are held to the drawn truth, a fifth stands before them, judge: the original pictures.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import accelerate
from accelerate.utils import gather_object

from controlnet.architecture.control_files import weights_of
from controlnet.evaluator.config import EvaluateConfig
from controlnet.evaluator.examples import JudgedRows
from controlnet.evaluator.judge import JudgeAnnotator, Judging, SampleScorer
from controlnet.evaluator.metrics.base import RESAMPLES, Measure, Scored, Scorer
from controlnet.evaluator.models import (
    Models,
    RunPlace,
    Setting,
    floors_of,
    places_of,
    settings_of,
)
from controlnet.evaluator.records import JUDGE, MissingRecord
from controlnet.evaluator.result import (
    PICTURES,
    SCORES,
    TRUTH,
    Findings,
    ceiling_of,
    record_of_run,
    result_of,
    write_document,
    write_scores,
)
from controlnet.evaluator.samples import (
    CODEC,
    Place,
    Request,
    SampleFolder,
    fill,
    seed_of,
    take_folder,
)
from controlnet.trainer.devices import is_first_process, wants_cpu
from schemas.documents import digest_of
from schemas.files import file_digest, file_name, held, machine_limits
from schemas.machine import cores, memory_bytes, processor
from schemas.pixels import RgbU8

_CEILING, _FLOOR = "ceiling", "floor"
_IDENTITY = ".identity.json"
_PACKAGES = ("controlset", "torch", "diffusers", "transformers", "numpy", "opencv-python-headless")

# (what is going on, done, of how many)
OnProgress = Callable[[str, int, int], None]


def evaluate(
    config: EvaluateConfig, judging: Judging, *, on_progress: OnProgress
) -> dict[str, Any] | None:
    """Judge ControlNets.

    Args:
        config: resolved.
        judging: who judges, and by which rows.
        on_progress: is told how far it is.

    Returns:
        The document that lies in `evaluation.json`; None in all processes but the first.

    Raises:
        ConfigError: a run, base, data set or folder that will not do.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(config.output)
        stack.enter_context(machine_limits(folder))
        if is_first_process():  # it holds the folder for all of them
            stack.enter_context(held(folder))
        return _EvaluationRun(config, judging, on_progress).go()


class _EvaluationRun:
    def __init__(self, config: EvaluateConfig, judging: Judging, on_progress: OnProgress) -> None:
        self._config, self._judging, self._on_progress = config, judging, on_progress
        self._state = accelerate.PartialState(cpu=wants_cpu(config.device))
        self._folder = Path(config.output)
        self._places = places_of(config.run, offline=config.offline)
        self._rows = judging.rows
        self._models = Models(
            base=config.base,
            precision=config.precision,
            offline=config.offline,
            device=str(self._state.device),
            vae=config.vae,
            lora=config.base_lora,
        )
        # Before anything is sampled: hours later it would be too late to say what does not fit.
        self._said = self._models.check(self._places)
        self._settings = settings_of(self._places, config)
        self._floors = floors_of(self._places, self._models, config)
        self._measures: tuple[Measure, ...] = (
            *judging.scorer.measures,
            *(measure for extra in judging.extras for measure in extra.measures),
        )

    def go(self) -> dict[str, Any] | None:
        config, state = self._config, self._state
        protocol = protocol_of(
            config,
            self._judging.condition,
            self._judging.annotator,
            self._judging.scorer,
            self._rows,
            same_judge=self._judging.same_judge,
            by_truth=self._judging.truth is not None,
            precision=self._models.precision,
            extras=[extra.protocol for extra in self._judging.extras],
        )
        identity = self._identity(protocol)
        if state.is_main_process:
            take_folder(self._folder, _IDENTITY, identity, what="evaluation")
        self._purpose = digest_of(identity)  # goes into every picture's seal
        records = [
            record_of_run(place, self._models.base_of(place), self._folder)
            for place in self._places
        ]
        state.wait_for_everyone()  # nobody samples into a folder that may yet be refused
        started_s = time.monotonic()
        foreign = sum(gather_object([self._sample()]))
        state.wait_for_everyone()
        if not state.is_main_process:
            return None  # judging is short, and its numbers are those of all pictures together
        sampled_s = time.monotonic()
        scored = self._score()
        seconds = {"sampling": sampled_s - started_s, "judging": time.monotonic() - sampled_s}
        write_scores(self._folder / SCORES, list(scored.values()), self._measures)
        findings = Findings(
            config=self._config,
            folder=self._folder,
            places=self._places,
            settings=self._settings,
            floors={
                place.name: name
                for place in self._places
                for name, floor in self._floors.items()
                if self._models.base_of(floor.run) == self._models.base_of(place)
            },
            rows=self._rows,
            measures=self._measures,
            scored=scored,
            annotator=self._judging.annotator,
            condition=self._judging.condition,
            # Quirks that a model has learnt of it do not bring it nearer to the truth.
            same_judge=self._judging.same_judge and self._judging.truth is None,
            samples_of=self._samples_of,
            foreign=foreign,
            said=self._said,
        )
        document = result_of(
            findings,
            protocol=protocol,
            runs=records,
            missing=[MissingRecord(**reason) for reason in self._judging.missing],
            software=software(),
            hardware=hardware(self._models.device),
            seconds=seconds,
        )
        return write_document(self._folder, document)

    def _identity(self, protocol: dict[str, Any]) -> dict[str, Any]:
        """What decides about a pixel or a score."""
        return {
            "protocol": protocol["id"],
            "data": str(Path(self._config.data).resolve()),
            # The rows themselves: which they are depends on --limit and on the maps that are null.
            "keys": [row.key for row in self._rows.rows],
            "weights": {
                setting.name: None
                if setting.control is None
                else file_digest(weights_of(setting.control))
                for setting in self._settings
            },
            "bases": {place.name: self._models.identity_of(place) for place in self._places},
            # Only where they are given, so that evaluations of older releases go on.
            **{
                name: value
                for name in ("vae", "base_lora")
                if (value := getattr(self._config, name)) is not None
            },
            **({} if (truth := self._judging.truth) is None else {"truth": str(truth.folder)}),
        }

    def _samples_of(self, name: str) -> SampleFolder:
        return SampleFolder(
            folder=self._folder / PICTURES / file_name(name), purpose=f"{self._purpose} {name}"
        )

    def _sample(self) -> int:
        """Everything that is not there yet; every process its share.

        Returns:
            Pictures that were there but something else.
        """
        config, state = self._config, self._state
        settings = [*self._settings, *self._floors.values()]
        # Dealt out in turn: rows are ordered by size, and large pictures take longest.
        places = self._places_of(config.samples)[state.process_index :: state.num_processes]
        total = len(places) * len(settings)
        advance, foreign = self._advance("sampling", total), 0
        for setting in settings:
            foreign += fill(
                self._samples_of(setting.name),
                places,
                functools.partial(self._sampled, setting),
                batch_size=config.batch_size,
                on_picture=advance,
            )
        if state.is_main_process:  # a round trip costs little beside twenty steps
            for name, place in self._ceilings().items():
                foreign += fill(
                    self._samples_of(name),
                    self._places_of(1),
                    lambda batch, place=place: [
                        self._models.round_trip(place, row.image) for row, _ in batch
                    ],
                    batch_size=config.batch_size,
                )
        return foreign

    def _advance(self, doing: str, total: int) -> Callable[[], None]:
        done = itertools.count(1)
        return lambda: self._on_progress(doing, next(done), total)

    def _places_of(self, samples: int) -> list[Place]:
        return [(row, number) for row in self._rows.rows for number in range(samples)]

    def _sampled(self, setting: Setting, batch: Sequence[Place]) -> list[RgbU8]:
        config = self._config
        requests = [
            Request(
                key=row.key,
                prompt="" if config.empty_prompt else row.text,
                hints=() if setting.control is None else (row.wanted.pixels,),
                seed=seed_of(config.seed, row.key, number),
                size=row.size,
            )
            for row, number in batch
        ]
        return self._models.sample(setting, config, requests)

    def _ceilings(self) -> dict[str, RunPlace]:
        """Folder of each distinct base's ceiling -> a run on that base."""
        return {ceiling_of(name): setting.run for name, setting in self._floors.items()}

    def _score(self) -> dict[tuple[str, str], Scored]:
        """(row, setting) -> scores, the first run first."""
        samples, rows = self._config.samples, len(self._rows)
        total = rows * (samples * (len(self._settings) + len(self._floors)) + len(self._floors))
        total += rows * (self._judging.truth is not None)
        scorer = SampleScorer(
            rows=self._rows,
            annotator=self._judging.annotator,
            scorer=self._judging.scorer,
            extras=self._judging.extras,
            partners=self._rows.partners(),
            truth=self._judging.truth,
            on_picture=self._advance("judging", total),
        )
        scored: list[Scored] = []
        if self._judging.truth is not None:
            real = {row.key: row for row in self._rows.rows}
            alone = dataclasses.replace(scorer, extras=())  # of originals nobody asks the rest
            scored += alone.score(JUDGE, JUDGE, lambda key, _: real[key].image, 1, shuffled=False)
        for name in self._ceilings():
            scored += scorer.score(_CEILING, name, self._samples_of(name).read, 1, shuffled=False)
        for setting in self._settings:
            # Of a sweep or a curve nobody asks whether it would please another map as well.
            own = setting.swept is None and setting.step is None
            read = self._samples_of(setting.name).read
            scored += scorer.score("model", setting.name, read, samples, shuffled=own)
        for name in self._floors:
            read = self._samples_of(name).read
            scored += scorer.score(_FLOOR, name, read, samples, shuffled=False)
        return {(part.row, part.setting): part for part in scored}


def protocol_of(
    config: EvaluateConfig,
    condition: str,
    annotator: JudgeAnnotator,
    scorer: Scorer,
    rows: JudgedRows,
    *,
    same_judge: bool,
    by_truth: bool,
    precision: str,
    extras: Sequence[str],
) -> dict[str, Any]:
    """Everything that a score depends on but the weights, with an id that stands for it.

    Args:
        config: resolved.
        condition: that is judged.
        annotator: of the judge.
        scorer: compares.
        rows: what is judged by.
        same_judge: whether the judge drew the data set's maps.
        by_truth: whether pictures are held to the drawn truth.
        precision: of the networks that draw.
        extras: names of the other measures, with their extractors.
    """
    fields = {
        "preset": config.preset,
        "condition": condition,
        "scorer": scorer.protocol,
        "judge": dict(annotator.record),
        "wanted": TRUTH if by_truth else "extracted" if annotator.from_pictures else "stored",
        "ceiling": "the real pictures through the base's VAE",
        "shuffled": "scored against the map of the next row by key",
        "scheduler": config.scheduler,
        "steps": config.steps,
        "guidance": config.guidance,
        "scale": config.scale,
        "negative_prompt": config.negative_prompt,
        "prompt": "empty" if config.empty_prompt else "the row's caption",
        "seed": config.seed,
        "seeds": "sha256(seed/key/number)",
        "samples_per_image": config.samples,
        "codec": CODEC,
        "sizes": sorted({row.size for row in rows.rows}),
        "precision": precision,
        "interval": f"95 %, bootstrap over images, {RESAMPLES} resamples",
        "others": list(extras),
    }
    # Through JSON, so that the id is that of what a reader of `evaluation.json` sees.
    text = json.dumps(fields, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return {"id": f"{config.preset}-{digest}", "same_judge": same_judge, **json.loads(text)}


def software() -> dict[str, str]:
    """Package -> version of what had a part in it."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES} | {
        "python": platform.python_version()
    }


def hardware(device: str) -> str:
    """`AMD EPYC …, 2 cores, 23 GB`, and the GPU if one was used."""
    memory_gb = memory_bytes()[0] / 1e9
    parts = [processor(), f"{cores()} cores", f"{memory_gb:.0f} GB"]
    if device.startswith("cuda"):
        import torch

        parts.insert(0, torch.cuda.get_device_name(device))
    return ", ".join(parts)
