"""Who says in a probe whether a picture obeys: the annotator whose maps the data set holds."""

from collections.abc import Collection, Sequence

from annotators.border import inside_borders
from annotators.protocol import Annotation
from annotators.registry import is_imported, need_known_models, spec_from_record
from annotators.runtime import Runtime
from controlnet.evaluator.metrics import scorer_of
from controlnet.evaluator.metrics.base import Seen
from controlnet.trainer.judge import Judge, Map
from schemas.dataset import open_dataset
from schemas.pixels import RgbU8

_BY_PIXELS = {"bilevel", "grey", "grey16"}


def judge_of(
    data: str, condition: str, runtime: Runtime, *, trusted: Collection[str] = ()
) -> Judge | None:
    """A judge for one condition of a data set.

    Args:
        data: folder or URI of a complete data set.
        condition: one of its conditions.
        runtime: where the annotator runs.
        trusted: models that the user named; a data set's own word does not load one.

    Returns:
        The first score of `controlset evaluate` in which higher is better, by the data set's own
        annotator and parameters: edge F1, MS-SSIM, delta of depth. None for coloured maps, whose
        scores need more than pixels, and for imported ones, which no annotator drew.

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
    need_known_models(spec, trusted)
    annotator, borders = spec.load(runtime), dataset.borders()
    scorer = scorer_of(condition, records[condition])
    measure = next(one for one in scorer.measures if one.higher_is_better)

    def score(pictures: Sequence[RgbU8], maps: Sequence[Map], keys: Sequence[str]) -> list[float]:
        results = inside_borders(spec, annotator, pictures, keys, [*map(borders.get, keys)])
        values = []
        for result, wanted in zip(results, maps, strict=True):
            found = None
            if isinstance(result, Annotation):
                found = Seen(pixels=result.pixels, stats=result.stats)
            counts = scorer(found, Seen(pixels=wanted, stats={}))
            values.append(measure.of_one(counts[measure.name]))
        return values

    return Judge(name=f"{condition} {measure.label}", score=score)
