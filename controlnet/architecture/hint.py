"""Hint block: brings a condition map from pixels to the size and channels of the U-Net's input."""

import itertools
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from controlnet.architecture.zero_conv import zeroed

HINT_WIDTHS = (16, 32, 96, 256)
"""Channels of the released ControlNets; each step but the first halves height and width."""


class HintBlock(nn.Module):
    """3x3 convolutions, SiLU between them, the last one zero; eight of them for a factor of 8.

    The released weights have this form, not the four 4x4 convolutions of the paper's text.
    State-dict keys are those of diffusers' `controlnet_cond_embedding`.

    Args:
        out_channels: channels of the U-Net's first convolution (320 in Stable Diffusion).
        in_channels: of the map; grey maps are repeated to three.
        widths: channels at full, half, quarter … size; their number sets the factor.
    """

    def __init__(
        self, out_channels: int, *, in_channels: int = 3, widths: Sequence[int] = HINT_WIDTHS
    ) -> None:
        super().__init__()
        self.conv_in = _conv(in_channels, widths[0])
        self.blocks = nn.ModuleList()
        for width, wider in itertools.pairwise(widths):
            self.blocks.append(_conv(width, width))
            self.blocks.append(_conv(width, wider, stride=2))
        self.conv_out = zeroed(_conv(widths[-1], out_channels))

    def forward(self, hint_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        """Features of a map.

        Args:
            hint_BCHW: in [0, 1].

        Returns:
            As large as the latent: height and width divided by the factor.
        """
        h_BCHW = functional.silu(self.conv_in(hint_BCHW))
        for conv in self.blocks:
            h_BCHW = functional.silu(conv(h_BCHW))
        return self.conv_out(h_BCHW)  # no activation: negative features are features


def hint_widths(factor: int) -> tuple[int, ...]:
    """Widths of a hint block that shrinks by `factor`.

    Args:
        factor: of the base's VAE, a power of two from 1 to 8: 8 for Stable Diffusion, 4 for nano.
    """
    return HINT_WIDTHS[: factor.bit_length()]


def _conv(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)
