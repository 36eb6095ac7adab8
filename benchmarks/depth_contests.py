"""The two kinds of depth networks at their released sizes, and what they are measured against."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

MODEL = "Intel/dpt-hybrid-midas"


def write_midas(folder: Path) -> None:
    """Random weights of MiDaS, in the released file's format."""
    import torch

    from annotators.conditions.depth import MIDAS
    from annotators.network import reference

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm renamed the backbone
        network = reference("midas.midas.dpt_depth").DPTDepthModel(backbone="vitb_rn50_384")
    # Random weights answer 0 behind the last ReLU nearly everywhere.
    torch.nn.init.constant_(network.scratch.output_conv[4].bias, 1.0)
    torch.save(network.state_dict(), folder / str(MIDAS.file))


def write_dpt(folder: Path) -> None:
    """A transformers model of the size of MODEL, with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.DPTConfig(
        is_hybrid=True, neck_hidden_sizes=[256, 512, 768, 768], reassemble_factors=[1, 1, 1, 0.5]
    )
    model = transformers.DPTForDepthEstimation(config)
    torch.nn.init.normal_(model.head.head[4].weight)
    torch.nn.init.constant_(model.head.head[4].bias, 5.0)
    model.save_pretrained(_place(folder))
    half = [0.5, 0.5, 0.5]
    processor = transformers.DPTImageProcessor(image_mean=half, image_std=half)
    processor.save_pretrained(_place(folder))


def transformers_loop(weights: Path) -> Callable[[Sequence[np.ndarray]], None]:
    """One image at a time with two threads, as the model's card shows it."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    torch.set_num_threads(2)
    processor = AutoImageProcessor.from_pretrained(_place(weights))
    model = AutoModelForDepthEstimation.from_pretrained(_place(weights)).eval()

    def run(images: Sequence[np.ndarray]) -> None:
        for image in images:
            with torch.no_grad():
                outputs = model(**processor(images=Image.fromarray(image), return_tensors="pt"))
            sizes = [image.shape[:2]]
            (after,) = processor.post_process_depth_estimation(outputs, target_sizes=sizes)
            depth = after["predicted_depth"]
            scaled = (depth - depth.min()) / (depth.max() - depth.min())
            (scaled.numpy() * 255).astype(np.uint8)

    return run


def _place(folder: Path) -> Path:
    return folder / MODEL.replace("/", "--")
