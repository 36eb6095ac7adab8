"""`controlset sample`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from controlset import refusals
from controlset.commands import leaving_at_once, load_arrow
from controlset.parse import Command
from schemas.errors import need, need_field
from schemas.printable import say

_DIR = tyro.conf.arg(metavar="DIR")
_FILES = tyro.conf.arg(metavar="FILE [FILE ...]")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """Everything that `controlset sample` needs to know: what is drawn, and how."""

    run: Annotated[tuple[str, ...], _DIR, tyro.conf.UseAppendAction]
    """Folder of a run, or a ControlNetModel folder. Given again, all control every picture
    together: then give a hint for each, in the same order."""

    hint: Annotated[tuple[Path, ...], _FILES]
    """Condition maps. Of one run, each is a picture to draw; of several, one for each run. What is
    transparent counts as black."""

    prompt: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT [TEXT ...]")] = ("",)
    """What to draw: one text for all pictures, or one for each."""

    output: Annotated[Path, tyro.conf.arg(metavar="PATH")] = Path("sample.png")
    """File for one picture, or folder for several, which also gets a grid.png."""

    annotate: bool = False
    """The hints are photographs: extract the condition from them first, as for the training
    data."""

    base: str | None = None
    """The locked model, if it is not the one that the run names."""

    vae: str | None = None
    """VAE to use instead of the base's: folder, or name on the hub."""

    base_lora: str | None = None
    """File with a LoRA (.safetensors) that is added to the base: `pip install controlset[lora]`."""

    negative_prompt: str = ""
    """What pictures should not look like."""

    scheduler: Literal["ddim", "dpm++", "unipc", "euler"] = "ddim"
    """Which sampler draws the pictures."""

    steps: int = 20
    """Steps in which a picture is sampled."""

    guidance: float = 3.0
    """Scale of classifier-free guidance; 1 or less is no guidance, as in diffusers. 7.5 is usual
    for Stable Diffusion."""

    scale: tuple[float, ...] = (1.0,)
    """Scale of the control, 1 is as trained: one number, or one for each run."""

    start: float = 0.0
    """Share of the steps after which control begins."""

    end: float = 1.0
    """Share of the steps after which control ends."""

    guess: bool = False
    """Guess mode, for drawing without a prompt: the control acts on the guided half alone, and more
    strongly in deep layers."""

    resolution_weighting: bool = False
    """Weight each layer's control by 64/h, h being its height, on the guided half alone, as in the
    paper's section on classifier-free guidance."""

    init_image: Path | None = None
    """Picture to start from, instead of noise."""

    strength: float | None = None
    """How much of `--init-image` is replaced, 0 to 1. Default: 0.8, with a mask 1."""

    mask: Path | None = None
    """Mask for `--init-image`: what is white is painted anew, what is black or transparent
    stays."""

    count: int = 1
    """How many pictures to draw of each hint, each from the next seed."""

    seed: int = 0
    """Seed of the first picture."""

    batch_size: int = 8
    """How many pictures are drawn together; it does not change them."""

    device: str = "auto"
    """Where to draw: auto (a GPU if there is one), cpu or cuda."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the networks. auto: bf16 on GPUs that have it, fp32 elsewhere."""

    offline: bool = False
    """Never use the internet; all models must be on this machine."""

    trust_model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Models that may be loaded although only the run names them (hub names or folders). Those that
    are ours by default need not be named."""

    def __post_init__(self) -> None:
        for name in ("steps", "count", "batch_size"):
            need_field(self, getattr(self, name) >= 1, name, "1 or more")
        need(bool(self.hint), "--hint", "at least one file", "none")
        several = len(self.run) > 1
        if several:
            rule = f"one for each of {len(self.run)} runs"
            need(len(self.hint) == len(self.run), "--hint", rule, len(self.hint))
        need(len(self.scale) in {1, len(self.run)}, "--scale", "one, or one a run", self.scale)
        rows = 1 if several else len(self.hint)  # pictures to draw, before --count
        need(len(self.prompt) in {1, rows}, "--prompt", f"one, or {rows}", len(self.prompt))
        need(0 <= self.start < self.end <= 1, "--start", "0 <= start < end <= 1", self.start)
        need(self.guidance >= 0, "--guidance", "0 or more", self.guidance)
        strength = self.strength
        need(strength is None or 0 < strength <= 1, "--strength", "more than 0, up to 1", strength)
        given = self.init_image is not None
        # Of 20 steps a strength of 0.01 would leave none, and the picture as it is.
        some = int(self.steps * (strength or 1)) >= 1
        rule = f"at least one of {self.steps} steps: {1 / self.steps:.3g} or more"
        need(some, "--strength", rule, strength)
        need(given or self.mask is None, "--mask", "an --init-image", "none")
        need(given or strength is None, "--strength", "an --init-image", "none")
        # Of several pictures it is a folder, which may have a dot in its name.
        suffix = self.output.suffix.lower()
        if rows * self.count == 1 and suffix:
            rule = "a folder, or a name that ends in .png, .jpg or .webp"
            need(suffix in {".png", ".jpg", ".jpeg", ".webp"}, "--output", rule, self.output)


COMMAND = Command(
    name="sample",
    kind=SampleConfig,
    description="Draw pictures that obey a condition map: with one ControlNet or several, "
    "from noise, from a picture, or into the masked part of one.",
    example='--run run --hint map.png --prompt "a red star"',
)


def run(arguments: Sequence[str]) -> int:
    """Draw pictures under control; print where they lie."""
    with leaving_at_once("sample"):
        config = COMMAND.parse(arguments)
        refusals.check_sample(config)
        from controlset.drawing import draw

        load_arrow()
    for path in draw(config):
        say(path)
    return 0
