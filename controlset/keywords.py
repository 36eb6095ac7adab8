"""Keywords of the Python API, for type checkers and editors.

Each class has the options of one configuration, which is where they are declared, explained and
checked; here they only have the types in which a function takes them: any sequence for a tuple, any
path for a text that names a place. `tests/controlset/test_api.py` holds the two equal, and prints
the class as it has to be where they are not.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from annotators.runtime import PrecisionAsked
from controlnet.evaluator.config import Preset
from controlnet.trainer.config import Optimizer, Precision, Schedule
from pipeline.config import (
    CaptionList,
    CaptionMode,
    Fit,
    ImageFormat,
    SourceFormat,
    SourceSplit,
)

Place = str | os.PathLike[str]
"""A path or an address; results of this package that lie on disk are such, too."""


class AnnotateKeywords(TypedDict, total=False):
    """What every command that annotates can be asked; `options` are those of single annotators."""

    conditions: Sequence[str]
    device: str
    precision: PrecisionAsked
    weights: Place | None
    offline: bool
    compile: bool
    seed: int
    options: Mapping[str, Any]


class GenerateKeywords(AnnotateKeywords, total=False):
    """Options of `controlset.generate`; `controlset.GenerateConfig` explains each."""

    caption: CaptionMode
    caption_list: CaptionList
    caption_text: str | None
    caption_column: str | None
    image_column: str | None
    import_condition: Sequence[str]
    keep_columns: Sequence[str]
    source_format: SourceFormat
    source_split: SourceSplit
    resolution: int
    fit: Fit
    pad_color: str
    image_format: ImageFormat
    quality: int
    keep_metadata: bool
    max_pixels: int
    min_side: int | None
    max_aspect: float
    shard_rows: int
    validation: float
    keep_copies_together: bool
    limit: int | None
    num_workers: int | None
    overwrite: bool
    beam_args: Sequence[str]


class AddKeywords(AnnotateKeywords, total=False):
    """Options of `controlset.add`; `controlset.AddConfig` explains each."""

    import_condition: Sequence[str]
    latents: Place | None
    latent_flips: bool
    caption: Literal["none", "blip"]
    num_workers: int | None


class TrainKeywords(TypedDict, total=False):
    """Options of `controlset.train`; `controlset.TrainConfig` explains each."""

    vae: Place | None
    base_lora: Place | None
    resume: bool
    init: Place | None
    exclude_keys: Place | None
    steps: int
    batch_size: int
    accumulation: int
    learning_rate: float
    schedule: Schedule
    warmup: int
    optimizer: Optimizer
    weight_decay: float
    beta2: float
    clip: float
    ema: float | None
    precision: Precision
    tf32: bool
    channels_last: bool
    compile: bool
    gradient_checkpointing: bool
    prompt_dropout: float
    condition_dropout: float
    flip: float
    noise_offset: float
    min_snr: float | None
    zero_terminal_snr: bool
    latents: Literal["auto", "column", "encode"]
    global_pool: bool | None
    seed: int
    device: str
    loader_workers: int
    log_every: int
    checkpoint_every: int
    keep_last: int
    probe_every: int
    probe_images: int
    probe_steps: int
    probe_guidance: float
    tracker: Literal["tensorboard", "wandb", "none"]
    offline: bool
    trust_model: Sequence[str]


class EvaluateKeywords(TypedDict, total=False):
    """Options of `controlset.evaluate`; `controlset.EvaluateConfig` explains each."""

    condition: str | None
    base: Place | None
    vae: Place | None
    base_lora: Place | None
    split: str
    limit: int | None
    samples: int
    seed: int
    preset: Preset
    scheduler: str | None
    steps: int
    guidance: float | None
    scale: float
    negative_prompt: str | None
    empty_prompt: bool
    judge: Sequence[str]
    tolerance: int
    sweep_guidance: Sequence[float]
    sweep_scale: Sequence[float]
    curve: bool
    inception: Place | None
    clip: Place | None
    lpips: Place | None
    batch_size: int
    device: str
    precision: Precision
    weights: Place | None
    offline: bool
    trust_model: Sequence[str]
    report: bool


class SampleKeywords(TypedDict, total=False):
    """Options of `controlset.sample`; `controlset.SampleConfig` explains each."""

    prompt: Sequence[str]
    annotate: bool
    base: Place | None
    vae: Place | None
    base_lora: Place | None
    negative_prompt: str
    scheduler: Literal["ddim", "dpm++", "unipc", "euler"]
    steps: int
    guidance: float
    scale: float | Sequence[float]
    start: float
    end: float
    guess: bool
    resolution_weighting: bool
    init_image: Place | None
    strength: float | None
    mask: Place | None
    count: int
    seed: int
    batch_size: int
    device: str
    precision: Precision
    offline: bool
    trust_model: Sequence[str]
