"""Training and evaluation with who judges them: chosen here, since learning never annotates."""

import contextlib
import dataclasses
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from annotators.border import inside_borders
from annotators.conditions.canny import CannySpec
from annotators.conditions.segmentation import palette
from annotators.conditions.soft_edges import ridges
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
from controlnet import nano
from controlnet.architecture.backbone import load_base
from controlnet.evaluator.config import EvaluateConfig
from controlnet.evaluator.evaluate import Judging, OnProgress, evaluate
from controlnet.evaluator.examples import JudgedRows, load_rows
from controlnet.evaluator.judge import Annotate, JudgeAnnotator, judge_of_probes
from controlnet.evaluator.metrics import scorer_of
from controlnet.evaluator.metrics.base import Extra, Scorer, Seen
from controlnet.evaluator.metrics.clip_score import Clip, ClipScore, Words
from controlnet.evaluator.metrics.diversity import Diversity, lpips_distance, rmse
from controlnet.evaluator.metrics.fid_kid import Distance, inception, vae_features
from controlnet.evaluator.models import Models, places_of, told_by
from controlnet.evaluator.truth import drawn_truth
from controlnet.nano.reading import parse_caption
from controlnet.trainer import train as training
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.probe import Judge
from controlset.parse import option_kinds, typed
from controlset.refusals import no_condition
from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from schemas.pixels import RgbU8
from schemas.terminal import counting
from schemas.triple import Border

_BY_PIXELS = {"bilevel", "grey", "grey16"}  # hint modes whose maps are compared pixel by pixel
# What ControlNet++ looks with, as options of ours; Canny is kornia's.
_CNPP: Mapping[str, Mapping[str, Any]] = {"depth": {"depth_model": "Intel/dpt-large"}}


def train(config: TrainConfig) -> training.Outcome:
    """Train a ControlNet; probes are judged by the annotator that drew the data set's maps.

    Args:
        config: everything; `nano` is the bundled base.

    Returns:
        How it ended. The result is in `output/controlnet`.

    Raises:
        ConfigError: something is wrong with data, base or output.
    """
    judge = None
    if config.probe_every:  # else no annotator and no weights of it are needed
        judge = judge_of(config.data, config.condition, Runtime(), trusted=config.trust_model)
    if config.base == nano.NAME:  # what follows takes folders
        config = dataclasses.replace(config, base=str(nano.base_folder()))
    return training.train(config, judge=judge)


def judge_of(
    data: str, condition: str, runtime: Runtime, *, trusted: Collection[str] = ()
) -> Judge | None:
    """A judge of probes; arguments and refusals are those of `pixel_judge`.

    Returns:
        The first score of `controlset evaluate` in which higher is better: edge F1, MS-SSIM, delta
        of depth. None as there.
    """
    found = pixel_judge(data, condition, runtime, trusted=trusted)
    return None if found is None else judge_of_probes(condition, *found)


def pixel_judge(
    data: str, condition: str, runtime: Runtime, *, trusted: Collection[str] = ()
) -> tuple[JudgeAnnotator, Scorer] | None:
    """The annotator that drew one condition of a data set, and what compares its maps.

    Args:
        data: folder or URI of a complete data set.
        condition: one of its conditions.
        runtime: where the annotator runs.
        trusted: models that the user named; a data set's own word does not load one.

    Returns:
        None for coloured maps, whose scores need more than pixels, and for imported ones, which no
        annotator drew.

    Raises:
        ConfigError: the annotator or its weights are not here.
    """
    dataset = open_dataset(data)
    records = dataset.manifest.annotators
    if condition not in records or records[condition]["hint_mode"] not in _BY_PIXELS:
        return None
    if is_imported(records[condition]):
        return None
    spec = spec_from_record(condition, records[condition])
    need_known_models(spec, trusted)  # the data set may be a stranger's
    annotate = _annotating(spec, runtime, dataset.borders())
    judge = JudgeAnnotator(record=records[condition], annotate=annotate, by_key=_draws_by_key(spec))
    return judge, scorer_of(condition, records[condition])


def _annotating(spec: Spec, runtime: Runtime, borders: Mapping[str, Border]) -> Annotate:
    """Extracts maps from pictures; those of padded rows have the row's border."""
    annotator = spec.load(runtime)

    def annotate(pictures: Sequence[RgbU8], keys: Sequence[str]) -> list[Seen | None]:
        results = inside_borders(spec, annotator, pictures, keys, [*map(borders.get, keys)])
        # A picture in which the annotator sees nothing, e.g. nobody, is scored and not an error.
        return [
            Seen(pixels=result.pixels, stats=result.stats)
            if isinstance(result, Annotation)
            else None
            for result in results
        ]

    return annotate


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
    judging = judging_of(config)
    with _bars() as on_progress:
        document = evaluate(config, judging, on_progress=on_progress)
    if document is None:  # a helper process of `accelerate launch`
        return {}, None
    if not config.report:
        return document, None
    from controlset.report.page import write_report  # slow: matplotlib

    return document, write_report(config.output)


