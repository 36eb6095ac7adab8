"""Does it obey? Sample, look again, compare; four rows beside each other, always.

ceiling: the real pictures through the base's VAE. model: sampled with the condition. shuffled: the
model's pictures against another row's condition. floor: the base without control, same noise.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import accelerate
from accelerate.utils import gather_object

from controlnet.architecture.control_files import weights_of
from controlnet.evaluator.claim import claim_folder
from controlnet.evaluator.config import EvaluateConfig
from controlnet.evaluator.document import write_document
from controlnet.evaluator.examples import load_rows
from controlnet.evaluator.extras import Extra
from controlnet.evaluator.judge import Eye
from controlnet.evaluator.metrics.base import Measure, Scorer
from controlnet.evaluator.models import Studio, floors_of, record_of_run
from controlnet.evaluator.protocol import hardware, protocol_of, software
from controlnet.evaluator.result import PICTURES, Findings, files_of, result_of
from controlnet.evaluator.runs import RunPlace, cells_of, places_of
from controlnet.evaluator.samples import Gallery, fill
from controlnet.evaluator.score import Bench
from controlnet.evaluator.score_table import Scored, write_scores
from controlnet.trainer.devices import is_first_process, wants_cpu
from schemas.documents import digest_of
from schemas.file_names import file_name
from schemas.folder_lock import held
from schemas.plain_files import file_digest
from schemas.writing import machine_limits

SCORES = "scores.parquet"
_CEILING, _FLOOR = "ceiling", "floor"

# (what is going on, done, of how many)
OnProgress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Who judges: handed in, since this package never annotates."""

    condition: str
    eye: Eye
    scorer: Scorer
    same_judge: bool
    extras: Sequence[Extra]
    missing: Sequence[dict[str, str]]  # measures that cannot be had here, and why


