"""Everything that a training run is made of, checked before the first step."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import accelerate
import torch
from safetensors import safe_open

from controlnet.architecture.backbone import (
    Base,
    fingerprint,
    fits,
    load_base,
    new_control,
    scheduler,
    vae_sha256,
    zero_terminal,
)
from controlnet.architecture.control import ControlNet, checkpoint_blocks, hint_widths
from controlnet.architecture.control_files import find_control, load_control
from controlnet.architecture.sampling import SampleOptions
from controlnet.trainer.batch import DrawOptions
from controlnet.trainer.checkpoint import WEIGHTS, metadata_of
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.devices import (
    DTYPES,
    layout_of_weights,
    new_accelerator,
    resolved_precision,
)
from controlnet.trainer.index import Index, digest_of_keys, open_shard, read_keys, scan, without
from controlnet.trainer.loader import Loader
from controlnet.trainer.probe import Judge, Probe
from controlnet.trainer.step import (
    Average,
    Diffusion,
    Learner,
    Method,
    Texts,
    controlled,
    fits_in_memory,
    new_optimizer,
)
from schemas.dataset import check_shards, open_dataset
from schemas.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """The parts of a run; the loop puts them in motion."""

    config: TrainConfig
    accelerator: accelerate.Accelerator
    base: Base
    control: ControlNet
    learner: Any  # the Learner, wrapped for several devices and compiled where asked
    optimizer: Any  # likewise
    loader: Loader
    texts: Texts
    average: Average | None
    probe: Probe | None
    metadata: dict[str, str]
    notes: tuple[str, ...]  # what is to be said before the first step
    identity: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.config.output)

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.accelerator.is_main_process


def new_or_given(config: TrainConfig, base: Base) -> ControlNet:
    """The network that a run starts from.

    Raises:
        ConfigError: the given one was made for another base.
    """
    if config.init is None:
        # The hint block is the only part that is drawn; the paper's other weights are copies.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return new_control(
                base, widths=hint_widths(base.space.factor), global_pool=config.pools
            )
    found = find_control(config.init, "--init", offline=config.offline)
    control = load_control(found, base.unet)
    fits(control, base)
    return control.float().requires_grad_(True).train()


def _notes(config: TrainConfig, base: Base) -> tuple[str, ...]:
    """Of a given network that was trained on another fine-tune of the base."""
    file = None if config.init is None else Path(config.init) / WEIGHTS
    if file is None or not file.is_file():
        return ()
    with safe_open(file, framework="pt") as opened:
        meant = (opened.metadata() or {}).get("controlset.base_fingerprint")
    if meant in {None, base.fingerprint}:
        return ()
    return (
        f"--init {config.init} was trained on a base with other weights than {base.name} "
        f"(fingerprint {meant}, got {base.fingerprint}); it fits, and goes on from there",
    )


CONTROLNET = Method(build=new_or_given, predict=controlled)


def prepare(config: TrainConfig, judge: Judge | None, method: Method = CONTROLNET) -> Run:
    """Open data and base, build network and optimizer.

    Raises:
        ConfigError: anything that would fail later.
    """
    data = open_dataset(config.data)  # before a base is loaded, and perhaps downloaded, for nothing
    accelerator = new_accelerator(config)
    if accelerator.is_local_main_process:
        check_shards(config.data, data.manifest.shards)
    device = accelerator.device
    precision = resolved_precision(config.precision, device)
    dtype = DTYPES[precision]
    torch.set_flush_denormal(True)  # fresh zero convolutions make denormals: 10 times slower
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
    base = load_base(
        config.base,
        dtype=dtype,
        offline=config.offline,
        other_vae=config.vae,
        lora=config.base_lora,
    )
    if config.zero_terminal_snr:
        base = zero_terminal(base)  # for the loss and for the probe's samples
    index = open_index(config, base)
    rows, excluded = len(index), None
    if config.exclude_keys is not None:
        keys = read_keys(config.exclude_keys)
        index, excluded = without(index, keys, where="--exclude-keys"), digest_of_keys(keys)
    validation = _validation(config) if config.probe_every else None
    loader = _loader(config, index, base, accelerator)
    loader.plan(0)  # refuses a batch that no size can fill
    # Those of the probe as well, and "" for dropped prompts and the unguided half.
    captions = [caption for each in (index, validation) if each for caption in _captions(each)]
    assert base.text is not None
    for model in base.text.models:
        model.to(device)
    cached = fits_in_memory(captions, base.text)
    texts = Texts(base.text, [*captions, ""] if cached else None)
    # Encoders and VAE take gigabytes: each is let go where nothing will ask for it any more.
    base = dataclasses.replace(base, text=None)  # `texts` holds it where it is still needed
    needs_vae = index.latents is None or validation is not None
    base = _placed(dataclasses.replace(base, vae=base.vae if needs_vae else None), device, config)
    control = method.build(config, base).to(device)
    started = None if config.init is None else fingerprint(control)  # before anything changes it
    control.to(memory_format=layout_of_weights(config, device))
    if config.gradient_checkpointing:
        checkpoint_blocks(control)
        checkpoint_blocks(base.unet)
        base.unet.train()  # diffusers' blocks checkpoint in training mode only; still frozen
    diffusion = _diffusion(config, base).to(device)
    learner = Learner(control, base.unet, diffusion, dtype, method.predict)
    optimizer = new_optimizer(control.parameters(), config)
    if config.compile:
        learner.compile()
    wrapped, optimizer = accelerator.prepare(learner, optimizer)
    probe = None
    if validation is not None and accelerator.is_main_process:
        probe = _probe(config, base, control, texts, validation, judge, diffusion, device, dtype)
        if index.latents is not None:  # only the probe decodes
            base = dataclasses.replace(base, vae=None)
    return Run(
        config=config,
        accelerator=accelerator,
        base=base,
        control=control,
        learner=wrapped,
        optimizer=optimizer,
        loader=loader,
        texts=texts,
        average=None if config.ema is None else Average(control, config.ema),
        probe=probe,
        metadata=metadata_of(config, index, base, control),
        notes=_notes(config, base),
        identity={
            **config.identity(),
            "precision": precision,
            "world_batch": loader.batch_size,
            "base": base.fingerprint,
            "init": started,
            "rows": rows,
            "excluded": excluded,
            "latents": index.latents is not None,
        },
    )


def open_index(config: TrainConfig, base: Base) -> Index:
    """The rows to train on, with moments where they are there and wanted.

    Raises:
        ConfigError: no such condition; moments of another base; no moments though asked for.
    """
    latents = open_dataset(config.data).manifest.latents
    if config.latents == "column" and latents is None:
        raise ConfigError(
            f"{config.data}: need a column of latents, found none; run "
            f"`controlset add {config.data} --latents {config.base}` or leave --latents out"
        )
    wanted = False
    if latents is not None and config.latents != "encode":
        wanted = _same_vae(latents, base)
        if config.latents == "column" and not wanted:
            raise ConfigError(
                f"{config.data}: need latents of {config.base}, got those of "
                f"{latents['base']}; train with --latents encode"
            )
        if config.flip and not latents["flips"]:
            wanted = False  # a mirrored latent is not the latent of a mirrored picture
    return scan(config.data, split="train", condition=config.condition, wants_latents=wanted)


def _same_vae(latents: Mapping[str, Any], base: Base) -> bool:
    """Whether stored moments are what this base's VAE would give."""
    have = (latents["channels"], latents["factor"], latents["scaling_factor"])
    if have != (base.space.channels, base.space.factor, base.space.scaling_factor):
        return False
    file = vae_sha256(base)
    # From the hub there is no file to hash: then the name has to do.
    return file == latents["vae_sha256"] if file is not None else latents["base"] == base.name