def judging_of(config: EvaluateConfig) -> Judging:
    """Who judges.

    Raises:
        ConfigError: no such condition, an annotator or weights that are not here.
    """
    condition = condition_of(config)
    said = [word for word in config.judge if word.partition("=")[0] == "truth"]
    config = dataclasses.replace(
        config, judge=tuple(word for word in config.judge if word not in said)
    )
    dataset = open_dataset(config.data)
    manifest = dataset.manifest
    if condition not in manifest.annotators:
        raise no_condition(config.data, condition, manifest.annotators)
    record = manifest.annotators[condition]
    annotator, same_judge = judging_annotator(config, condition, record, dataset.borders())
    rows = load_rows(config.data, split=config.split, condition=condition, limit=config.limit)
    colors = palette() if condition == "segmentation" else None
    truth = None
    if said:
        # Beside the pictures that the set was made from, unless it is said where.
        place = said[-1].partition("=")[2] or Path(manifest.source).parent
        truth = drawn_truth(Path(place).expanduser(), condition, colors)
        truth.check(rows.rows)
    scorer = scorer_of(
        condition,
        record,
        preset=config.preset,
        tolerance_px=config.tolerance,
        palette_C3=colors,
        true_edges=ridges if truth is not None else None,
    )
    extras, missing = extras_of(config, rows, resolve_device(config.device))
    return Judging(
        condition=condition,
        rows=rows,
        annotator=annotator,
        scorer=scorer,
        same_judge=same_judge,
        truth=truth,
        extras=extras,
        missing=missing,
    )


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


def judging_annotator(
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
    found = weights_ready([spec], runtime, download=True)  # before the first picture is sampled
    annotate = _annotating(spec, runtime, borders)
    said = {"name": spec.name, **record_of(spec, found.get(spec.name, ()))}
    return JudgeAnnotator(record=said, annotate=annotate, by_key=_draws_by_key(spec)), spec == drew


def _asked(config: EvaluateConfig, condition: str) -> Spec:
    """The annotator that `--judge` describes: a name, and options as `generate` has them."""
    values: dict[str, Any] = dict(_CNPP.get(condition, {})) if config.preset == "cnpp" else {}
    kinds = option_kinds(AnnotateConfig)
    for word in config.judge:
        name, separator, value = word.partition("=")
        if not separator:  # the annotator's name, which may be another than the condition's
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
    # Where it runs is no option of the judgement, unless somebody says so.
    values.setdefault("device", config.device)
    (spec,) = specs_of(configured(AnnotateConfig, conditions=(condition,), **values))
    return spec


def _draws_by_key(spec: Spec) -> bool:
    """Whether the same picture under another key may have another map."""
    if isinstance(spec, CannySpec):
        return spec.low[0] != spec.low[1] or spec.high[0] != spec.high[1]
    # What another package's annotator does with the key is not known.
    return not type(spec).__module__.startswith("annotators.") or spec.name == "shuffle"


def _kornia() -> JudgeAnnotator:
    """Edges as ControlNet++ extracts them, from the samples and from the real pictures."""
    from controlnet.evaluator.metrics.edges import kornia_canny

    def annotate(pictures: Sequence[RgbU8], keys: Sequence[str]) -> list[Seen | None]:
        return [kornia_canny(picture) for picture in pictures]

    record = {"name": "kornia canny", "parameters": {"low": 0.1, "high": 0.2}}
    return JudgeAnnotator(record=record, annotate=annotate, by_key=False, from_pictures=True)


@contextlib.contextmanager
def _bars() -> Iterator[OnProgress]:
    """One bar after the other: sampling, judging."""
    with contextlib.ExitStack() as stack:
        advances: dict[str, Callable[[int, int], None]] = {}

        def on_progress(doing: str, done: int, total: int) -> None:
            if doing not in advances:
                stack.close()
                advances[doing] = stack.enter_context(counting(doing))
            advances[doing](done, total)

        yield on_progress


def extras_of(
    config: EvaluateConfig, rows: JudgedRows, device: str
) -> tuple[Sequence[Extra], list[dict[str, str]]]:
    """What can be measured, and what cannot with the reason.

    Args:
        config: resolved.
        rows: that are judged.
        device: of the networks.

    Raises:
        ConfigError: weights that were asked for and are not here.
    """
    extras: list[Extra] = []
    missing: list[dict[str, str]] = []

    def lacks(measure: str, why: str) -> None:
        missing.append({"measure": measure, "why": why})

    def real() -> Iterator[RgbU8]:  # made anew for each distance; decoded pictures are not kept
        return (row.image for row in rows.rows)

    if config.inception is not None:
        extractor = inception(config.inception, device=device)
        extras.append(Distance(extractor, real, names=("fid", "kid"), labels=("FID", "KID")))
    else:
        lacks("FID, KID", "no Inception weights: give --inception FILE")
    if _is_nano(config):  # whose pictures Inception has never seen: a distance of latents
        base = load_base(str(nano.base_folder()), text=False, offline=True)
        names = ("frechet_latents", "kernel_latents")
        labels = ("Fréchet distance of latents", "kernel distance of latents")
        extras.append(Distance(vae_features(base), real, names=names, labels=labels))
    # Captions of the bundled base's scenes can be read, so that pictures can be held to them.
    if parse_caption(rows.rows[0].text) is not None and not config.empty_prompt:
        extras.append(Words())
    if config.clip is not None:
        extras.append(Clip(ClipScore(config.clip, device=device, offline=config.offline)))
    else:
        lacks("CLIP score", "no CLIP model: give --clip NAME")
    if config.samples == 1:
        lacks("diversity", "one picture a row: give --samples 4")
    elif config.lpips is not None:
        extras.append(Diversity(lpips_distance(config.lpips, device=device), "LPIPS"))
    else:
        extras.append(Diversity(rmse, "RMSE, of 255"))
    return extras, missing


def _is_nano(config: EvaluateConfig) -> bool:
    models = Models(base=config.base, precision="fp32", offline=True, device="cpu")
    bases = {models.base_of(place) for place in places_of(config.run, offline=config.offline)}
    return bases == {str(nano.base_folder())}
