"""The locked model, from disk or hub: the only file of the network that knows diffusers.

Whatever is loaded here is frozen: no parameter asks for a gradient, none is ever given one.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from controlnet.architecture.control import ControlNet
from controlnet.architecture.loading import without_bars
from controlnet.architecture.prompts import TextEncoder
from controlnet.architecture.residuals import Residuals
from controlnet.architecture.unet import Prompt, decode, embedding, encode
from schemas.errors import ConfigError

# How diffusers and transformers say that files are not there, torn, or of another model.
_NOT_THERE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)


_SD_SCALING = 0.18215  # of Stable Diffusion 1 and 2, whose first configs do not name it


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LatentSpace:
    """What a VAE does to sizes and values."""

    channels: int
    factor: int  # px of the image for one of the latent
    scaling_factor: float
    shift_factor: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A base model, frozen."""

    name: str
    unet: Any  # diffusers' UNet2DConditionModel
    space: LatentSpace
    scheduler: Mapping[str, Any]  # config of the base's noise schedule
    vae: Any | None
    text: TextEncoder | None

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
        posterior = self.vae.encode(image_BCHW.contiguous().to(self.vae.dtype)).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1)

    @torch.no_grad()
    def pictures(self, latent_BCHW: Tensor) -> Tensor:
        """Decode scaled latents: (B, 3, H, W) float32 in [0, 1]."""
        assert self.vae is not None, "the base was loaded without its VAE"
        raw_BCHW = latent_BCHW / self.space.scaling_factor + self.space.shift_factor
        image_BCHW = self.vae.decode(raw_BCHW.to(self.vae.dtype)).sample
        return (image_BCHW.float() / 2 + 0.5).clamp(0, 1)


def predict(
    unet: Any, noisy_BCHW: Tensor, timestep_B: Tensor, prompt: Prompt, control: Residuals | None
) -> Tensor:
    """What the locked U-Net predicts, control added to its skips and middle.

    Its encoder and middle block run without autograd: control never enters them, so no gradient
    could leave them.

    Args:
        unet: of a `Base`.
        noisy_BCHW: noisy latent.
        timestep_B: int64, 0..999.
        prompt: of each sample.
        control: from a `ControlNet`; None is the base alone.

    Returns:
        Like `noisy_BCHW`: noise, velocity or sample.
    """
    with torch.no_grad():
        emb_BE = embedding(unet, timestep_B, prompt, noisy_BCHW.dtype)
        skips, middle_BCHW = encode(unet, unet.conv_in(noisy_BCHW), emb_BE, prompt.text_BLD)
    if control is not None:
        skips, middle_BCHW = control.added_to(skips, middle_BCHW)
    return decode(unet, skips, middle_BCHW, emb_BE, prompt.text_BLD)


@without_bars()
def load_base(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    vae: bool = True,
    text: bool = True,
    offline: bool = False,
) -> Base:
    """Load and freeze a base in diffusers' folder format.

    Args:
        name: folder, or name on the hub.
        dtype: of the U-Net and the text encoders; the VAE stays float32.
        vae: load the VAE's weights too.
        text: load text encoders and tokenizers too.
        offline: never ask the hub.

    Raises:
        ConfigError: it is not there, or not of the Stable Diffusion family.
    """
    unet = _part(diffusers.UNet2DConditionModel, name, "unet", offline, torch_dtype=dtype)
    vae_config = _config(diffusers.AutoencoderKL, name, "vae", offline)
    base = Base(
        name=name,
        unet=_frozen(unet),
        space=LatentSpace(
            channels=vae_config["latent_channels"],
            factor=2 ** (len(vae_config["block_out_channels"]) - 1),
            scaling_factor=float(vae_config.get("scaling_factor", _SD_SCALING)),
            shift_factor=float(vae_config.get("shift_factor") or 0.0),
        ),
        scheduler=_config(diffusers.DDPMScheduler, name, "scheduler", offline),
        vae=_frozen(_part(diffusers.AutoencoderKL, name, "vae", offline)) if vae else None,
        text=_text_encoder(name, unet, dtype, offline) if text else None,
    )
    return base


def new_control(base: Base, *, widths: tuple[int, ...], global_pool: bool = False) -> ControlNet:
    """A ControlNet whose copy has the base's weights and whose zero convolutions are zero."""
    return ControlNet.from_unet(base.unet, hint_widths=widths, global_pool=global_pool)