def evaluate(
    config: EvaluateConfig, panel: Panel, *, on_progress: OnProgress
) -> dict[str, Any] | None:
    """Judge ControlNets.

    Args:
        config: resolved.
        panel: who judges.
        on_progress: is told how far it is.

    Returns:
        The document that lies in `evaluation.json`; None in all processes but the first.

    Raises:
        ConfigError: a run, base, data set or folder that will not do.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(config.output)
        stack.enter_context(machine_limits(folder))
        if is_first_process():
            stack.enter_context(held(folder))
        return _Evaluation(config, panel, on_progress).go()


class _Evaluation:
    def __init__(self, config: EvaluateConfig, panel: Panel, on_progress: OnProgress) -> None:
        self._config, self._panel, self._on_progress = config, panel, on_progress
        self._state = accelerate.PartialState(cpu=wants_cpu(config.device))
        self._folder = Path(config.output)
        self._places = places_of(config.run, offline=config.offline)
        self._rows = load_rows(
            config.data, split=config.split, condition=panel.condition, limit=config.limit
        )
        self._studio = Studio(
            base=config.base,
            precision=config.precision,
            offline=config.offline,
            device=str(self._state.device),
            vae=config.vae,
            lora=config.base_lora,
        )
        self._said = self._studio.check(self._places)
        self._cells = cells_of(self._places, config)
        self._floors = floors_of(self._places, self._studio, config)
        self._measures: tuple[Measure, ...] = (
            *panel.scorer.measures,
            *(one for extra in panel.extras for one in extra.measures),
        )

    def go(self) -> dict[str, Any] | None:
        config, state = self._config, self._state
        protocol = protocol_of(
            config,
            self._panel.condition,
            self._panel.eye,
            self._panel.scorer,
            self._rows,
            same_judge=self._panel.same_judge,
            precision=self._studio.precision,
            extras=[extra.protocol for extra in self._panel.extras],
        )
        identity = self._identity(protocol)
        if state.is_main_process:
            claim_folder(self._folder, identity)
        self._purpose = digest_of(identity)
        records = [
            record_of_run(place, self._studio.base_of(place), self._folder)
            for place in self._places
        ]
        state.wait_for_everyone()
        started_s = time.monotonic()
        foreign = sum(gather_object([self._sample()]))
        state.wait_for_everyone()
        if not state.is_main_process:
            return None
        sampled_s = time.monotonic()
        scored = self._score()
        seconds = {"sampling": sampled_s - started_s, "judging": time.monotonic() - sampled_s}
        write_scores(self._folder / SCORES, list(scored.values()), self._measures)
        findings = Findings(
            config=self._config,
            folder=self._folder,
            places=self._places,
            cells=self._cells,
            rows=self._rows,
            measures=self._measures,
            scored=scored,
            eye=self._panel.eye,
            condition=self._panel.condition,
            same_judge=self._panel.same_judge,
            gallery_of=self._gallery,
            foreign=foreign,
            said=self._said,
        )
        document = {
            "protocol": protocol,
            **result_of(findings),
            "runs": records,
            "missing": list(self._panel.missing),
            "software": software(),
            "hardware": hardware(self._studio.device),
            "seconds": seconds,
        }
        document["files"] = files_of(self._folder, document, [SCORES])
        write_document(self._folder, document)
        return document

    def _identity(self, protocol: dict[str, Any]) -> dict[str, Any]:
        """What decides about a pixel or a score."""
        return {
            "protocol": protocol["id"],
            "data": str(Path(self._config.data).resolve()),
            "keys": [row.key for row in self._rows.rows],
            "weights": {
                cell.name: None if cell.control is None else file_digest(weights_of(cell.control))
                for cell in self._cells
            },
            "bases": {place.name: self._studio.identity_of(place) for place in self._places},
            **{
                name: value
                for name in ("vae", "base_lora")
                if (value := getattr(self._config, name)) is not None
            },
        }

    def _gallery(self, name: str) -> Gallery:
        return Gallery(
            folder=self._folder / PICTURES / file_name(name), purpose=f"{self._purpose} {name}"
        )

    def _sample(self) -> int:
        """Everything that is not there yet; every process its share.

        Returns:
            Pictures that were there but something else.
        """
        config, state = self._config, self._state
        cells = [*self._cells, *self._floors.values()]
        total = self._share(len(self._rows) * config.samples) * len(cells)
        done = foreign = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self._on_progress("sampling", done, total)

        for cell in cells:
            foreign += fill(
                self._gallery(cell.name),
                self._rows,
                lambda requests, cell=cell: self._studio.sample(cell, config, requests),
                controlled=cell.control is not None,
                empty_prompt=config.empty_prompt,
                samples=config.samples,
                seed=config.seed,
                batch_size=config.batch_size,
                rank=state.process_index,
                world=state.num_processes,
                on_picture=advance,
            )
        if state.is_main_process:
            for name, place in self._ceilings().items():
                foreign += self._round_trips(name, place)
        return foreign

    def _share(self, count: int) -> int:
        return len(range(self._state.process_index, count, self._state.num_processes))

    def _ceilings(self) -> dict[str, RunPlace]:
        """Folder of each distinct base's ceiling -> a run on that base."""
        return {name.replace(_FLOOR, _CEILING, 1): cell.run for name, cell in self._floors.items()}

    def _round_trips(self, name: str, place: RunPlace) -> int:
        gallery, foreign = self._gallery(name), 0
        for row in self._rows.rows:
            state = gallery.state(row, 0)
            foreign += state == "foreign"
            if state != "whole":
                gallery.write(row.key, 0, self._studio.round_trip(place, row.image))
        return foreign

    def _score(self) -> dict[tuple[str, str], Scored]:
        """(row, cell) -> scores, the first run first."""
        samples, rows = self._config.samples, len(self._rows)
        total = rows * (samples * (len(self._cells) + len(self._floors)) + len(self._floors))
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self._on_progress("judging", done, total)

        bench = Bench(
            rows=self._rows,
            eye=self._panel.eye,
            scorer=self._panel.scorer,
            extras=self._panel.extras,
            partners=self._rows.partners(),
            on_picture=advance,
        )
        scored: list[Scored] = []
        for name in self._ceilings():
            scored += bench.score(_CEILING, name, self._gallery(name), 1, shuffled=False)
        for cell in self._cells:
            own = cell.swept is None and cell.step is None
            gallery = self._gallery(cell.name)
            scored += bench.score("model", cell.name, gallery, samples, shuffled=own)
        for name in self._floors:
            scored += bench.score(_FLOOR, name, self._gallery(name), samples, shuffled=False)
        return {(one.row, one.cell): one for one in scored}
