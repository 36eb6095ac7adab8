"""Semantic segmentation into the 150 classes of ADE20K, in the palette ControlNet learned from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from annotators.depth_networks import prepared
from annotators.networks import in_equal_sizes, not_finite, placed, reference
from annotators.options import EyeOptions
from annotators.pretrained import config_of, model_of, processor_of
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.weights import Weights, locate, model
from schemas.errors import ConfigError, Rejected
from schemas.pixels import RgbU8

if TYPE_CHECKING:
    import torch

_CLASSES = 150


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationSpec:
    """Which model tells the classes apart."""

    name: ClassVar[str] = "segmentation"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "rgb"
    stats: ClassVar[Mapping[str, str]] = {"classes": "int32"}  # how many there are in the picture
    licence: ClassVar[str] = "Apache-2.0 (transformers)"

    model: str = "openmmlab/upernet-convnext-small"  # hub name or folder
    precision: Precision = "fp32"

    @classmethod
    def from_options(cls, options: EyeOptions, precision: Precision) -> "SegmentationSpec":
        return cls(model=options.segmentation_model, precision=precision)

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (model(self.model),)

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
        return _Segmentation(
            spec=self,
            runtime=runtime,
            network=placed(network, runtime, self.precision),
            processor=processor_of(folder),
            palette=np.array(reference("util").ade_palette(), np.uint8),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Segmentation:
    spec: SegmentationSpec
    runtime: Runtime
    network: Any
    processor: Any
    palette: np.ndarray  # (150, 3) uint8, RGB

    def __call__(self, images: Sequence[RgbU8], keys: Sequence[str]) -> list[Annotation | Rejected]:
        return in_equal_sizes(images, keys, self._look, at_once=self.runtime.images_at_once)

    def _look(
        self, images: Sequence[RgbU8], keys: Sequence[str]
    ) -> Sequence[Annotation | Rejected]:
        import torch

        height, width = images[0].shape[:2]
        with torch.inference_mode():
            pixels = prepared(images, self.processor, self.runtime, self.spec.precision)
            logits = self.network(pixel_values=pixels).logits
            # One by one: at 1024x1024 the enlarged logits of one image are 600 MB.
            return [self._drawn(one, height, width) for one in logits.float()]

    def _drawn(self, logits: "torch.Tensor", height: int, width: int) -> Annotation | Rejected:
        import torch

        if not torch.isfinite(logits).all():
            return not_finite()
        classes = classes_of(logits, height, width)
        stats = {"classes": len(np.unique(classes))}
        return Annotation(pixels=self.palette[classes], stats=stats)


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
