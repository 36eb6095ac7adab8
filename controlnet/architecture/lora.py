"""A LoRA on a base: added to its weights once, by diffusers, which needs peft for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
from diffusers.utils import is_peft_available

from controlnet.architecture.loading import refusing
from schemas.errors import ConfigError


def add_lora(file: str, unet: Any, text_models: Sequence[Any]) -> None:
    """Add a LoRA at full strength to the weights of a base, in place.

    Args:
        file: safetensors, as diffusers, kohya's scripts and others write them.
        unet: of the base.
        text_models: its text encoders; none where they are not loaded.

    Raises:
        ConfigError: no such file, one of something else or for another base, or no peft.
    """
    path = Path(file)
    if not path.is_file() or path.suffix != ".safetensors":
        raise ConfigError(f"--base-lora {file}: need a .safetensors file with a LoRA, found none")
    if not is_peft_available():
        raise ConfigError(
            f"--base-lora {file}: need peft, which is not installed; run "
            "`pip install controlset[lora]`"
        )
    pipeline = _pipeline(unet, text_models)
    before = _total(unet, text_models)
    with refusing(lambda said: f"--base-lora {file}: need a LoRA for this base, got {said}"):
        pipeline.load_lora_weights(
            str(path.parent), weight_name=path.name, use_safetensors=True, local_files_only=True
        )
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    if _total(unet, text_models) == before:
        raise ConfigError(
            f"--base-lora {file}: need a LoRA for this base, got one that changes nothing in it"
        )


def _pipeline(unet: Any, text_models: Sequence[Any]) -> Any:
    """What diffusers adds LoRAs to; nothing is sampled with it."""
    parts: dict[str, Any] = {
        "vae": None,
        "unet": unet,
        "text_encoder": text_models[0] if text_models else None,
        "tokenizer": None,
        "scheduler": diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
    }
    if unet.config.addition_embed_type == "text_time":
        second = text_models[1] if text_models else None
        parts |= {"text_encoder_2": second, "tokenizer_2": None}
        return diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    return diffusers.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def _total(unet: Any, text_models: Sequence[Any]) -> float:
    networks = [unet, *text_models]
    return sum(
        parameter.double().abs().sum().item() for net in networks for parameter in net.parameters()
    )
