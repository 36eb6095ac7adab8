"""Train the nano base from nothing: `python -m controlnet.nano.build --output FOLDER`.

Writes what `StableDiffusionPipeline.from_pretrained` reads: VAE (64x64x3 pictures <-> 16x16x4
latents), U-Net, CLIP text encoder, tokenizer, scheduler. The folder in this package was made by
this command with its defaults.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import tyro
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from controlnet.nano.scenes import COLORS, SHAPES, SIZE_PX, Scene, draw, random_scene
from schemas.printable import say

TOKENS = 24
"""Tokens of a prompt, start and end included; the longest scene's caption has 20."""

_WORDS = ("a", "an", "and", "on", "background", ",", *COLORS, *SHAPES)


def write_tokenizer(folder: Path) -> int:
    """Write a byte-pair tokenizer in which every word of a scene is one token.

    Other words still have tokens, letter by letter, so any prompt is accepted.

    Args:
        folder: made if it is not there; gets diffusers' `tokenizer/` files.

    Returns:
        Size of the vocabulary.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(_WORDS, trainer)  # ends when every word is one piece
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += dict.fromkeys(
        piece for piece in (left + right for left, right in merges) if piece not in pieces
    )
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TOKENS
    )
    tokenizer.save_pretrained(folder)
    return len(pieces)


_PICTURES = 16  # of a step of the autoencoder
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
        steps: of `_PICTURES` pictures each.
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
        picture_BCHW = pictures([random_scene(rng) for _ in range(_PICTURES)])
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


_LATENTS = 32  # of a step of the denoiser
_EMPTY_PROMPTS = 0.15  # for classifier-free guidance
_WIDTH = 64  # of prompt embeddings


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingLatents:
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
    unet: UNet2DConditionModel, text: CLIPTextModel, data: TrainingLatents, *, steps: int, seed: int
) -> Iterator[float]:
    """Train U-Net and text encoder; yields the loss of each step, and leaves the averaged weights.

    Args:
        unet: changed in place.
        text: changed in place; only the U-Net's prompts, no CLIP objective.
        data: scenes.
        steps: of `_LATENTS` latents each.
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
        rows_B = torch.randint(len(data.latent_NCHW), (_LATENTS,), generator=generator)
        latent_BCHW = data.latent_NCHW[rows_B]
        empty_B = torch.rand(_LATENTS, generator=generator) < _EMPTY_PROMPTS
        ids_BL = torch.where(empty_B[:, None], data.empty_L, data.ids_NL[rows_B])
        noise_BCHW = torch.randn(latent_BCHW.shape, generator=generator)
        timestep_B = torch.randint(1000, (_LATENTS,), generator=generator)
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


_VAE, _DENOISER = "vae", "unet"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BuildConfig:
    """How the nano base is made."""

    output: Path
    """Folder for the model."""

    scenes: int = 20_000
    """Scenes whose latents the denoiser learns from."""

    autoencoder_steps: int = 2_500
    """Steps of 16 pictures."""

    denoiser_steps: int = 3_600
    """Steps of 32 latents."""

    seed: int = 0
    """Seed of scenes, weights, order, noise and timesteps."""

    keep_autoencoder: bool = False
    """Use the VAE that is in the folder already."""


def build(config: BuildConfig) -> None:
    """Train and save the nano base; prints losses and minutes."""
    torch.set_flush_denormal(True)
    torch.manual_seed(config.seed)
    started_s = time.monotonic()
    write_tokenizer(config.output / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(config.output / "tokenizer")
    vae = _autoencoder(config)
    say(f"VAE after {(time.monotonic() - started_s) / 60:.1f} min")
    torch.manual_seed(config.seed + 1)
    unet, text = new_unet(), new_text_encoder(len(tokenizer))
    data = _latents(vae, tokenizer, config)
    steps = train_denoiser(unet, text, data, steps=config.denoiser_steps, seed=config.seed)
    _follow(steps, config.denoiser_steps, "denoiser")
    _save(config.output, vae, text, tokenizer, unet)
    say(f"done after {(time.monotonic() - started_s) / 60:.1f} min: {config.output}")


def _autoencoder(config: BuildConfig) -> AutoencoderKL:
    folder = config.output / _VAE
    if config.keep_autoencoder:
        return AutoencoderKL.from_pretrained(folder)
    vae = new_autoencoder()
    steps = train_autoencoder(vae, steps=config.autoencoder_steps, seed=config.seed)
    _follow(steps, config.autoencoder_steps, "autoencoder")
    vae.register_to_config(scaling_factor=_unit_variance(vae, config.seed))
    vae.save_pretrained(folder)
    return vae


def _unit_variance(vae: AutoencoderKL, seed: int) -> float:
    """The factor that gives latents a standard deviation of one."""
    rng = np.random.default_rng([seed, 2])
    with torch.inference_mode():
        latent_BCHW = vae.encode(pictures(_scenes(rng, 256))).latent_dist.mean
    return round(1 / latent_BCHW.std().item(), 5)


def _latents(vae: AutoencoderKL, tokenizer: CLIPTokenizer, config: BuildConfig) -> TrainingLatents:
    rng = np.random.default_rng([config.seed, 3])
    encoded: list[Tensor] = []
    captions: list[str] = []
    with torch.inference_mode():
        for _ in range(config.scenes // 32):
            scenes = _scenes(rng, 32)
            captions += [scene.caption for scene in scenes]
            encoded.append(vae.encode(pictures(scenes)).latent_dist.mean.contiguous())
    scaled_NCHW = torch.cat(encoded) * vae.config["scaling_factor"]
    return TrainingLatents(
        latent_NCHW=scaled_NCHW.clone(),
        ids_NL=tokens(tokenizer, captions),
        empty_L=tokens(tokenizer, [""])[0],
    )


def _scenes(rng: np.random.Generator, count: int) -> list[Scene]:
    return [random_scene(rng) for _ in range(count)]


def _follow(losses: Iterator[float], steps: int, what: str) -> None:
    """Run a training; prints the mean loss of every tenth of it."""
    since: list[float] = []
    for step, loss in enumerate(losses, start=1):
        since.append(loss)
        if step % max(1, steps // 10) == 0:
            say(f"{what} {step}/{steps}: loss {np.mean(since):.4f}")
            since.clear()


def _save(
    folder: Path,
    vae: AutoencoderKL,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> None:
    """Save all parts and the index that names them; U-Net and VAE in half precision.

    diffusers loads these as float32 all the same. The text encoder stays float32: transformers
    would keep it in the precision of the file.
    """
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    for name in ("model_index.json", "unet/config.json", "vae/config.json"):
        config = json.loads((folder / name).read_text())
        config.pop("_name_or_path", None)  # where it was built is nobody's business
        (folder / name).write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    build(tyro.cli(BuildConfig, description=__doc__))
