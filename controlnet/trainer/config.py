"""What a user can ask of `train`. Light to import."""

import dataclasses
from typing import Any, Literal

from schemas.errors import need_field

Optimizer = Literal["adamw", "adamw8bit", "prodigy"]
Schedule = Literal["constant", "linear", "cosine"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything that training needs to know."""

    data: str
    """Folder or URI of a data set that `controlset generate` wrote."""

    condition: str
    """Which of its condition columns to obey, e.g. `canny`."""

    base: str
    """The locked model: `nano`, a folder in diffusers' format, or a name on the hub."""

    output: str
    """Folder that the run is written to."""

    vae: str | None = None
    """VAE to use instead of the base's: folder, or name on the hub."""

    base_lora: str | None = None
    """File with a LoRA (.safetensors) that is added to the base: `pip install controlset[lora]`."""

    resume: bool = False
    """Go on from the last whole checkpoint of the output folder."""

    init: str | None = None
    """ControlNetModel folder to start from, instead of a copy of the base."""

    exclude_keys: str | None = None
    """Text file with keys of rows that are left out, one a line: those that a message about a loss
    names, for example. It may be given to a run that goes on."""

    steps: int = 20_000
    """Optimizer steps. Control often snaps in before 10,000 on Stable Diffusion 1.5."""

    batch_size: int = 4
    """Samples that go through the network together, on each device."""

    accumulation: int = 1
    """Batches for one optimizer step. Large steps of 64 to 128 samples beat more small ones."""

    learning_rate: float = 1e-5
    """Learning rate of the optimizer. Use 1 with prodigy, which finds its own. A run that goes on
    may have a lower one."""

    schedule: Schedule = "constant"
    """How the learning rate goes on after the warm-up. It counts optimizer steps, whatever the
    number of devices."""

    warmup: int = 0
    """Optimizer steps over which the learning rate rises."""

    optimizer: Optimizer = "adamw"
    """Which optimizer trains. adamw8bit and prodigy need `pip install controlset[optimizers]`."""

    weight_decay: float = 1e-2
    """Weight decay of AdamW."""

    beta2: float = 0.999
    """Second beta of AdamW: how slowly its estimate of the squared gradients changes."""

    clip: float = 1.0
    """Largest norm of all gradients together; 0 does not clip."""

    ema: float | None = None
    """Average the weights with this decay, e.g. 0.9999. The averaged weights are then the run's
    network wherever it is looked at: in probes, checkpoints and the result."""

    precision: Precision = "auto"
    """Number format of the locked model and of products; the copy's weights stay fp32.
    auto: bf16 on GPUs that have it, fp32 elsewhere."""

    tf32: bool = True
    """Let products in fp32 on a GPU use TF32: faster, with fewer digits."""

    channels_last: bool = True
    """Keep images channels-last in memory: convolutions are up to 3 times as fast on a CPU, and
    faster on tensor cores."""

    compile: bool = False
    """Compile both networks with torch.compile: it costs minutes at the start and makes steps on a
    GPU faster."""

    gradient_checkpointing: bool = False
    """Compute activations a second time in the backward pass: less memory, slower steps."""

    prompt_dropout: float = 0.5
    """Share of prompts replaced by "", drawn anew in every epoch."""

    condition_dropout: float = 0.0
    """Share of conditions replaced by black."""

    flip: float = 0.0
    """Share of samples mirrored, image and map together."""

    noise_offset: float = 0.0
    """Strength of noise that is the same over the whole picture, e.g. 0.05."""

    min_snr: float | None = None
    """Weight timesteps by min-SNR with this gamma, e.g. 5. Default: all weigh the same."""

    zero_terminal_snr: bool = False
    """Rescale the noise schedule so that the last step is pure noise (v-prediction bases). The
    result says so, and is probed, sampled and judged likewise: from pure noise."""

    latents: Literal["auto", "column", "encode"] = "auto"
    """column: VAE moments that `controlset add --latents BASE` stored. encode: compute them in
    every step. auto: the column where it fits the base."""

    global_pool: bool | None = None
    """Whether the control is averaged over the picture. Default: only for the condition
    `shuffle`."""

    seed: int = 0
    """Seed of everything that is drawn at random: order, noise, timesteps, dropout and
    mirroring."""

    device: str = "auto"
    """Where to train: auto (a GPU if there is one), cpu or cuda. Start with `accelerate launch` to
    use several."""

    loader_workers: int = 2
    """Threads that decode the next batches."""

    log_every: int = 10
    """Steps between losses on screen and in TensorBoard; a GPU waits only then."""

    checkpoint_every: int = 500
    """Optimizer steps between two checkpoints."""

    keep_last: int = 2
    """How many of the newest checkpoints are kept."""

    probe_every: int = 500
    """Steps between probes of validation rows: does it obey yet? 0 never probes."""

    probe_images: int = 16
    """Validation rows that are probed."""

    probe_steps: int = 20
    """Steps in which a probe's pictures are sampled."""

    probe_guidance: float = 3.0
    """Scale of classifier-free guidance in probes; 1 or less is no guidance, as in diffusers."""

    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where curves go beside `metrics.jsonl` and `curves.png`."""

    offline: bool = False
    """Never use the internet; the base must be on this machine."""

    trust_model: tuple[str, ...] = ()
    """Models that may judge probes although only the data set names them (hub names or folders).
    Those that are ours by default need not be named."""

    dry_run: bool = False
    """Check data, condition, base and output; print the resolved configuration and what would be
    trained; write nothing."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "loader_workers", "log_every"):
            need_field(self, getattr(self, name) >= 1, name, "1 or more")
        for name in ("checkpoint_every", "keep_last", "probe_images", "probe_steps"):
            need_field(self, getattr(self, name) >= 1, name, "1 or more")
        for name in ("warmup", "probe_every", "clip", "weight_decay", "noise_offset"):
            need_field(self, getattr(self, name) >= 0, name, "0 or more")
        for name in ("prompt_dropout", "condition_dropout", "flip"):
            need_field(self, 0 <= getattr(self, name) <= 1, name, "0 to 1")
        need_field(self, self.learning_rate > 0, "learning_rate", "more than 0")
        need_field(self, 0 < self.beta2 < 1, "beta2", "between 0 and 1")
        need_field(self, self.ema is None or 0 < self.ema < 1, "ema", "between 0 and 1")
        need_field(self, self.min_snr is None or self.min_snr > 0, "min_snr", "more than 0")
        need_field(self, bool(self.output), "output", "a folder")

    @property
    def pools(self) -> bool:
        """Whether control is averaged over the picture."""
        # As the released one for shuffle: a place in its hint means nothing.
        return self.condition == "shuffle" if self.global_pool is None else self.global_pool

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on as if it had never stopped."""
        ignored = {"output", "resume", "steps", "device", "loader_workers", "log_every", "dry_run"}
        ignored |= {"checkpoint_every", "keep_last", "tracker", "offline", "data", "base"}
        ignored.add("trust_model")
        ignored |= {"exclude_keys", "init"}  # what is in them counts, wherever they lie
        ignored.add("batch_size")  # of one process; that of all processes together is `world_batch`
        ignored |= {name for name in self.__dataclass_fields__ if name.startswith("probe_")}
        if self.schedule != "constant":
            ignored.remove("steps")  # the learning rate depends on it
        return {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ignored
        }


def nano_recipe(*, data: str, condition: str, output: str) -> TrainConfig:
    """A known-good run on the bundled base: control in minutes on two cores.

    `controlset train --data DIR --condition canny --base nano --output RUN` takes these values for
    all options that are not given. Two cores of an AMD EPYC, 7,748 scenes: 28.6 minutes, Canny F1
    0.91 on 252 rows (floor 0.23, ceiling 0.99), control in by step 500 (measured 2026-11-24).
    """
    return TrainConfig(
        data=data,
        condition=condition,
        base="nano",
        output=output,
        steps=4000,
        batch_size=32,
        learning_rate=1e-3,
        schedule="cosine",
        warmup=50,
        beta2=0.99,
        probe_every=250,
        probe_images=32,
        checkpoint_every=200,
    )
