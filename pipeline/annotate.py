"""Condition maps of one batch of stored images."""

from collections.abc import Mapping, Sequence

from annotators.protocol import Annotation, Annotator, Spec
from schemas.errors import Rejected
from schemas.pixels import RgbU8, encode_bilevel_png, encode_map_png


def annotate(
    spec: Spec, annotator: Annotator, images: Sequence[RgbU8], keys: Sequence[str]
) -> list[Annotation | Rejected]:
    """Run an annotator and hold it to its contract.

    Args:
        spec: what the annotator was loaded from.
        annotator: the loaded function.
        images: each (H, W, 3) uint8, decoded from the bytes that are stored.
        keys: one for each image.

    Returns:
        One result for each image, in order; each map has its image's height and width.

    Raises:
        RuntimeError: the annotator broke its contract (a bug in it, not in the picture).
    """
    if not images:
        return []
    results = annotator(images, keys)
    if len(results) != len(images):
        raise RuntimeError(
            f"annotator {spec.name}: need {len(images)} results for {len(images)} images, "
            f"got {len(results)}"
        )
    for rgb, key, result in zip(images, keys, results, strict=True):
        if isinstance(result, Annotation):
            _hold_to_contract(spec, key, rgb, result)
    return results


def encode_map(spec: Spec, annotation: Annotation) -> bytes:
    """PNG of a map in the form that the spec promises."""
    if spec.hint_mode == "bilevel":
        return encode_bilevel_png(annotation.pixels)
    return encode_map_png(annotation.pixels)


def _hold_to_contract(spec: Spec, key: str, rgb: RgbU8, annotation: Annotation) -> None:
    if annotation.pixels.shape[:2] != rgb.shape[:2]:
        raise RuntimeError(
            f"annotator {spec.name}: need a map of {rgb.shape[1]}x{rgb.shape[0]} px for {key}, "
            f"got {annotation.pixels.shape[1]}x{annotation.pixels.shape[0]}"
        )
    if annotation.stats.keys() != spec.stats.keys():
        raise RuntimeError(
            f"annotator {spec.name}: need the statistics {sorted(spec.stats)} for {key}, "
            f"got {sorted(annotation.stats)}"
        )


def stat_columns(spec: Spec, annotation: Annotation | None) -> Mapping[str, float | int | None]:
    """`<condition>_<stat>` -> value; null where there is no map."""
    return {
        f"{spec.name}_{stat}": None if annotation is None else annotation.stats[stat]
        for stat in spec.stats
    }
