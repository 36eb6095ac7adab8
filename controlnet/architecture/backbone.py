"""The locked model, from disk or hub: U-Net, VAE, text encoders, and a LoRA where one is given.

The only file of the network that knows diffusers. Whatever is loaded here is frozen: no parameter
asks for a gradient, none is ever given one.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import torch
from diffusers.utils import is_peft_available
from torch import Tensor, nn

from controlnet.architecture.control import ControlNet, control_config
from controlnet.architecture.model_folder import (
    need_base_folder,
    network_of,
    no_base,
    part_config,
    refusing,
    tokenizer_of,
    weights_file,
    without_bars,
)
from schemas.errors import ConfigError
from schemas.files import file_digest
from schemas.model_files import VaeConfig

_COPIED = ("conv_in.", "time_embedding.", "add_embedding.", "down_blocks.", "mid_block.")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """Captions as a U-Net reads them."""

    text_BLD: Tensor
    pooled_BP: Tensor | None  # SDXL only


class TextEncoder:
    """One CLIP text encoder (SD1.5, SD2.1, nano) or two (SDXL), frozen.

    Args:
        tokenizers: transformers' CLIP tokenizers.
        models: the text encoder of each; two mean SDXL.
    """

    def __init__(self, tokenizers: Sequence[Any], models: Sequence[Any]) -> None:
        self._tokenizers = tokenizers
        self.models = [model.requires_grad_(False).eval() for model in models]

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Embedded:
        """Embed captions, padded and cut to the tokenizer's length; "" is a caption like any other.

        Args:
            captions: at least one.

        Returns:
            Embeddings in the models' precision, on their device. SD: the last hidden state. SDXL:
            the last but one of both encoders side by side, and the second one's pooled projection.
        """
        if len(self.models) == 1:
            hidden_BLD = self.models[0](self._ids(0, captions))[0]
            return Embedded(text_BLD=hidden_BLD, pooled_BP=None)
        outputs = [
            model(self._ids(index, captions), output_hidden_states=True)
            for index, model in enumerate(self.models)
        ]
        return Embedded(
            text_BLD=torch.cat([output.hidden_states[-2] for output in outputs], dim=-1),
            pooled_BP=outputs[1][0],
        )

    def _ids(self, index: int, captions: Sequence[str]) -> Tensor:
        tokenizer, model = self._tokenizers[index], self.models[index]
        encoded = tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            # Without its config a tokenizer has no limit; the positions always have one.
            max_length=min(tokenizer.model_max_length, model.config.max_position_embeddings),
            return_tensors="pt",
        )
        return encoded.input_ids.to(model.device)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LatentSpace:
    """What a VAE does to sizes and values."""

    channels: int
    factor: int  # px of the image for one of the latent
    scaling_factor: float
    shift_factor: float = 0.0

    def scaled(self, raw_BCHW: Tensor) -> Tensor:
        """Latents as the U-Net has them, from the VAE's own."""
        return (raw_BCHW - self.shift_factor) * self.scaling_factor

    def drawn(self, moments_BCHW: Tensor, draw_BCHW: Tensor) -> Tensor:
        """Scaled latents: points of the VAE's posterior.

        Args:
            moments_BCHW: (B, 2C, H, W) mean, then log-variance, unscaled.
            draw_BCHW: standard normal: where in the posterior.
        """
        mean_BCHW, logvar_BCHW = moments_BCHW.float().chunk(2, dim=1)
        # diffusers clamps the log-variance likewise before it draws
        return self.scaled(mean_BCHW + (0.5 * logvar_BCHW.clamp(-30, 20)).exp() * draw_BCHW)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A base model, frozen."""

    name: str
    unet: Any  # diffusers' UNet2DConditionModel
    space: LatentSpace
    scheduler: Mapping[str, Any]  # config of the base's noise schedule
    vae: Any | None
    text: TextEncoder | None
    stored: Mapping[str, str]  # part -> fingerprint of its weights as they are stored
    vae_folder: Path | None = None  # where its VAE lies, if that is a folder at hand

    @property
    def fingerprint(self) -> str:
        """Of the U-Net's weights as they are stored, with a LoRA that was added."""
        return self.stored["unet"]

    @property
    def is_xl(self) -> bool:
        """Whether it wants sizes and pooled prompts beside the text."""
        return self.unet.config.addition_embed_type == "text_time"

    @torch.no_grad()
    def moments(self, image_BCHW: Tensor) -> Tensor:
        """Mean and log-variance of the VAE's posterior.

        Args:
            image_BCHW: (B, 3, H, W) in [-1, 1].

        Returns:
            (B, 2C, H/factor, W/factor), unscaled; mean first.
        """
        assert self.vae is not None, "the base was loaded without its VAE"
        # Contiguous: channels last, GroupNorm on a CPU loses digits (2e-2 on flat pictures).
        with _as_it_is(image_BCHW.device):
            posterior = self.vae.encode(image_BCHW.contiguous().to(self.vae.dtype)).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1)

    @torch.no_grad()
    def pictures(self, latent_BCHW: Tensor) -> Tensor:
        """Decode scaled latents: (B, 3, H, W) float32 in [0, 1]; NaN where the latents are NaN."""
        assert self.vae is not None, "the base was loaded without its VAE"
        with _as_it_is(latent_BCHW.device):
            latent_BCHW = latent_BCHW.to(self.vae.dtype)
            raw_BCHW = latent_BCHW / self.space.scaling_factor + self.space.shift_factor
            image_BCHW = self.vae.decode(raw_BCHW).sample
        return (image_BCHW.float() / 2 + 0.5).clamp(0, 1)


