"""Fold batch normalisation into the convolutions before it: the same map with fewer passes."""

import itertools
from typing import Any


def without_batch_norm(network: Any) -> Any:
    """A network for inference whose normalisations have become weights of its convolutions.

    Only for networks whose modules run in the order in which they were defined; a convolution
    directly followed by a BatchNorm2d of its width is folded (of timm's, which activate too, the
    activation stays). Call it before the weights are cast
    to another number format.

    Args:
        network: `torch.nn.Module`; changed in place.
    """
    from torch.nn import BatchNorm2d, Conv2d, Identity
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for parent in network.eval().modules():
        children = list(parent.named_children())
        for (name, convolution), (next_name, norm) in itertools.pairwise(children):
            fits = isinstance(convolution, Conv2d) and isinstance(norm, BatchNorm2d)
            if fits and convolution.out_channels == norm.num_features:
                setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, next_name, getattr(norm, "act", Identity()))
    return network
