"""PiDiNet soft edges: the network and weights of the ControlNet 1.1 annotator."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from annotators.network import NetworkAnnotator, as_batch, placed, read_weights, reference
from annotators.protocol import Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.soft_edges import SOFT_STATS, SoftMode, enlarged, halved, soft_edges
from annotators.weights import ANNOTATORS, Weights

if TYPE_CHECKING:
    import torch
    from torch import nn

PIDINET = Weights(
    hub_id=ANNOTATORS,
    file="table5_pidinet.pth",
    licence="research only; commercial use on request to the authors of PiDiNet",
    size_mb=3,
    sha256="80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c",
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SoftedgeSpec:
    """Which form the edges take."""

    name: ClassVar[str] = "softedge"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "grey"
    stats: ClassVar[Mapping[str, str]] = SOFT_STATS
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux)"

    mode: SoftMode = "soft"
    """How PiDiNet's edges are stored: soft, safe or scribble, as with `--hed-mode`."""

    precision: Precision = "fp32"

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (PIDINET,)

    def load(self, runtime: Runtime) -> Annotator:
        network = reference("pidi.model").pidinet()
        read_weights(network, PIDINET, runtime, within="state_dict")
        plain = with_plain_convolutions(network)  # in float32, before its weights are rounded
        return NetworkAnnotator(
            runtime=runtime,
            # The authors' network was trained on BGR, as controlnet-aux feeds it.
            feed=lambda images: as_batch(images, runtime, self.precision).flip(1) / 255,
            network=placed(plain, runtime, self.precision, forward=_logits),
            draw=lambda logits, _height, _width: soft_edges(logits, self.mode),
        )


def _logits(network: Any, bgr: "torch.Tensor") -> "torch.Tensor":
    """Logits of edges, with fewer passes over memory than controlnet-aux's `forward`.

    Args:
        network: PiDiNet, from `with_plain_convolutions`. Parameters and arithmetic are its own.
        bgr: (B, 3, H, W), 0..1.

    Returns:
        (B, H, W) float32.
    """
    import torch
    from torch.nn.functional import conv2d

    features = network.init_block(bgr)
    sides: list[torch.Tensor] = []
    for stage, blocks in enumerate((3, 4, 4, 4), start=1):
        for block in range(1, blocks + 1):
            features = _block(getattr(network, f"block{stage}_{block}"), features)
        sides.append(_side(network, stage - 1, features))
    together = torch.cat(enlarged(sides), dim=1)
    last = network.classifier
    return conv2d(together, last.weight.float(), last.bias.float())[:, 0]


def with_plain_convolutions(network: "nn.Module") -> "nn.Module":
    """PiDiNet without pixel differences, which its own code works out again at every call.

    Args:
        network: `pidinet()` of controlnet-aux; changed in place.

    Source: `createConvFunc` of controlnet-aux 0.0.10; kinds of layers: its configuration `carv4`.
    """
    from torch import nn

    pidi = reference("pidi.model")
    modules: list[tuple[str, Any]] = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, pidi.Conv2d)
    ]
    for (name, module), kind in zip(modules, pidi.nets["carv4"].values(), strict=True):
        weight = _plain(kind, module.weight.detach())
        taps = weight.shape[-1]
        plain = nn.Conv2d(
            module.in_channels,
            module.out_channels,
            taps,
            padding=taps // 2,
            groups=module.groups,
            bias=False,
        )
        plain.weight = nn.Parameter(weight, requires_grad=False)
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, plain)
    return network


def _plain(kind: str, weight: "torch.Tensor") -> "torch.Tensor":
    """The kernel that gives at once what a pixel difference convolution gives in steps.

    Args:
        kind: cv (plain), cd (central), ad (angular) or rd (radial difference).
        weight: (O, I, 3, 3).

    Returns:
        (O, I, 3, 3), for rd (O, I, 5, 5).
    """
    flat = weight.flatten(2)
    if kind == "cd":
        plain = weight.clone()
        plain[:, :, 1, 1] -= flat.sum(dim=2)
        return plain
    if kind == "ad":
        return (flat - flat[:, :, [3, 0, 1, 6, 4, 2, 7, 8, 5]]).view_as(weight)
    if kind == "rd":
        plain = weight.new_zeros(*weight.shape[:2], 25)
        plain[:, :, [0, 2, 4, 10, 14, 20, 22, 24]] = flat[:, :, 1:]
        plain[:, :, [6, 7, 8, 11, 13, 16, 17, 18]] = -flat[:, :, 1:]
        return plain.view(*weight.shape[:2], 5, 5)
    return weight.clone()


def _block(block: Any, features: "torch.Tensor") -> "torch.Tensor":
    if block.stride > 1:
        features = halved(features)
    answer = block.conv2(block.conv1(features).relu_())
    return answer.add_(block.shortcut(features) if block.stride > 1 else features)


def _side(network: Any, stage: int, features: "torch.Tensor") -> "torch.Tensor":
    """One channel of edges: dilated convolutions, then attention.

    The reference multiplies every channel with the attention and then adds the channels up;
    weighting the sum is the same.
    """
    from torch.nn.functional import conv2d

    dilation, attention = network.dilations[stage], network.attentions[stage]
    narrow = dilation.conv1(features.relu())
    wide = dilation.conv2_1(narrow)
    for convolution in (dilation.conv2_2, dilation.conv2_3, dilation.conv2_4):
        wide.add_(convolution(narrow))
    reduce = network.conv_reduces[stage].conv
    edges = conv2d(wide, reduce.weight).float()
    weight = attention.conv2(attention.conv1(wide.relu_())).float().sigmoid_()
    return edges.mul_(weight).add_(reduce.bias.float())
