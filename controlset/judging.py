"""Who says in a probe whether a picture obeys: the annotator whose maps the data set holds."""

from collections.abc import Sequence

from annotators.protocol import Annotation
from annotators.registry import spec_from_record
from annotators.runtime import Runtime
from controlnet.evaluator.edges import edge_f1
from controlnet.trainer.judge import Judge, Map
from schemas.dataset import open_dataset
from schemas.pixels import RgbU8

_TOLERANCE_PX = 1


def judge_of(data: str, condition: str, runtime: Runtime) -> Judge | None:
    """A judge for one condition of a data set.

    Args:
        data: folder or URI of a complete data set.
        condition: one of its conditions.
        runtime: where the annotator runs.

    Returns:
        Edge F1 with the data set's own annotator and parameters; None for maps that are not
        two-valued, whose scores come with `controlset evaluate`.

    Raises:
        ConfigError: the annotator or its weights are not here.
    """
    records = open_dataset(data).manifest.annotators
    if condition not in records or records[condition]["hint_mode"] != "bilevel":
        return None
    spec = spec_from_record(condition, records[condition])
    annotator = spec.load(runtime)

    def score(pictures: Sequence[RgbU8], maps: Sequence[Map], keys: Sequence[str]) -> list[float]:
        results = annotator(pictures, keys)
        return [
            edge_f1(result.pixels, wanted, tolerance_px=_TOLERANCE_PX)
            if isinstance(result, Annotation)
            else 0.0
            for result, wanted in zip(results, maps, strict=True)
        ]

    return Judge(name=f"{condition} F1 ({_TOLERANCE_PX} px)", score=score)