@without_bars()
def load_control(folder: Path) -> ControlNet:
    """Read a `ControlNetModel` folder, ours or anybody's.

    Args:
        folder: with `config.json` and `diffusion_pytorch_model.safetensors`.

    Raises:
        ConfigError: it is not there, torn or something else.
    """
    try:
        model = _whole(diffusers.ControlNetModel, folder, local_files_only=True)
    except _NOT_THERE as error:
        raise ConfigError(
            f"{folder}: need a diffusers ControlNetModel folder, got {_first_line(error)}"
        ) from error
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    control = ControlNet({"_class_name": "ControlNetModel", **config}, model)
    control.load_state_dict(model.state_dict())
    return control


def fits(control: ControlNet, base: Base) -> None:
    """Refuse a ControlNet that was made for another architecture.

    Raises:
        ConfigError: its copy has other shapes than the base's encoder.
    """
    for name in ("block_out_channels", "cross_attention_dim", "layers_per_block"):
        have, need = control.config[name], base.unet.config[name]
        have, need = (list(one) if isinstance(one, list | tuple) else one for one in (have, need))
        if have != need:
            raise ConfigError(
                f"--base {base.name}: need a base with {name} {have}, for which this ControlNet "
                f"was trained, got {need}; use the base that it was trained on"
            )


def vae_sha256(name: str) -> str | None:
    """Hash of a base's VAE file, as `controlset add --latents` records it.

    Args:
        name: of the base.

    Returns:
        None where the file is not in a folder at hand: a name on the hub.
    """
    for stem in ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16"):
        path = Path(name) / "vae" / f"{stem}.safetensors"
        if path.is_file():
            with path.open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
    return None


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


def scheduler(base: Base, kind: str = "DDIMScheduler", **overrides: Any) -> Any:
    """One of diffusers' schedulers with the base's noise schedule.

    Args:
        base: whose schedule.
        kind: class name in diffusers.
        overrides: of its config.
    """
    # PNDM's configs lack the word and DDIM clips by default: right for pictures, not for latents.
    config = {**base.scheduler, "clip_sample": False}
    return getattr(diffusers, kind).from_config(config, **overrides)


def _text_encoder(name: str, unet: Any, dtype: torch.dtype, offline: bool) -> TextEncoder:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    parts: list[tuple[str, str, Any]] = [("tokenizer", "text_encoder", CLIPTextModel)]
    if unet.config.addition_embed_type == "text_time":
        parts.append(("tokenizer_2", "text_encoder_2", CLIPTextModelWithProjection))
    return TextEncoder(
        [_tokenizer(CLIPTokenizer, name, tokenizer, offline) for tokenizer, _, _ in parts],
        [_part(kind, name, model, offline, dtype=dtype) for _, model, kind in parts],
    )


def _part(kind: Any, name: str, folder: str, offline: bool, **options: Any) -> Any:
    """Load one sub-folder of a base."""
    try:
        return _whole(kind, name, subfolder=folder, local_files_only=offline, **options)
    except _NOT_THERE as error:
        raise _no_base(name, folder, error) from error


def _whole(kind: Any, name: Any, **options: Any) -> Any:
    """Load a network all of whose weights are there; the libraries make up those that are not."""
    network, found = kind.from_pretrained(name, output_loading_info=True, **options)
    missing = sorted(found["missing_keys"])
    if missing:
        raise KeyError(f"no {missing[0]} in its file, nor {len(missing) - 1} other weights")
    return network


def _tokenizer(kind: Any, name: str, folder: str, offline: bool) -> Any:
    try:
        tokenizer = kind.from_pretrained(name, subfolder=folder, local_files_only=offline)
    except _NOT_THERE as error:
        raise _no_base(name, folder, error) from error
    if tokenizer.vocab_size <= len(tokenizer.all_special_ids):  # transformers' answer to no files
        raise _no_base(name, folder, FileNotFoundError("no vocabulary"))
    return tokenizer


def _config(kind: Any, name: str, folder: str, offline: bool) -> dict[str, Any]:
    try:
        config = kind.load_config(name, subfolder=folder, local_files_only=offline)
    except _NOT_THERE as error:
        raise _no_base(name, folder, error) from error
    return json.loads(json.dumps(dict(config), default=str))


def _no_base(name: str, folder: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"--base {name}: need a model in diffusers' folder format, found no usable {folder}/ "
        f"({_first_line(error)}); give its folder or its name on the hub"
    )


def _first_line(error: Exception) -> str:
    text = error.args[0] if isinstance(error, KeyError) else error  # or it comes in quotes
    return (str(text) or type(error).__name__).splitlines()[0][:160]


def _frozen(module: Any) -> Any:
    return module.requires_grad_(False).eval()