def _as_it_is(device: torch.device) -> torch.autocast:
    """No autocast: a VAE stays in its own float32, whatever the networks around it compute in.

    Inside, SDXL's and others exceed 65504, float16's largest value: pictures come out black.
    """
    return torch.autocast(device.type, enabled=False)


@without_bars()
def load_base(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    vae: bool = True,
    text: bool = True,
    offline: bool = False,
    other_vae: str | None = None,
    lora: str | None = None,
) -> Base:
    """Load and freeze a base in diffusers' folder format.

    Args:
        name: folder, or name on the hub.
        dtype: of the U-Net and the text encoders; the VAE stays float32.
        vae: load the VAE's weights too.
        text: load text encoders and tokenizers too.
        offline: never ask the hub.
        other_vae: folder of another VAE, or of a base that has it, or a name on the hub.
        lora: file with a LoRA that is added to the base's weights.

    Raises:
        ConfigError: it is not there, or not of the Stable Diffusion family.
    """
    need_base_folder(name)
    unet_config = part_config(name, "unet", offline=offline)
    control_config(unet_config, hint_widths=(), global_pool=False)  # refused before gigabytes load
    place, part = _place_of_vae(name, other_vae)
    vae_config = msgspec.convert(part_config(place, part, offline=offline), VaeConfig)
    if vae_config.latent_channels != unet_config.get("in_channels", 4):
        raise ConfigError(
            f"--base {name}: need a VAE of {unet_config.get('in_channels', 4)} latent channels for "
            f"its U-Net, got {vae_config.latent_channels}; take the base's own VAE"
        )
    schedule = part_config(name, "scheduler", offline=offline)
    kind: Any = diffusers.UNet2DConditionModel
    # As stored, then cast: who the base is must not depend on the number format that is asked for.
    unet = network_of(kind, name, "unet", offline=offline)
    encoder = _text_encoder(name, unet, offline) if text else None
    if lora is not None:
        add_lora(lora, unet, encoder.models if encoder is not None else ())
    own = network_of(diffusers.AutoencoderKL, place, part, offline=offline) if vae else None
    stored = {"unet": fingerprint(unet)}
    nn.Module.to(unet, dtype)  # diffusers' own warns of layers that this family does not have
    if own is not None:
        stored["vae"] = fingerprint(own)
    for number, model in enumerate(encoder.models if encoder is not None else ()):
        stored[f"text_encoder_{number}"] = fingerprint(model)
        model.to(dtype)
    base = Base(
        name=name,
        stored=stored,
        unet=_frozen(unet),
        space=LatentSpace(
            channels=vae_config.latent_channels,
            factor=vae_config.factor,
            scaling_factor=vae_config.scaling_factor,
            shift_factor=vae_config.shift_factor or 0.0,
        ),
        scheduler=schedule,
        vae=None if own is None else _frozen(own),
        text=encoder,
        vae_folder=Path(place, part),
    )
    scheduler(base)  # a schedule that cannot be is refused here
    return base


def _place_of_vae(name: str, other: str | None) -> tuple[str, str]:
    """Folder or name, and sub-folder, of the VAE that is used."""
    if other is None:
        return name, "vae"
    return other, "vae" if Path(other, "vae").is_dir() else ""


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
    pipeline = _pipeline_for_lora(unet, text_models)
    # diffusers passes over a LoRA for other names with a warning at most.
    before = _sum_of_weights(unet, text_models)
    with refusing(lambda said: f"--base-lora {file}: need a LoRA for this base, got {said}"):
        pipeline.load_lora_weights(
            str(path.parent), weight_name=path.name, use_safetensors=True, local_files_only=True
        )
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    if _sum_of_weights(unet, text_models) == before:
        raise ConfigError(
            f"--base-lora {file}: need a LoRA for this base, got one that changes nothing in it"
        )


def _pipeline_for_lora(unet: Any, text_models: Sequence[Any]) -> Any:
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


