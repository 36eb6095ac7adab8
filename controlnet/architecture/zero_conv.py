"""Zero convolution: the door through which control is let in, shut when training starts."""

import copy

from jaxtyping import Float
from torch import Tensor, nn


def zero_conv(channels: int) -> nn.Conv2d:
    """1x1 convolution with weight and bias exactly zero.

    Args:
        channels: C of its input and of its output.

    Source: Zhang et al. 2023 (arXiv 2302.05543), section 3.1.
    """
    return zeroed(nn.Conv2d(channels, channels, kernel_size=1))


def zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with weight and bias exactly zero."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class ControlledBlock(nn.Module):
    """y_c = F(x; locked) + Z_out(F(x + Z_in(c); copy)): the paper's equation 2 for one block.

    `control.ControlNet` is this for half a U-Net at once; this one is here to be read and tested.

    Args:
        block: any shape-preserving module, frozen already or not; it gets frozen.
        channels: C of its input and output.
    """

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.copy = copy.deepcopy(block).requires_grad_(True)
        self.locked = block.requires_grad_(False)
        self.zero_in = zero_conv(channels)
        self.zero_out = zero_conv(channels)

    def forward(
        self, x_BCHW: Float[Tensor, "B C H W"], hint_BCHW: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        control_BCHW = self.copy(x_BCHW + self.zero_in(hint_BCHW))
        return self.locked(x_BCHW) + self.zero_out(control_BCHW)
