"""The five ways to learn control that are compared; all start from the same seed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from controlnet.ablations.lite import ControlNetLite
from controlnet.ablations.unlocked import Unlocked, base_of, predict_unlocked
from controlnet.architecture.backbone import Base
from controlnet.architecture.control import ControlNet
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.setup import CONTROLNET, new_or_given
from controlnet.trainer.step import Method, controlled


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
        free = base_of(base, control)
        return dataclasses.replace(free, unet=control.with_hint(hint_BCHW)), None

    def free(self, base: Base, control: ControlNet) -> Base:
        """The base as training leaves it, for samples without control."""
        if self.is_locked:
            return base
        assert isinstance(control, Unlocked)
        return base_of(base, control)


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
