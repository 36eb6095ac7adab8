"""What an evaluation is asked to do."""

import dataclasses
from typing import Any, Literal

from schemas.errors import ConfigError

Preset = Literal["strict", "cnpp"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Everything that an evaluation needs to know."""

    run: tuple[str, ...]
    """Folder of a run, or a ControlNetModel folder; several are compared with the first."""

    data: str
    """Folder or URI of a data set that holds the condition."""

    output: str
    """Folder for scores, pictures and report."""

    condition: str | None = None
    """Which condition; default: the one that the run was trained on."""

    base: str | None = None
    """The locked model, if it is not the one that the run names."""

    vae: str | None = None
    """VAE to use instead of the base's: folder, or name on the hub."""

    base_lora: str | None = None
    """File with a LoRA (.safetensors) that is added to the base: `pip install controlset[lora]`."""

    split: str = "validation"
    """Rows to judge by."""

    limit: int | None = None
    """At most so many rows; the first ones by key."""

    samples: int = 1
    """Pictures for each row, each of a seed of its own; more than one show the diversity."""

    seed: int = 0
    """Pictures are drawn from hash(seed, key, number)."""

    preset: Preset = "strict"
    """cnpp: as ControlNet++ measures (UniPC, 20 steps, guidance 7.5, 4 pictures a row, its
    extractors), to compare with its table."""

    scheduler: str | None = None
    """ddim, dpm++, unipc, euler. Default: ddim; cnpp: unipc."""

    steps: int = 20
    """Sampling steps."""

    guidance: float | None = None
    """Of classifier-free guidance; 1 or less is none, as in diffusers. Default: what the run was
    probed with, 3; cnpp: 7.5."""

    scale: float = 1.0
    """Of the control."""

    negative_prompt: str | None = None
    """Default: empty; cnpp: "worst quality, low quality"."""

    empty_prompt: bool = False
    """Sample without the rows' captions: all that is left is the control."""

    judge: tuple[str, ...] = ()
    """Annotator that looks at the pictures: a name, or options of `generate`, e.g.
    `depth-model=Intel/dpt-large`. Default: the one that drew the data set's maps."""

    tolerance: int = 1
    """Pixels by which an edge may lie beside its counterpart."""

    sweep_guidance: tuple[float, ...] = ()
    """Guidance scales to try."""

    sweep_scale: tuple[float, ...] = ()
    """Control scales to try."""

    curve: bool = False
    """Judge every saved step of the runs, too."""

    inception: str | None = None
    """File with the Inception weights of FID and KID."""

    clip: str | None = None
    """CLIP model for the CLIP score: folder, or name on the hub."""

    lpips: str | None = None
    """Folder with LPIPS weights, for diversity."""

    expect: float | None = None
    """Exit with status 1 unless the first run's first number is at least as good."""

    batch_size: int = 8
    """Pictures sampled together; does not change the scores."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, or cuda."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the networks that draw. auto: bf16 on GPUs that have it, fp32 elsewhere."""

    weights: str | None = None
    """Folder that is searched first for weights of the judge."""

    offline: bool = False
    """Never touch the network."""

    trust_model: tuple[str, ...] = ()
    """Models that may be loaded although only the data set or the run names them (hub names or
    folders). Those that are ours by default need not be named."""

    report: bool = True
    """Write report.html."""

    def __post_init__(self) -> None:
        self._need(bool(self.run), "run", "at least one folder")
        for name in ("samples", "steps", "batch_size"):
            self._need(getattr(self, name) >= 1, name, "1 or more")
        self._need(self.limit is None or self.limit >= 1, "limit", "1 or more")
        self._need(self.tolerance >= 0, "tolerance", "0 or more")
        self._need(self.guidance is None or self.guidance >= 0, "guidance", "0 or more")

    def _need(self, satisfied: bool, name: str, rule: str) -> None:
        if not satisfied:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option}: need {rule}, got {getattr(self, name)!r}")

    def resolved(self) -> "EvaluateConfig":
        """With the preset's values where nothing was said."""
        cnpp = self.preset == "cnpp"
        values: dict[str, Any] = {
            "scheduler": self.scheduler or ("unipc" if cnpp else "ddim"),
            "guidance": self.guidance if self.guidance is not None else (7.5 if cnpp else 3.0),
            "negative_prompt": self.negative_prompt
            if self.negative_prompt is not None
            else ("worst quality, low quality" if cnpp else ""),
            "samples": 4 if cnpp and self.samples == 1 else self.samples,
        }
        return dataclasses.replace(self, **values)
