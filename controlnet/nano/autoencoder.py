"""The nano base's VAE: 64x64x3 pictures <-> 16x16x4 latents, trained on drawn scenes."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from controlnet.nano.scenes import SIZE_PX, Scene, draw, random_scene

BATCH = 16
_KL_WEIGHT = 1e-6
_EDGE_WEIGHT = 1.0  # on finite differences: without it edges come out soft
_EDGES_FROM = 0.3  # of all steps; from the start it would slow the coarse learning down


def new_autoencoder() -> AutoencoderKL:
    """Untrained; 0.8 million parameters, factor 4."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE_PX,
    )
    # Start with a narrow posterior: with a standard deviation of one, as zero log-variance gives,
    # the decoder sees little but noise and needs three times the steps.
    torch.nn.init.constant_(vae.quant_conv.bias[4:], -4.0)
    return vae


def train_autoencoder(vae: AutoencoderKL, *, steps: int, seed: int) -> Iterator[float]:
    """Train on freshly drawn scenes; yields the L1 of each step, range 0..2.

    Args:
        vae: changed in place.
        steps: of `BATCH` pictures each.
        seed: of the scenes and the posterior's noise.
    """
    rng = np.random.default_rng([seed, 1])
    generator = torch.Generator().manual_seed(seed)
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.05
    )
    for step in range(steps):
        picture_BCHW = pictures([random_scene(rng) for _ in range(BATCH)])
        posterior = vae.encode(picture_BCHW).latent_dist
        noise_BCHW = torch.randn(posterior.mean.shape, generator=generator)
        decoded_BCHW = vae.decode(posterior.mean + posterior.std * noise_BCHW).sample
        l1 = functional.l1_loss(decoded_BCHW, picture_BCHW)
        edges = sum(
            functional.l1_loss(decoded_BCHW.diff(dim=axis), picture_BCHW.diff(dim=axis))
            for axis in (2, 3)
        )
        edge_weight = _EDGE_WEIGHT if step >= _EDGES_FROM * steps else 0.0
        loss = l1 + edge_weight * edges + _KL_WEIGHT * posterior.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield l1.item()


def pictures(scenes: Sequence[Scene]) -> Tensor:
    """Draw scenes: (B, 3, 64, 64) float32 in [-1, 1], channels last."""
    drawn_BHWC = np.stack([draw(scene) for scene in scenes])
    unit_BCHW = torch.from_numpy(drawn_BHWC).permute(0, 3, 1, 2).float() / 127.5 - 1
    return unit_BCHW.contiguous(memory_format=torch.channels_last)
