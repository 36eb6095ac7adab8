"""Semantic segmentation into the 150 classes of ADE20K, in the palette ControlNet learned from."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from annotators.network import (
    NetworkAnnotator,
    config_of,
    model_of,
    not_finite,
    placed,
    prepared,
    processor_of,
    reference,
)
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.weights import Weights, locate, model
from schemas.errors import ConfigError, Rejected

if TYPE_CHECKING:
    import torch

MODELS = {"openmmlab/upernet-convnext-small": ("MIT", 330)}
"""Models of transformers that we name ourselves -> licence, size in MB."""

_CLASSES = 150


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationSpec:
    """Which model tells the classes apart."""

    name: ClassVar[str] = "segmentation"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "rgb"
    stats: ClassVar[Mapping[str, str]] = {"classes": "int32"}  # how many there are in the picture
    licence: ClassVar[str] = "Apache-2.0 (transformers)"

    model: str = "openmmlab/upernet-convnext-small"
    """Model of transformers that segments pictures into the 150 classes of ADE20K: its name on the
    hub, or a folder."""

    precision: Precision = "fp32"

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (model(self.model, MODELS),)

    def load(self, runtime: Runtime) -> Annotator:
        from transformers import AutoModelForSemanticSegmentation

        folder = locate(self.weights[0], runtime)
        labels = config_of(folder).num_labels
        if labels != _CLASSES:
            raise ConfigError(
                f"--segmentation-model {self.model}: need the {_CLASSES} classes of ADE20K, "
                f"got {labels}; choose a model that was trained on ADE20K"
            )
        # UperNet's second head only helps training; without it a picture costs less.
        network = model_of(AutoModelForSemanticSegmentation, folder, unused=("auxiliary_head",))
        if getattr(network, "auxiliary_head", None) is not None:
            network.auxiliary_head = None
        processor = processor_of(folder)
        colors = palette()
        return NetworkAnnotator(
            runtime=runtime,
            feed=lambda images: prepared(images, processor, runtime, self.precision),
            network=placed(network, runtime, self.precision),
            # One by one: at 1024x1024 the enlarged logits of one image are 600 MB.
            draw=lambda outputs, height, width: [
                _drawn(logits, colors, height, width) for logits in outputs.logits.float()
            ],
        )


def palette() -> np.ndarray:
    """Colours of ADE20K's classes, (150, 3) uint8 RGB."""
    # Released ControlNets know classes by these colours alone.
    return np.array(reference("util").ade_palette(), np.uint8)


def _drawn(
    logits: "torch.Tensor", colors: np.ndarray, height: int, width: int
) -> Annotation | Rejected:
    """A map in the palette's colours out of (C, h, w) logits."""
    import torch

    if not torch.isfinite(logits).all():
        return not_finite()
    classes = classes_of(logits, height, width)
    return Annotation(pixels=colors[classes], stats={"classes": len(np.unique(classes))})


def classes_of(logits: "torch.Tensor", height: int, width: int) -> np.ndarray:
    """The likeliest class of each pixel.

    The logits are enlarged, never the classes: between two classes there is no third one.

    Args:
        logits: (C, h, w) float32.
        height: of the image, px.
        width: of the image, px.

    Returns:
        (height, width) int64.

    Source: `post_process_semantic_segmentation` of transformers 5.
    """
    from torch.nn.functional import interpolate

    if logits.shape[1:] != (height, width):
        logits = interpolate(logits[None], (height, width), mode="bilinear")[0]
    return logits.argmax(0).cpu().numpy()
