"""Devices, processes and number formats."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator

import accelerate
import torch
import torch.distributed

from controlnet.trainer.config import TrainConfig
from schemas.errors import ConfigError, first_line

# What PyTorch says when another process is gone; it has no exception of its own for most of it.
_LOST = re.compile(r"gloo|nccl|process ?group|connection (closed|reset)|broken pipe", re.IGNORECASE)
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def new_accelerator(config: TrainConfig) -> accelerate.Accelerator:
    """Devices and processes, as `accelerate launch` or `torchrun` set them up.

    Raises:
        ConfigError: a device or a library that is not there.
    """
    if config.device not in {"auto", "cpu", "cuda"}:
        raise ConfigError(f"--device: need auto, cpu or cuda, got {config.device!r}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: need a GPU, found none; use --device auto or cpu")
    if config.precision == "fp16" and (config.device == "cpu" or not torch.cuda.is_available()):
        raise ConfigError("--precision fp16: need a GPU, got cpu; use fp32 or bf16")
    if config.tracker == "wandb" and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            "--tracker wandb: need wandb, which is not installed; run `pip install wandb` or take "
            "--tracker tensorboard"
        )
    return accelerate.Accelerator(
        cpu=wants_cpu(config.device),
        # bf16 is cast around the learner (`casting`); fp16 needs accelerate's scaler, too.
        mixed_precision="fp16" if config.precision == "fp16" else "no",
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir=config.output,
        # Gradients lie where they are sent from, once and not twice.
        kwargs_handlers=[accelerate.DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )


def wants_cpu(device: str) -> bool:
    """Whether accelerate is to be told that there is no GPU.

    It forms no group of several processes on a machine without one unless it is told: each of them
    would train alone, all into one folder.

    Args:
        device: auto, cpu or cuda.
    """
    several = "LOCAL_RANK" in os.environ or int(os.environ.get("WORLD_SIZE") or 1) > 1
    return device == "cpu" or (several and not torch.cuda.is_available())


def is_first_process() -> bool:
    """Whether this is the process that writes, before any of them knows another.

    `torchrun`, `accelerate launch` and MPI say it in the environment.
    """
    return not any(int(os.environ.get(name) or 0) for name in _RANKS)


@contextlib.contextmanager
def other_processes() -> Iterator[None]:
    """Say in one line that another process of this training is gone.

    Raises:
        ConfigError: it is; checkpoints are whole, because each is renamed when it is complete.
    """
    try:
        yield
    except RuntimeError as error:
        several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        if not several or not (
            isinstance(error, torch.distributed.DistError) or _LOST.search(str(error))
        ):
            raise
        raise ConfigError(
            "another process of this training ended or cannot be reached; see what it said, then "
            "start all of them again with --resume: the last checkpoint is kept "
            f"(rank {torch.distributed.get_rank()}: {first_line(error)})"
        ) from error


def resolved_precision(precision: str, device: torch.device) -> str:
    """What `auto` means here: bf16 on GPUs that have it, else fp32."""
    if precision != "auto":
        return precision
    # Emulated bf16 would be slower than fp32.
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_bf16 else "fp32"


def layout_of_weights(config: TrainConfig, device: torch.device) -> torch.memory_format:
    """Channels last on a GPU only: on a CPU the inputs' layout decides alone.

    Weights of other strides there cost a second copy of the locked model, whose file is mapped, and
    four times as long an AdamW step (SD1.5, two cores: 13.4 -> 11.0 GB, 1.17 -> 0.27 s).
    """
    on_gpu = config.channels_last and device.type == "cuda"
    return torch.channels_last if on_gpu else torch.preserve_format
