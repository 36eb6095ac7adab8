"""The nano base's U-Net and text encoder, trained together on latents of drawn scenes."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from controlnet.nano.words import TOKENS

BATCH = 32
_EMPTY_PROMPTS = 0.15  # for classifier-free guidance
_WIDTH = 64  # of prompt embeddings


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Latents:
    """What the denoiser learns from, held in memory."""

    latent_NCHW: Tensor  # float32, scaled to unit variance
    ids_NL: Tensor  # int64, tokens of the captions
    empty_L: Tensor  # int64, tokens of ""


def new_unet() -> UNet2DConditionModel:
    """Untrained; 16x16x4 latents, attention at 8x8 and 4x4.

    Attention at 16x16 too would make a training step 1.3 times as long on two cores.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,  # diffusers' historic name for the number of heads
        norm_num_groups=16,
    )


def new_text_encoder(vocabulary: int) -> CLIPTextModel:
    """Untrained; two layers, 64 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            projection_dim=_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def train_denoiser(
    unet: UNet2DConditionModel, text: CLIPTextModel, data: Latents, *, steps: int, seed: int
) -> Iterator[float]:
    """Train U-Net and text encoder; yields the loss of each step, and leaves the averaged weights.

    Args:
        unet: changed in place.
        text: changed in place; only the U-Net's prompts, no CLIP objective.
        data: scenes.
        steps: of `BATCH` latents each.
        seed: of order, noise and timesteps.
    """
    generator = torch.Generator().manual_seed(seed)
    noising = DDPMScheduler.from_config(new_scheduler().config)
    unet.to(memory_format=torch.channels_last)
    learnable = [*unet.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(
        learnable, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-3, total_steps=steps, pct_start=0.05
    )
    average = EMAModel(learnable, decay=0.998, use_ema_warmup=True, power=0.75)
    for _ in range(steps):
        rows_B = torch.randint(len(data.latent_NCHW), (BATCH,), generator=generator)
        latent_BCHW = data.latent_NCHW[rows_B]
        empty_B = torch.rand(BATCH, generator=generator) < _EMPTY_PROMPTS
        ids_BL = torch.where(empty_B[:, None], data.empty_L, data.ids_NL[rows_B])
        noise_BCHW = torch.randn(latent_BCHW.shape, generator=generator)
        timestep_B = torch.randint(1000, (BATCH,), generator=generator)
        noisy_BCHW = noising.add_noise(latent_BCHW, noise_BCHW, timestep_B)
        noisy_BCHW = noisy_BCHW.contiguous(memory_format=torch.channels_last)
        loss = functional.mse_loss(unet(noisy_BCHW, timestep_B, text(ids_BL)[0]).sample, noise_BCHW)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnable, 1.0)
        optimizer.step()
        schedule.step()
        average.step(learnable)
        yield loss.item()
    average.copy_to(learnable)


def tokens(tokenizer: object, captions: Sequence[str]) -> Tensor:
    """Captions as (N, 24) int64 tokens."""
    encoded = tokenizer(list(captions), padding="max_length", truncation=True, max_length=TOKENS)
    return torch.from_numpy(np.array(encoded["input_ids"]))
