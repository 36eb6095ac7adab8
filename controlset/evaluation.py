"""`controlset evaluate`: the judge is chosen here, since learning never annotates."""

import contextlib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from annotators.border import inside_borders
from annotators.canny import CannySpec
from annotators.network import reference
from annotators.options import AnnotateConfig, configured
from annotators.protocol import Annotation, Spec
from annotators.registry import (
    is_imported,
    need_known_models,
    record_of,
    spec_from_record,
    specs_of,
    weights_ready,
)
from annotators.runtime import Runtime, resolve_device
from controlnet.evaluator.config import EvaluateConfig
from controlnet.evaluator.evaluate import Judging, OnProgress, evaluate
from controlnet.evaluator.judge import JudgeAnnotator
from controlnet.evaluator.metrics import scorer_of
from controlnet.evaluator.metrics.base import Seen
from controlnet.evaluator.models import places_of, told_by
from controlset.configuration import option_kinds, typed
from controlset.console import progress
from controlset.extras import extras_of
from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from schemas.pixels import RgbU8
from schemas.triple import Border

# What ControlNet++ looks with, as options of ours; Canny is kornia's.
_CNPP: Mapping[str, Mapping[str, Any]] = {"depth": {"depth_model": "Intel/dpt-large"}}


def run_evaluation(config: EvaluateConfig) -> tuple[dict[str, Any], Path | None]:
    """Judge, and write the report.

    Args:
        config: as it was asked for.

    Returns:
        The document in `evaluation.json`, and the report. Processes but the first: an empty
        document, and None.

    Raises:
        ConfigError: anything that would fail later.
    """
    config = config.resolved()
    panel = panel_of(config)
    with _bars() as on_progress:
        document = evaluate(config, panel, on_progress=on_progress)
    if document is None:
        return {}, None
    if not config.report:
        return document, None
    from controlset.report.page import write_report

    return document, write_report(config.output)


def panel_of(config: EvaluateConfig) -> Judging:
    """Who judges.

    Raises:
        ConfigError: no such condition, an annotator or weights that are not here.
    """
    condition = condition_of(config)
    dataset = open_dataset(config.data)
    manifest = dataset.manifest
    if condition not in manifest.annotators:
        raise ConfigError(
            f"{config.data}: need the condition {condition!r}, found "
            f"{', '.join(manifest.annotators)}; run `controlset add {config.data} --conditions "
            f"{condition}`"
        )
    record = manifest.annotators[condition]
    eye, same_judge = _eye(config, condition, record, dataset.borders())
    extras, missing = extras_of(config, condition, resolve_device(config.device))
    return Judging(
        condition=condition,
        annotator=eye,
        scorer=scorer_of(
            condition,
            record,
            preset=config.preset,
            tolerance_px=config.tolerance,
            palette_C3=_palette() if condition == "segmentation" else None,
        ),
        same_judge=same_judge,
        extras=extras,
        missing=missing,
    )


def _palette() -> np.ndarray:
    """Colours of ADE20K's classes, as the segmentation annotator draws them."""
    return np.array(reference("util").ade_palette(), np.uint8)


def condition_of(config: EvaluateConfig) -> str:
    """The condition that is judged: asked for, or what the runs say of themselves.

    Raises:
        ConfigError: nobody says, or they do not agree.
    """
    if config.condition is not None:
        return config.condition
    places = places_of(config.run, offline=config.offline)
    told = {place.name: told_by(place, "condition") for place in places}
    names = set(told.values())
    if len(names) > 1:
        each = ", ".join(f"{name}: {condition}" for name, condition in told.items())
        raise ConfigError(f"--run: need runs of one condition, got {each}; judge them one by one")
    (name,) = names
    if name is None:
        raise ConfigError(
            f"--run {config.run[0]}: its file does not say which condition it obeys; "
            "give --condition NAME"
        )
    return name