def _sum_of_weights(unet: Any, text_models: Sequence[Any]) -> float:
    networks = [unet, *text_models]
    return sum(
        parameter.double().abs().sum().item() for net in networks for parameter in net.parameters()
    )


def new_control(base: Base, *, widths: tuple[int, ...], global_pool: bool = False) -> ControlNet:
    """A ControlNet whose copy has the base's weights and whose zero convolutions are zero."""
    return ControlNet.from_unet(base.unet, hint_widths=widths, global_pool=global_pool)


def fits(control: ControlNet, base: Base) -> None:
    """Refuse a ControlNet that was made for another architecture; a fine-tune of its base will do.

    Raises:
        ConfigError: its copy has other shapes than the base's encoder.
    """
    for name in (
        "block_out_channels",
        "cross_attention_dim",
        "layers_per_block",
        "down_block_types",
    ):
        have, need = control.config.get(name), base.unet.config.get(name)
        have, need = (
            list(value) if isinstance(value, list | tuple) else value for value in (have, need)
        )
        if have != need:
            raise ConfigError(
                f"--base {base.name}: need a base with {name} {have}, for which this ControlNet "
                f"was trained, got {need}; use the base that it was trained on"
            )
    shrinks = 2 ** (len(control.config["conditioning_embedding_out_channels"]) - 1)
    if shrinks != base.space.factor:
        raise ConfigError(
            f"--base {base.name}: need a base whose VAE shrinks pictures {shrinks} times, as this "
            f"ControlNet its maps, got {base.space.factor}; use the base that it was trained on"
        )
    shapes = {name: tuple(weight.shape) for name, weight in base.unet.named_parameters()}
    # `use_linear_projection` and others, which are not compared above, change shapes as well.
    for name, weight in control.named_parameters():
        shape = tuple(weight.shape)
        if name.startswith(_COPIED) and shapes.get(name) != shape:
            raise ConfigError(
                f"--base {base.name}: need a base with {name} of {shape}, for which this "
                f"ControlNet was trained, got {shapes.get(name)}; use the base that it was trained "
                "on, or a fine-tune of it"
            )


def vae_sha256(base: Base) -> str | None:
    """Hash of a base's VAE file, as `controlset add --latents` records it.

    Returns:
        None where the file is not in a folder at hand: a name on the hub.
    """
    path = None if base.vae_folder is None else weights_file(base.vae_folder)
    if path is None:
        return None
    return file_digest(path)


def fingerprint(module: nn.Module) -> str:
    """Sixteen hexadecimal digits that tell one set of weights from another.

    Reads the first values of every tensor, so it costs milliseconds even for SDXL; float16 and
    float32 files of one model give the same.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        some = parameter.detach().flatten()[:16].to(device="cpu", dtype=torch.float16)
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(some.numpy().tobytes())
    return digest.hexdigest()[:16]


def zero_terminal(base: Base) -> Base:
    """The base with a noise schedule that ends in pure noise, and from there samplers start.

    Source: Lin et al. 2023 (arXiv 2305.08891), section 3: rescaled betas, trailing timesteps.
    """
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return dataclasses.replace(base, scheduler={**base.scheduler, **changes})


def scheduler(base: Base, kind: str = "DDIMScheduler", **overrides: Any) -> Any:
    """One of diffusers' schedulers with the base's noise schedule.

    Args:
        base: whose schedule.
        kind: class name in diffusers.
        overrides: of its config.
    """
    # PNDM's configs lack the word and DDIM clips by default: right for pictures, not for latents.
    config = {**base.scheduler, "clip_sample": False}
    found: Any = getattr(diffusers, kind, None)
    if not isinstance(found, type) or not issubclass(found, diffusers.SchedulerMixin):
        raise ConfigError(f"--scheduler: need the name of a sampler, got {kind!r}")
    with refusing(lambda said: no_base(base.name, "scheduler", said)):
        return found.from_config(config, **overrides)


def _text_encoder(name: str, unet: Any, offline: bool) -> TextEncoder:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    parts: list[tuple[str, str, Any]] = [("tokenizer", "text_encoder", CLIPTextModel)]
    if unet.config.addition_embed_type == "text_time":
        parts.append(("tokenizer_2", "text_encoder_2", CLIPTextModelWithProjection))
    tokenizers = [tokenizer_of(CLIPTokenizer, name, part, offline=offline) for part, _, _ in parts]
    models = [network_of(kind, name, part, offline=offline) for _, part, kind in parts]
    for tokenizer, model, (part, _, _) in zip(tokenizers, models, parts, strict=True):
        if len(tokenizer) > model.config.vocab_size:
            words = (
                f"{len(tokenizer)} words, of which its text encoder knows {model.config.vocab_size}"
            )
            raise ConfigError(no_base(name, part, words))
    return TextEncoder(tokenizers, models)


def _frozen(module: Any) -> Any:
    return module.requires_grad_(False).eval()
