"""How often the small annotators are right on drawn scenes that none has seen; prints a table.

    python -m benchmarks.nano_eyes [--scenes 500] [--weights nano] [--only depth hed pose ...]

The truth is the drawing's own. Each annotator is loaded and asked by the class that `generate`
uses; so what is measured is what a data set would hold.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from annotators.captions import BlipSpec
from annotators.conditions.segmentation import palette
from annotators.conditions.soft_edges import ridges
from annotators.options import AnnotateConfig, configured
from annotators.protocol import Annotation
from annotators.registry import specs_of
from annotators.runtime import Runtime
from benchmarks.generate_throughput import machine
from controlnet.evaluator.metrics.base import Scorer, Seen
from controlnet.evaluator.metrics.edges import BoundaryScorer
from controlnet.evaluator.metrics.pose import PoseScorer
from controlnet.evaluator.truth import person_of
from controlnet.nano.eyes.depth import SKY_BEYOND_M
from controlnet.nano.eyes.segmentation import LABELS
from controlnet.nano.eyes.training import UNSEEN_SEED
from controlnet.nano.world import (
    CLASSES,
    Drawn,
    Scene,
    draw,
    make_scene,
    short_caption,
    short_facts,
)
from controlnet.nano.world.people import JOINTS

_LEAST_GAP = 0.03  # of the depths of two things that touch, relative: which one is nearer


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A scene and its picture."""

    scene: Scene
    drawn: Drawn


def examples(count: int) -> list[Example]:
    """Scenes of a seed that nothing is trained on."""
    scenes = [make_scene(UNSEEN_SEED, number) for number in range(count)]
    return [Example(scene=scene, drawn=draw(scene)) for scene in scenes]


def annotated(
    condition: str, pictures: Sequence[np.ndarray], weights: str, **options: Any
) -> list[Any]:
    """What the condition's annotator says of each picture."""
    config = configured(AnnotateConfig, conditions=(condition,), precision="fp32", **options)
    (spec,) = specs_of(config)
    keys = [str(number) for number in range(len(pictures))]
    return spec.load(Runtime(weights=weights, offline=True))(pictures, keys)


def depth_accuracy(maps: Sequence[Any], wanted: Sequence[Drawn]) -> dict[str, float]:
    """Share of pixels within a quarter of their depth, and of touching pairs in the right order."""
    near: list[float] = []
    pairs: list[bool] = []
    for found, drawn in zip(maps, wanted, strict=True):
        nearness = found.pixels.astype(np.float64)
        there = drawn.depth_m < SKY_BEYOND_M
        design = np.stack([nearness[there], np.ones(there.sum())], axis=1)
        fitted = np.linalg.lstsq(design, 1 / drawn.depth_m[there], rcond=None)[0]
        depth_m = 1 / np.clip(design @ fitted, 1 / SKY_BEYOND_M, None)
        ratio = depth_m / drawn.depth_m[there]
        near.append(float((np.maximum(ratio, 1 / ratio) < 1.25).mean()))
        pairs += _orders(nearness, drawn)
    return {"δ < 1.25": float(np.mean(near)), "order of touching things": float(np.mean(pairs))}