def _validation(config: TrainConfig) -> Index:
    """Rows that are looked at and never trained on."""
    if "validation" not in open_dataset(config.data).manifest.splits:
        raise ConfigError(
            f"{config.data}: need validation rows to see whether control works, found none; "
            "generate with --validation 0.02, or train blindly with --probe-every 0"
        )
    return scan(config.data, split="validation", condition=config.condition, wants_latents=False)


def _loader(
    config: TrainConfig, index: Index, base: Base, accelerator: accelerate.Accelerator
) -> Loader:
    return Loader(
        index,
        seed=config.seed,
        batch_size=config.batch_size * accelerator.num_processes,
        options=DrawOptions(
            num_train_timesteps=int(base.scheduler["num_train_timesteps"]),
            prompt_dropout=config.prompt_dropout,
            condition_dropout=config.condition_dropout,
            flip=config.flip,
            offset_noise=config.noise_offset > 0,
        ),
        latent_channels=base.space.channels,
        latent_factor=base.space.factor,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=config.loader_workers,
        pin=accelerator.device.type == "cuda",
    )


def _captions(index: Index) -> list[str]:
    """All captions of a split."""
    captions: list[str] = []
    for file in index.files:
        with open_shard(index.filesystem, file) as reader:
            table = reader.read(["text"])
        captions += [text or "" for text in table["text"].to_pylist()]
    return captions


def _placed(base: Base, device: torch.device, config: TrainConfig) -> Base:
    for module in (base.unet, base.vae):
        if module is not None:
            module.to(device)
    if layout_of_weights(config, device) == torch.channels_last:
        base.unet.to(memory_format=torch.channels_last)
    return base


def _diffusion(config: TrainConfig, base: Base) -> Diffusion:
    schedule = scheduler(base, "DDPMScheduler")
    return Diffusion.of(
        schedule.alphas_cumprod, schedule.config.prediction_type, min_snr=config.min_snr
    )


def _probe(
    config: TrainConfig,
    base: Base,
    control: ControlNet,
    texts: Texts,
    validation: Index,
    judge: Judge | None,
    diffusion: Diffusion,
    device: torch.device,
    dtype: torch.dtype,
) -> Probe:
    # Of the most frequent size alone: the rows are one batch.
    size = next(iter(validation.sizes))
    of_size = (validation.widths == size[0]) & (validation.heights == size[1])
    rows = [int(row) for row in of_size.nonzero()[0][: config.probe_images]]
    loader = Loader(
        validation,
        seed=config.seed,
        # Rows are named (`rows`): no batch of an epoch is asked for.
        batch_size=1,
        options=DrawOptions(num_train_timesteps=len(diffusion.alpha_T)),
        latent_channels=base.space.channels,
        latent_factor=base.space.factor,
    )
    return Probe(
        base=base,
        control=control,
        texts=texts,
        batch=loader.rows(rows),
        judge=judge,
        diffusion=diffusion,
        options=SampleOptions(steps=config.probe_steps, guidance=config.probe_guidance),
        device=device,
        channels_last=config.channels_last,
        autocast=dtype,
    )
