"""A tiny data set, a tiny base, and training runs whose step takes milliseconds on one core."""

import dataclasses
import functools
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from annotators.options import configured
from controlnet.nano.build import new_text_encoder, write_tokenizer
from controlnet.nano.scenes import draw, random_scene
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.log import METRICS, read_lines
from controlnet.trainer.train import train
from schemas.dataset import open_dataset

SCENES = 40
FACTOR = 4
WEIGHTS = "diffusion_pytorch_model.safetensors"
_PLACE = tempfile.TemporaryDirectory(prefix="controlset-tiny-")


@functools.cache
def data():
    """Folder of 40 drawn scenes at 64 px with canny maps, a fifth of them for validation."""
    from pipeline.config import GenerateConfig
    from pipeline.generate import generate

    source, output = place("scenes"), place("dataset")
    source.mkdir()
    rng = np.random.default_rng(7)
    for number in range(SCENES):
        scene = random_scene(rng)
        path = source / f"{number:02d}.png"
        Image.fromarray(draw(scene)).save(path)
        path.with_suffix(".txt").write_text(scene.caption)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    generate(
        configured(
            GenerateConfig,
            source=str(source),
            output=str(output),
            conditions=("canny",),
            canny_thresholds="60,120",
            resolution=64,
            min_side=64,
            image_format="png",
            validation=0.2,
            shard_rows=16,
            num_workers=1,
        )
    )
    return output


@functools.cache
def base(prediction="epsilon", name="base", width=16, vae_seed=0):
    """Folder of an untrained base: VAE of factor 4, U-Net of two levels, nano's text encoder."""
    folder = place(f"{name}-{prediction}-{width}-{vae_seed}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_tokenizer(folder / "tokenizer")
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        pipeline = StableDiffusionPipeline(
            vae=_vae(vae_seed),
            text_encoder=new_text_encoder(len(tokenizer)),
            tokenizer=tokenizer,
            unet=_unet(width),
            scheduler=DDPMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                prediction_type=prediction,
                clip_sample=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        pipeline.save_pretrained(folder)
    return folder


def changed_base(folder, part, change, of=None):
    """A copy of a base (the tiny one), whose weights of one part went through `change`."""
    shutil.copytree(of or base(), folder)
    path = folder / part / WEIGHTS
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def config_for(output, **changes):
    """A configuration of few small steps without probes."""
    values = {
        "data": str(data()),
        "condition": "canny",
        "base": str(base()),
        "output": str(output),
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "log_every": 1,
        "checkpoint_every": 2,
        "probe_every": 0,
        "probe_images": 3,
        "probe_steps": 2,
        "loader_workers": 1,
        "tracker": "none",
        "device": "cpu",
        "offline": True,
    }
    return TrainConfig(**values | changes)


def trained(output, judge=None, **changes):
    """Train; returns the output folder."""
    train(config_for(output, **changes), judge=judge)
    return Path(output)


@functools.cache
def finished(**changes):
    """The folder of such a run, trained once in this process; take a copy to change it."""
    name = hashlib.sha256(repr(sorted(changes.items())).encode()).hexdigest()[:12]
    return trained(place(name) / "run", **changes)


def flags_of(config):
    """A configuration as the words of `controlset train`."""
    words = []
    for field in dataclasses.fields(TrainConfig):
        value, flag = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words.append(f"{flag}={value}")
    return words


def weights_of(run):
    """Bytes of the file that the run is about."""
    return (Path(run) / "controlnet" / WEIGHTS).read_bytes()


def tensors_of(run):
    """The result's tensors by name."""
    return load_file(Path(run) / "controlnet" / WEIGHTS)


def furthest(first, second):
    """Largest difference between two results' weights."""
    mine, other = tensors_of(first), tensors_of(second)
    assert mine.keys() == other.keys()
    return max((mine[name] - other[name]).abs().max().item() for name in mine)


def metrics_of(run):
    """What `metrics.jsonl` says but for the speed, which no two runs share."""
    lines = read_lines(Path(run) / METRICS)
    return [{name: one for name, one in line.items() if name != "samples_per_s"} for line in lines]


def losses_of(run):
    """Training losses in order."""
    return [line["loss"] for line in read_lines(Path(run) / METRICS)]


def keys_of(split="train"):
    """Keys of a split, in the order of the shards."""
    return [one.key for one in open_dataset(str(data()), split=split)]


def diffusers_control(run):
    """The result as diffusers reads it."""
    return ControlNetModel.from_pretrained(Path(run) / "controlnet")


def place(name):
    """A path below the folder that goes when Python does."""
    return Path(_PLACE.name) / name


def _vae(seed):
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=64,
        scaling_factor=0.5,
    )


def _unet(width):
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(width, width),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=2,
        norm_num_groups=4,
    )
