"""A VAE with random weights that encodes 64 px in milliseconds."""

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

FACTOR = 4


def make_vae(*, seed=0, **changes):
    """Four latent channels, factor 4."""
    options = {
        "block_out_channels": (16, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 8,
        "layers_per_block": 1,
        "sample_size": 32,
        "scaling_factor": 0.5,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderKL(**options | changes).eval()


def save_vae(folder, **options):
    """Write a base that consists of a VAE alone; returns it."""
    make_vae(**options).save_pretrained(folder / "vae")
    return folder


def moments_by_diffusers(vae, rgb):
    """(2C, h, w) float32, as `vae.encode` gives them."""
    signed = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        posterior = vae.encode(signed).latent_dist
    return torch.cat([posterior.mean, posterior.logvar], dim=1)[0].numpy()


def within_rounding(moments, expected):
    """Whether float16 moments are float32 ones but for rounding."""
    assert moments.dtype == np.float16
    # Half a unit in float16's last place; 3e-5 were measured between memory layouts in float32.
    return np.allclose(moments.astype(np.float32), expected, rtol=2**-11, atol=1e-4)
