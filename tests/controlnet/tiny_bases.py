"""Bases of the shapes of SD1.5, SD2.1 and SDXL, untrained and so narrow that a step is 50 ms.

Same blocks, levels and embeddings as the real ones; widths 32 and 64, seven tokens to a prompt in
`inputs`, 24 in the folders' tokenizers.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from controlnet.architecture.control import ControlNet
from controlnet.architecture.unet import Prompt
from controlnet.nano.build import TOKENS, write_tokenizer

KINDS = ("sd15", "sd21", "sdxl")
FACTOR = 8
HINT_WIDTHS = (4, 8, 8, 16)
SKIPS = {"sd15": 12, "sd21": 12, "sdxl": 9}
_ENCODER_WIDTH = 32  # of each text encoder
_POOLED = 16
_SD = {
    "sample_size": 8,
    "block_out_channels": (32, 64, 64, 64),
    "norm_num_groups": 8,
    "cross_attention_dim": _ENCODER_WIDTH,
}
_UNETS = {
    "sd15": {**_SD, "attention_head_dim": 8},
    "sd21": {**_SD, "attention_head_dim": [2, 4, 4, 4], "use_linear_projection": True},
    "sdxl": {
        "sample_size": 8,
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 3],
        "attention_head_dim": [2, 4, 4],
        "cross_attention_dim": 2 * _ENCODER_WIDTH,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + _POOLED,
        "norm_num_groups": 8,
    },
}
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_PLACE = tempfile.TemporaryDirectory(prefix="controlset-bases-")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this narrow are two to eight times faster on one thread than on two.

    A test file imports it to have it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """One batch for a U-Net and its ControlNet."""

    latent_BCHW: Tensor
    timestep_B: Tensor
    prompt: Prompt
    hint_BCHW: Tensor

    @property
    def ours(self):
        """Arguments of our `ControlNet`."""
        return self.latent_BCHW, self.timestep_B, self.prompt, self.hint_BCHW

    @property
    def diffusers(self):
        """The same for `ControlNetModel`, `return_dict=False` aside."""
        return self.latent_BCHW, self.timestep_B, self.prompt.text_BLD, self.hint_BCHW

    def to(self, dtype):
        """The same in another precision, times and SDXL's sizes aside."""
        pooled_BP = self.prompt.pooled_BP
        prompt = Prompt(
            text_BLD=self.prompt.text_BLD.to(dtype),
            pooled_BP=None if pooled_BP is None else pooled_BP.to(dtype),
            sizes_B6=self.prompt.sizes_B6,
        )
        return Inputs(
            latent_BCHW=self.latent_BCHW.to(dtype),
            timestep_B=self.timestep_B,
            prompt=prompt,
            hint_BCHW=self.hint_BCHW.to(dtype),
        )

    @property
    def added(self):
        """Keywords that both of diffusers' models want for SDXL."""
        if self.prompt.pooled_BP is None:
            return {}
        sizes = {"text_embeds": self.prompt.pooled_BP, "time_ids": self.prompt.sizes_B6}
        return {"added_cond_kwargs": sizes}


def inputs(kind, *, batch=2, height=8, width=8, seed=0):
    """Random latents of that size, prompts, times, and hints eight times as large.

    Half of each hint is zero, as most of a Canny map is.
    """
    rng = torch.Generator().manual_seed(seed)
    pooled, sizes = None, None
    if kind == "sdxl":
        pooled = torch.randn(batch, _POOLED, generator=rng)
        sizes = torch.randint(1, 500, (batch, 6), generator=rng)
    tokens = (batch, 7, _UNETS[kind]["cross_attention_dim"])
    hint = torch.rand(batch, 3, height * FACTOR, width * FACTOR, generator=rng)
    return Inputs(
        latent_BCHW=torch.randn(batch, 4, height, width, generator=rng),
        timestep_B=torch.randint(1000, (batch,), generator=rng),
        prompt=Prompt(
            text_BLD=torch.randn(tokens, generator=rng), pooled_BP=pooled, sizes_B6=sizes
        ),
        hint_BCHW=hint * (hint > 0.5),
    )


def unet(kind, *, seed=0, **changes):
    """An untrained U-Net, frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(**_UNETS[kind] | changes).eval().requires_grad_(False)


def control_of(base_unet, *, seed=0, **options):
    """A ControlNet as it is before training; `seed` is of its hint block."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ControlNet.from_unet(base_unet, hint_widths=HINT_WIDTHS, **options)


def woken(module, *, seed=1, std=0.05):
    """The same module with noise on all weights: nothing is zero any more.

    More of it on a hint block, through whose eight layers next to nothing would come otherwise.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            louder = 5 if "cond_embedding" in name else 1
            parameter.add_(louder * std * torch.randn(parameter.shape, generator=rng))
    return module


def twin(control):
    """Diffusers' model with the config and weights of our `ControlNet`."""
    config = {name: one for name, one in control.config.items() if not name.startswith("_")}
    model = ControlNetModel(**config)
    model.load_state_dict(control.state_dict(), strict=True)
    return model


def vae(*, seed=0, **changes):
    """Four latent channels, factor 8."""
    options = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
        "sample_size": 64,
        "scaling_factor": 0.18215,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderKL(**options | changes).eval().requires_grad_(False)


@functools.cache
def base_folder(kind):
    """A folder of that kind, written once; not to be changed (see `write_base`)."""
    return write_base(Path(_PLACE.name) / kind, kind)


def write_base(folder, kind, *, seed=0):
    """Write what `load_base` and diffusers' pipelines read; returns the folder."""
    write_tokenizer(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    parts = {"vae": vae(seed=seed), "unet": unet(kind, seed=seed), "tokenizer": tokenizer}
    parts["text_encoder"] = _text(CLIPTextModel, len(tokenizer), seed)
    if kind == "sdxl":
        second = _text(CLIPTextModelWithProjection, len(tokenizer), seed + 1)
        pipeline = StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=second,
            tokenizer_2=tokenizer,
            scheduler=EulerDiscreteScheduler(**_NOISE, steps_offset=1, timestep_spacing="leading"),
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts,
            scheduler=_schedule(kind),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    return folder


def _schedule(kind):
    """What the real folders have: PNDM in SD1.5, DDIM and velocity in SD2.1."""
    if kind == "sd15":
        return PNDMScheduler(**_NOISE, skip_prk_steps=True, steps_offset=1)
    return DDIMScheduler(
        **_NOISE,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _text(kind: type[nn.Module], vocabulary, seed):
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=_ENCODER_WIDTH,
        intermediate_size=64,
        projection_dim=_POOLED,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).eval().requires_grad_(False)