def _orders(nearness: np.ndarray, drawn: Drawn) -> list[bool]:
    things = [number for number in np.unique(drawn.instances) if number]
    masks = {number: drawn.instances == number for number in things}
    right: list[bool] = []
    for one, other in itertools.combinations(things, 2):
        grown = cv2.dilate(masks[one].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        if not (grown & masks[other]).any():
            continue
        truths = [float(np.median(drawn.depth_m[masks[number]])) for number in (one, other)]
        if abs(truths[0] - truths[1]) < _LEAST_GAP * min(truths):
            continue
        seen = [float(np.median(nearness[masks[number]])) for number in (one, other)]
        right.append((seen[0] > seen[1]) == (truths[0] < truths[1]))
    return right


def edge_accuracy(maps: Sequence[Any], wanted: Sequence[Drawn]) -> dict[str, float]:
    """F of boundaries at the one best threshold for all pictures, 1 px off allowed."""
    scorer = BoundaryScorer(thin=ridges)
    contributions = [
        scorer(Seen(pixels=found.pixels, stats={}), Seen(pixels=drawn.boundaries, stats={}))
        for found, drawn in zip(maps, wanted, strict=True)
    ]
    return _measured(scorer, contributions)


def segmentation_accuracy(maps: Sequence[Any], wanted: Sequence[Drawn]) -> dict[str, float]:
    """Mean over the classes of intersection over union, over all pictures."""
    colors = palette()[[LABELS[name] for name in CLASSES]]
    both, either = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    for found, drawn in zip(maps, wanted, strict=True):
        for number, color in enumerate(colors):
            said, true = (found.pixels == color).all(-1), drawn.classes == number
            both[number] += (said & true).sum()
            either[number] += (said | true).sum()
    return {"mIoU": float((both[either > 0] / either[either > 0]).mean())}


def pose_accuracy(maps: Sequence[Any], wanted: Sequence[Drawn]) -> dict[str, float]:
    """COCO's AP over the set, from the joints that a person shows or hides inside the picture.

    Beside it: joints within a tenth and a fifth of the person's size, and people that were found.
    """
    scorer = PoseScorer()
    contributions: list[dict[str, np.ndarray]] = []
    for found, drawn in zip(maps, wanted, strict=True):
        people = [person_of(JOINTS, person.joints) for person in drawn.people]
        truth = Seen(pixels=drawn.rgb, stats={"keypoints": people})
        said = None
        if isinstance(found, Annotation):
            said = Seen(pixels=found.pixels, stats=found.stats)
        contributions.append(scorer(said, truth))
    return _measured(scorer, contributions, first=5)


def _measured(
    scorer: Scorer, contributions: Sequence[dict[str, np.ndarray]], first: int = 1
) -> dict[str, float]:
    """The first measures, of all pictures together."""
    return {
        measure.label: measure.aggregate(
            np.stack([counts[measure.name] for counts in contributions])
        )
        for measure in scorer.measures[:first]
    }


def caption_accuracy(texts: Sequence[Any], wanted: Sequence[Scene]) -> dict[str, float]:
    """Things named with their colour, captions that invent nothing, captions right as a whole."""
    named: list[bool] = []
    honest: list[bool] = []
    whole: list[bool] = []
    for text, scene in zip(texts, wanted, strict=True):
        truth = short_facts(short_caption(scene))
        said = short_facts(text) if isinstance(text, str) else None
        assert truth is not None
        left = list(said.things) if said else []
        kinds = [kind for kind, _ in truth.things]
        for thing in truth.things:
            named.append(thing in left)
            if thing in left:
                left.remove(thing)
        invented = False
        for kind, _ in said.things if said else ():
            invented |= kind not in kinds
            if kind in kinds:
                kinds.remove(kind)
        honest.append(said is not None and not invented)
        whole.append(said == truth)
    return {
        "things with their colour": float(np.mean(named)),
        "nothing invented": float(np.mean(honest)),
        "all facts right": float(np.mean(whole)),
    }


_ACCURACY: dict[str, tuple[Callable[..., dict[str, float]], dict[str, Any]]] = {
    "depth": (depth_accuracy, {"depth_bits": 16}),
    "canny": (edge_accuracy, {}),  # which has learned nothing: what HED is compared with
    "hed": (edge_accuracy, {}),
    "softedge": (edge_accuracy, {}),
    "pose": (pose_accuracy, {}),
    "segmentation": (segmentation_accuracy, {}),
}
ANNOTATORS = (*_ACCURACY, "blip")


def accuracy(annotator: str, unseen: Sequence[Example], weights: str) -> dict[str, float]:
    """Name of each measure -> its value, 0..1.

    Args:
        annotator: one of ANNOTATORS.
        unseen: from `examples`.
        weights: as in `--weights`.
    """
    pictures = [example.drawn.rgb for example in unseen]
    if annotator == "blip":
        captioner = BlipSpec().load(Runtime(weights=weights, offline=True))
        texts = captioner(pictures, [str(number) for number in range(len(pictures))])
        return caption_accuracy(texts, [example.scene for example in unseen])
    measure, options = _ACCURACY[annotator]
    maps = annotated(annotator, pictures, weights, **options)
    return measure(maps, [example.drawn for example in unseen])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--only", nargs="+", default=ANNOTATORS, choices=ANNOTATORS)
    options = parser.parse_args()
    unseen = examples(options.scenes)
    print(f"{options.scenes} unseen scenes of 64x64 on {machine()}\n")
    print("| annotator | measure | value |\n|---|---|---|")
    for annotator in options.only:
        for name, value in accuracy(annotator, unseen, options.weights).items():
            print(f"| {annotator} | {name} | {value:.3f} |", flush=True)


if __name__ == "__main__":
    main()
