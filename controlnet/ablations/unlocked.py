"""Fine-tuning the base itself: nothing locked, nothing copied, no zero convolution out.

    hint c ──> hint block (its last convolution is zero) ──┐
    latent x_t ──> first convolution ─────────────────────(+)──> the rest of the U-Net

All of it is trained. The hint still enters softly, so the first prediction is the base's own: what
this variant lacks is the lock, not the gentle start.
"""

import copy
import dataclasses
from typing import Any

from torch import Tensor, nn

from controlnet.architecture.backbone import Base
from controlnet.architecture.control import ControlNet
from controlnet.architecture.unet import Prompt, decode, embedding, encode


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
        seen = copy.copy(self.unet)
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

    Args:
        control: trained.
        unet: locked; not used.
        noisy_BCHW: noisy latent.
        timestep_B: int64, 0..999.
        prompt: of each sample.
        hint_BCHW: in [0, 1].
    """
    net = control.with_hint(hint_BCHW)
    emb_BE = embedding(net, timestep_B, prompt, noisy_BCHW.dtype)
    skips, middle_BCHW = encode(net, net.conv_in(noisy_BCHW), emb_BE, prompt.text_BLD)
    return decode(net, skips, middle_BCHW, emb_BE, prompt.text_BLD)


def base_of(base: Base, control: Unlocked) -> Base:
    """What has become of the base: the fine-tuned U-Net, without any hint."""
    return dataclasses.replace(base, unet=control.unet.eval())