def _eye(
    config: EvaluateConfig,
    condition: str,
    record: Mapping[str, Any],
    borders: Mapping[str, Border],
) -> tuple[JudgeAnnotator, bool]:
    """The judge, and whether it drew the maps of the data set.

    `borders` are those of padded rows: a sample has the same one, and no map was drawn of it.
    """
    if config.preset == "cnpp" and condition == "canny" and config.judge == ():
        return _kornia(), False
    device = resolve_device(config.device)
    runtime = Runtime(device=device, weights=config.weights, offline=config.offline)
    drew = None if is_imported(record) else spec_from_record(condition, record)
    if config.judge or (config.preset == "cnpp" and condition in _CNPP):
        spec = _asked(config, condition)
    elif drew is None:
        raise ConfigError(
            f"{config.data}: need an annotator that judges {condition}, whose maps were imported; "
            "say one with --judge, e.g. --judge hed hed-mode=scribble"
        )
    else:
        need_known_models(drew, config.trust_model)
        spec = drew
    found = weights_ready([spec], runtime, download=True)
    annotate = spec.load(runtime)

    def look(pictures: Sequence[RgbU8], keys: Sequence[str]) -> list[Seen | None]:
        results = inside_borders(spec, annotate, pictures, keys, [*map(borders.get, keys)])
        return [
            Seen(pixels=one.pixels, stats=one.stats) if isinstance(one, Annotation) else None
            for one in results
        ]

    said = {"name": spec.name, **record_of(spec, found.get(spec.name, ()))}
    return JudgeAnnotator(record=said, annotate=look, by_key=_draws_by_key(spec)), spec == drew


def _asked(config: EvaluateConfig, condition: str) -> Spec:
    """The annotator that `--judge` describes: a name, and options as `generate` has them."""
    values: dict[str, Any] = dict(_CNPP.get(condition, {})) if config.preset == "cnpp" else {}
    kinds = option_kinds(AnnotateConfig)
    for word in config.judge:
        name, separator, value = word.partition("=")
        if not separator:
            condition = word
            continue
        name = name.replace("-", "_")
        if name not in kinds or name == "conditions":
            raise ConfigError(
                f"--judge {word}: need an annotator's name or an option of `generate`, e.g. "
                "canny-thresholds=100,200"
            )
        several = typing.get_origin(kinds[name]) is tuple
        try:
            values[name] = typed(kinds[name], value.split(",") if several else value)
        except ValueError as rule:
            raise ConfigError(f"--judge {word}: need {rule}, got {value!r}") from rule
    values.setdefault("device", config.device)
    (spec,) = specs_of(configured(AnnotateConfig, conditions=(condition,), **values))
    return spec


def _draws_by_key(spec: Spec) -> bool:
    """Whether the same picture under another key may have another map."""
    if isinstance(spec, CannySpec):
        return spec.low[0] != spec.low[1] or spec.high[0] != spec.high[1]
    return not type(spec).__module__.startswith("annotators.") or spec.name == "shuffle"


def _kornia() -> JudgeAnnotator:
    """Edges as ControlNet++ extracts them, from the samples and from the real pictures."""
    from controlnet.evaluator.metrics.edges import kornia_canny

    def look(pictures: Sequence[RgbU8], keys: Sequence[str]) -> list[Seen | None]:
        return [kornia_canny(picture) for picture in pictures]

    record = {"name": "kornia canny", "parameters": {"low": 0.1, "high": 0.2}}
    return JudgeAnnotator(record=record, annotate=look, by_key=False, from_pictures=True)


@contextlib.contextmanager
def _bars() -> Iterator[OnProgress]:
    """One bar after the other: sampling, judging."""
    with contextlib.ExitStack() as stack:
        advances: dict[str, Callable[[int, int], None]] = {}

        def on_progress(doing: str, done: int, total: int) -> None:
            if doing not in advances:
                stack.close()
                advances[doing] = stack.enter_context(progress(doing))
            advances[doing](done, total)

        yield on_progress
