"""What an evaluation is asked to do."""

import dataclasses
from typing import Any, Literal

from schemas.errors import need_field

Preset = Literal["strict", "cnpp"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Everything that an evaluation needs to know."""

    run: tuple[str, ...]
    """Folder of a run, or a ControlNetModel folder; several are compared with the first."""

    data: str
    """Folder or URI of a data set that holds the condition."""

    output: str
    """Folder that scores, pictures and the report are written to."""

    condition: str | None = None
    """Condition that is judged. Default: the one that the run was trained on."""

    base: str | None = None
    """The locked model, if it is not the one that the run names."""

    vae: str | None = None
    """VAE to use instead of the base's: folder, or name on the hub."""

    base_lora: str | None = None
    """File with a LoRA (.safetensors) that is added to the base: `pip install controlset[lora]`."""

    split: str = "validation"
    """Split of the data set whose rows are sampled and judged."""

    limit: int | None = None
    """Judge at most this many rows, the first ones by key."""

    samples: int = 1
    """How many pictures to sample for each row, each from a seed of its own. More than one also
    measure diversity."""

    seed: int = 0
    """Seed of the sampled pictures: each is drawn from the hash of seed, key of the row and
    number."""

    preset: Preset = "strict"
    """How to measure. strict: with the annotator that drew the data set's maps. cnpp: as
    ControlNet++ does (UniPC, 20 steps, guidance 7.5, 4 pictures a row, its extractors), to compare
    with its table."""

    scheduler: str | None = None
    """Sampler of the pictures: ddim, dpm++, unipc or euler. Default: ddim, with cnpp unipc."""

    steps: int = 20
    """Steps in which a picture is sampled."""

    guidance: float | None = None
    """Scale of classifier-free guidance; 1 or less is no guidance, as in diffusers. Default: 3, as
    in the probes of training; with cnpp 7.5."""

    scale: float = 1.0
    """Scale of the control: how strongly the ControlNet acts; 1 is as trained."""

    negative_prompt: str | None = None
    """What pictures should not look like. Default: nothing; with cnpp "worst quality, low
    quality"."""

    empty_prompt: bool = False
    """Sample without the rows' captions, so that only the control says what to draw."""

    judge: tuple[str, ...] = ()
    """Annotator that looks at the pictures: a name, or options of `generate`, e.g.
    `depth-model=Intel/dpt-large`. Default: the one that drew the data set's maps. With `truth`
    among them (or `truth=DIR`, of `controlset draw`) what it sees is held to what was drawn."""

    tolerance: int = 1
    """How many pixels an edge may lie off and still counts as found."""

    sweep_guidance: tuple[float, ...] = ()
    """Scales of guidance to measure one after the other, for a curve."""

    sweep_scale: tuple[float, ...] = ()
    """Scales of the control to measure one after the other, for a curve."""

    curve: bool = False
    """Also judge every checkpoint of the runs, for a curve over training steps."""

    inception: str | None = None
    """File with the Inception weights that FID and KID need. Without it they are left out."""

    clip: str | None = None
    """CLIP model for the CLIP score: a folder, or a name on the hub. Without it the score is left
    out."""

    lpips: str | None = None
    """Folder with the LPIPS weights that diversity needs. Without it diversity is left out."""

    expect: float | None = None
    """End with exit status 1 unless the first number of the first run is at least as good as
    this."""

    batch_size: int = 8
    """How many pictures are sampled together; it does not change the scores."""

    device: str = "auto"
    """Where to sample: auto (a GPU if there is one), cpu or cuda."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the networks that sample. auto: bf16 on GPUs that have it, fp32
    elsewhere."""

    weights: str | None = None
    """Folder that is searched first for the weights of the judging annotator."""

    offline: bool = False
    """Never use the internet; all models must be on this machine."""

    trust_model: tuple[str, ...] = ()
    """Models that may be loaded although only the data set or the run names them (hub names or
    folders). Those that are ours by default need not be named."""

    report: bool = True
    """Write the report, report.html."""

    def __post_init__(self) -> None:
        need_field(self, bool(self.run), "run", "at least one folder")
        for name in ("samples", "steps", "batch_size"):
            need_field(self, getattr(self, name) >= 1, name, "1 or more")
        need_field(self, self.limit is None or self.limit >= 1, "limit", "1 or more")
        need_field(self, self.tolerance >= 0, "tolerance", "0 or more")
        need_field(self, self.guidance is None or self.guidance >= 0, "guidance", "0 or more")

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
