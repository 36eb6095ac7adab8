"""Train the nano base from nothing: `python -m controlnet.nano.build --output FOLDER`.

Writes what `StableDiffusionPipeline.from_pretrained` reads: VAE, U-Net, CLIP text encoder,
tokenizer, scheduler. The folder in this package was made by this command with its defaults.
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import tyro
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from controlnet.nano.autoencoder import new_autoencoder, pictures, train_autoencoder
from controlnet.nano.denoiser import (
    Latents,
    new_scheduler,
    new_text_encoder,
    new_unet,
    tokens,
    train_denoiser,
)
from controlnet.nano.scenes import Scene, random_scene
from controlnet.nano.words import write_tokenizer
from schemas.printable import say

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
    """Of everything random."""

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


def _latents(vae: AutoencoderKL, tokenizer: CLIPTokenizer, config: BuildConfig) -> Latents:
    rng = np.random.default_rng([config.seed, 3])
    encoded: list[Tensor] = []
    captions: list[str] = []
    with torch.inference_mode():
        for _ in range(config.scenes // 32):
            scenes = _scenes(rng, 32)
            captions += [scene.caption for scene in scenes]
            encoded.append(vae.encode(pictures(scenes)).latent_dist.mean.contiguous())
    scaled_NCHW = torch.cat(encoded) * vae.config["scaling_factor"]
    return Latents(
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
