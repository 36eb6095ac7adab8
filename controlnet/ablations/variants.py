"""The five ways to learn control that are compared; all start from the same seed.

ControlNet-lite, one convolution where the ControlNet has a copied block:

    hint c ──> hint block ──┐
    latent x_t ──> conv ───(+)──> conv ──> conv, stride 2 ──> … ──> conv (for the middle block)
                    │              │             │                    │
                zero conv      zero conv     zero conv            zero conv ──> decoder

What is left of the ControlNet: the hint block, the zero convolutions and the places where they are
added. What is gone: everything that the base knows, the time and the prompt.

The base itself fine-tuned, nothing locked, nothing copied, no zero convolution out:

    hint c ──> hint block (its last convolution is zero) ──┐
    latent x_t ──> first convolution ─────────────────────(+)──> the rest of the U-Net

All of it is trained. The hint still enters softly, so the first prediction is the base's own: what
this variant lacks is the lock, not the gentle start.
"""

import copy
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from controlnet.architecture.backbone import Base
from controlnet.architecture.control import ControlNet
from controlnet.architecture.unet import Prompt, Residuals, decode, embedding, encode
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.setup import CONTROLNET, new_or_given
from controlnet.trainer.step import Method, controlled


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
        pairs = zip(self.zero_convs, outputs, strict=True)
        *skips, middle = (zero(output_BCHW) for zero, output_BCHW in pairs)
        return Residuals(skips=tuple(skips), middle=middle)


def _conv(taken: int, given: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(taken, given, kernel_size=3, stride=stride, padding=1)


class Unlocked(ControlNet):
    """A whole U-Net that takes a hint.

    A `ControlNet` only in that it can be trained and stored like one; it has no residuals to give.

    Args:
        control: untrained; its hint block is taken over.
        unet: of a `Base`; copied, so that the base can still be compared with.
    """

    def __init__(self, control: ControlNet, unet: Any) -> None:
        nn.Module.__init__(self)
        self.config: dict[str, Any] = {"_class_name": "Unlocked"}
        self.hint = control.controlnet_cond_embedding
        self.unet = copy.deepcopy(unet).requires_grad_(True).train()

    def with_hint(self, hint_BCHW: Tensor) -> Any:
        """The U-Net as a sampler takes it, the hint's features behind its first convolution.

        Args:
            hint_BCHW: in [0, 1]; of each sample, or of each half of a doubled batch.
        """
        seen = copy.copy(self.unet)  # shares the weights; only its table of parts is another
        conv = _HintedConv(self.unet.conv_in, self.hint(hint_BCHW))
        seen._modules = {**self.unet._modules, "conv_in": conv}
        return seen


class _HintedConv(nn.Module):
    """A first convolution and what it adds."""

    def __init__(self, conv: nn.Module, features_BCHW: Tensor) -> None:
        super().__init__()
        self.conv = conv
        self._features_BCHW = features_BCHW

    def forward(self, noisy_BCHW: Tensor) -> Tensor:
        copies = len(noisy_BCHW) // len(self._features_BCHW)  # 2 under guidance
        return self.conv(noisy_BCHW) + self._features_BCHW.repeat(copies, 1, 1, 1)


def predict_unlocked(
    control: Unlocked,
    unet: Any,
    noisy_BCHW: Tensor,
    timestep_B: Tensor,
    prompt: Prompt,
    hint_BCHW: Tensor,
) -> Tensor:
    """What the fine-tuned U-Net predicts, with gradients everywhere; the locked one is not asked.

    Arguments are those of `step.Predict`.
    """
    net = control.with_hint(hint_BCHW)
    emb_BE = embedding(net, timestep_B, prompt, noisy_BCHW.dtype)
    skips, middle_BCHW = encode(net, net.conv_in(noisy_BCHW), emb_BE, prompt.text_BLD)
    return decode(net, skips, middle_BCHW, emb_BE, prompt.text_BLD)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One row of the table."""

    name: str
    label: str
    method: Method
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the recipe
    is_locked: bool = True  # whether the base stays as it was

    def under_control(
        self, base: Base, control: ControlNet, hint_BCHW: Tensor
    ) -> tuple[Base, ControlNet | None]:
        """What the sampler takes for controlled samples."""
        if self.is_locked:
            return base, control
        assert isinstance(control, Unlocked)
        control.unet.eval()
        return dataclasses.replace(base, unet=control.with_hint(hint_BCHW)), None

    def free(self, base: Base, control: ControlNet) -> Base:
        """The base as training leaves it, for samples without control."""
        if self.is_locked:
            return base
        assert isinstance(control, Unlocked)
        return dataclasses.replace(base, unet=control.unet.eval())


def gaussian(config: TrainConfig, base: Base) -> ControlNet:
    """Every zero convolution an ordinary one: weights N(0, 1 / fan-in), biases 0.

    The last convolution of the hint block is one of them. The paper gives no deviation; this one
    hands on its input's variance.
    """
    control = new_or_given(config, base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for conv in (*control.zero_convs, control.controlnet_cond_embedding.conv_out):
            assert isinstance(conv, nn.Conv2d)
            nn.init.normal_(conv.weight, std=conv.weight[0].numel() ** -0.5)
    return control


def lite(config: TrainConfig, base: Base) -> ControlNet:
    """One convolution instead of each copied block."""
    control = new_or_given(config, base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return ControlNetLite(control)


def unlocked(config: TrainConfig, base: Base) -> ControlNet:
    """The base itself with a hint block."""
    return Unlocked(new_or_given(config, base), base.unet)


VARIANTS = (
    Variant(name="zero", label="zero convolutions (ours)", method=CONTROLNET),
    Variant(
        name="gaussian",
        label="Gaussian convolutions instead",
        method=Method(build=gaussian, predict=controlled),
    ),
    Variant(
        name="lite",
        label="ControlNet-lite: one convolution a block",
        method=Method(build=lite, predict=controlled),
    ),
    Variant(
        name="no-dropout",
        label="no prompt dropout",
        method=CONTROLNET,
        changes={"prompt_dropout": 0.0},
    ),
    Variant(
        name="unlocked",
        label="base fine-tuned, no lock, no copy",
        method=Method(build=unlocked, predict=predict_unlocked),
        is_locked=False,
    ),
)
"""In the order of the table; the first is what the others are compared with."""
