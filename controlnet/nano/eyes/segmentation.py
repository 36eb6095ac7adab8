"""Classes of pixels: a SegFormer of transformers, with the 150 labels of ADE20K."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from controlnet.nano.eyes.training import (
    Recipe,
    Scenes,
    TrainConfig,
    as_input,
    class_weights,
    initialise,
    learn,
    maybe_mirrored,
)
from controlnet.nano.world import CLASSES

FOLDER = "openmmlab--upernet-convnext-small"

# Of ADE20K: labels of what the world has too, and for its shapes things of about that form.
LABELS = {
    "sky": 2, "wall": 0, "ground": 13, "person": 12,
    "circle": 148, "square": 22, "triangle": 43, "star": 134, "cross": 136, "ring": 100,
    "heart": 39, "moon": 82, "ball": 119, "box": 41, "cone": 72, "cylinder": 42,
}  # fmt: skip
RECIPE = Recipe(steps=3_000, batch=32, peak=2e-3)


def new_model() -> SegformerForSemanticSegmentation:
    """Untrained; 0.2 million parameters."""
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            num_labels=150,
            depths=[1, 1, 1, 1],
            hidden_sizes=[16, 32, 48, 64],
            num_attention_heads=[1, 2, 3, 4],
            patch_sizes=[3, 3, 3, 3],
            strides=[2, 2, 2, 2],
            decoder_hidden_size=64,
            classifier_dropout_prob=0.0,
        )
    )


def train(scenes: Scenes, config: TrainConfig) -> Path:
    """Train and write the model's folder; returns it."""
    torch.manual_seed(config.seed)
    model = new_model()
    initialise(model)
    labels = torch.tensor([LABELS[name] for name in CLASSES])
    unused = torch.tensor([label for label in range(150) if label not in LABELS.values()])
    with torch.no_grad():  # never the largest, so that they need not be learned
        model.decode_head.classifier.weight[unused] = 0
        model.decode_head.classifier.bias[unused] = -30
    rng = np.random.default_rng([config.seed, 5])
    rare = torch.from_numpy(class_weights(scenes))

    def loss(numbers: np.ndarray) -> Tensor:
        pair = scenes.rgb_NHWC[numbers], scenes.classes_NHW[numbers]
        rgb_BHWC, classes_BHW = maybe_mirrored(rng, *pair)
        wanted_BHW = torch.from_numpy(classes_BHW).long()
        logits = model(pixel_values=as_input(rgb_BHWC) / 127.5 - 1).logits[:, labels]
        logits = functional.interpolate(logits, wanted_BHW.shape[1:], mode="bilinear")
        return functional.cross_entropy(logits, wanted_BHW, rare)

    learn(model, loss, scenes, config, RECIPE)
    folder = config.output / FOLDER
    model.save_pretrained(folder)
    SegformerImageProcessor(
        size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder
