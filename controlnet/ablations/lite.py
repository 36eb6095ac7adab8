"""ControlNet-lite: one convolution where the ControlNet has a copied block.

    hint c ──> hint block ──┐
    latent x_t ──> conv ───(+)──> conv ──> conv, stride 2 ──> … ──> conv (for the middle block)
                    │              │             │                    │
                zero conv      zero conv     zero conv            zero conv ──> decoder

What is left of the ControlNet: the hint block, the zero convolutions and the places where they are
added. What is gone: everything that the base knows, the time and the prompt.
"""

import itertools
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from controlnet.architecture.control import ControlNet
from controlnet.architecture.residuals import Residuals
from controlnet.architecture.unet import Prompt


class ControlNetLite(ControlNet):
    """Takes and gives what a ControlNet does, without a copy of the base.

    Args:
        control: untrained; its hint block and zero convolutions are taken over.

    Source: Zhang et al. 2023, figure 8 (c): each block's trainable copy is replaced by a single
    convolution. Code was not released; kernels of 3x3, PyTorch's initialisation and SiLU between
    the convolutions (without it all of them together were one linear map) are our choice.
    """

    def __init__(self, control: ControlNet) -> None:
        nn.Module.__init__(self)  # none of the copied parts
        self.config: dict[str, Any] = {**control.config, "_class_name": "ControlNetLite"}
        self.controlnet_cond_embedding = control.controlnet_cond_embedding
        self.controlnet_down_blocks = control.controlnet_down_blocks
        self.controlnet_mid_block = control.controlnet_mid_block
        widths: list[int] = list(control.config["block_out_channels"])
        each: int = control.config["layers_per_block"]
        outputs = [(widths[0], 1)]  # channels and stride of each skip
        for level, width in enumerate(widths):
            outputs += [(width, 1)] * each
            outputs += [(width, 2)] if level < len(widths) - 1 else []
        outputs.append((widths[-1], 1))  # the middle block
        self.conv_in = _conv(control.config["in_channels"], widths[0], 1)
        self.convs = nn.ModuleList(
            _conv(taken, given, stride)
            for (taken, _), (given, stride) in itertools.pairwise(outputs)
        )

    def answer(
        self, latent_BCHW: Tensor, timestep_B: Tensor, prompt: Prompt, features_BCHW: Tensor
    ) -> Residuals:
        """Residuals as a ControlNet gives them; neither time nor prompt matters."""
        h_BCHW = self.conv_in(latent_BCHW) + features_BCHW
        outputs = [h_BCHW]
        for conv in self.convs:
            h_BCHW = conv(functional.silu(h_BCHW))
            outputs.append(h_BCHW)
        said = [zero(one) for zero, one in zip(self.zero_convs, outputs, strict=True)]
        return Residuals(skips=tuple(said[:-1]), middle=said[-1])


def _conv(taken: int, given: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(taken, given, kernel_size=3, stride=stride, padding=1)
