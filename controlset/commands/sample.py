"""`controlset sample`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from controlset import early
from controlset.interrupt import leaving_at_once, load_arrow
from controlset.parse import need, parse
from schemas.printable import say

COMMAND = "controlset sample"
_DIR = tyro.conf.arg(metavar="DIR")
_FILES = tyro.conf.arg(metavar="FILE [FILE ...]")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """What is drawn, and how."""

    run: Annotated[tuple[str, ...], _DIR, tyro.conf.UseAppendAction]
    """Folder of a run, or a ControlNetModel folder. Given again, all control every picture
    together: then give a hint for each, in the same order."""

    hint: Annotated[tuple[Path, ...], _FILES]
    """Condition maps. Of one run, each is a picture to draw; of several, one for each run. What is
    transparent counts as black."""

    prompt: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT [TEXT ...]")] = ("",)
    """One for all pictures, or one for each."""

    output: Annotated[Path, tyro.conf.arg(metavar="PATH")] = Path("sample.png")
    """File of one picture; folder of several, which gets a grid.png, too."""

    annotate: bool = False
    """The hints are photographs: extract the condition first, as for the training data."""

    base: str | None = None
    """The locked model, if it is not the one that the run names."""

    vae: str | None = None
    """VAE to use instead of the base's: folder, or name on the hub."""

    base_lora: str | None = None
    """File with a LoRA (.safetensors) that is added to the base: `pip install controlset[lora]`."""

    negative_prompt: str = ""
    """What to keep away from."""

    scheduler: Literal["ddim", "dpm++", "unipc", "euler"] = "ddim"
    """Sampler."""

    steps: int = 20
    """Sampling steps."""

    guidance: float = 3.0
    """Of classifier-free guidance; 1 or less is none, as in diffusers. 7.5 is usual for Stable
    Diffusion."""

    scale: tuple[float, ...] = (1.0,)
    """Of the control; one, or one for each run."""

    start: float = 0.0
    """Share of the steps after which control begins."""

    end: float = 1.0
    """Share of the steps after which control ends."""

    guess: bool = False
    """Guess mode: control without help of a prompt, deep layers louder, guided half only."""

    resolution_weighting: bool = False
    """The paper's 64/h weighting under guidance, guided half only."""

    init_image: Path | None = None
    """Picture to start from."""

    strength: float | None = None
    """How much of it goes: 0 to 1. Default: 0.8; 1 with a mask."""

    mask: Path | None = None
    """What is white is painted anew; what is black or transparent stays."""

    count: int = 1
    """Pictures of each hint, each of the next seed."""

    seed: int = 0
    """Of the first picture."""

    batch_size: int = 8
    """Pictures drawn together; does not change them."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, or cuda."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format. auto: bf16 on GPUs that have it, fp32 elsewhere."""

    offline: bool = False
    """Never touch the network."""

    trust_model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Models that may be loaded although only the run names them (hub names or folders). Those that
    are ours by default need not be named."""

    def __post_init__(self) -> None:
        for name in ("steps", "count", "batch_size"):
            need(getattr(self, name) >= 1, f"--{name.replace('_', '-')}", "1 or more", 0)
        need(bool(self.hint), "--hint", "at least one file", "none")
        several = len(self.run) > 1
        if several:
            rule = f"one for each of {len(self.run)} runs"
            need(len(self.hint) == len(self.run), "--hint", rule, len(self.hint))
        need(len(self.scale) in {1, len(self.run)}, "--scale", "one, or one a run", self.scale)
        rows = 1 if several else len(self.hint)
        need(len(self.prompt) in {1, rows}, "--prompt", f"one, or {rows}", len(self.prompt))
        need(0 <= self.start < self.end <= 1, "--start", "0 <= start < end <= 1", self.start)
        need(self.guidance >= 0, "--guidance", "0 or more", self.guidance)
        strength = self.strength
        need(strength is None or 0 < strength <= 1, "--strength", "more than 0, up to 1", strength)
        given = self.init_image is not None
        some = int(self.steps * (strength or 1)) >= 1
        rule = f"at least one of {self.steps} steps: {1 / self.steps:.3g} or more"
        need(some, "--strength", rule, strength)
        need(given or self.mask is None, "--mask", "an --init-image", "none")
        need(given or strength is None, "--strength", "an --init-image", "none")
        suffix = self.output.suffix.lower()
        if rows * self.count == 1 and suffix:
            rule = "a folder, or a name that ends in .png, .jpg or .webp"
            need(suffix in {".png", ".jpg", ".jpeg", ".webp"}, "--output", rule, self.output)


def run(arguments: Sequence[str]) -> int:
    """Draw pictures under control; print where they lie."""
    with leaving_at_once("sample"):
        config = parse(
            SampleConfig,
            COMMAND,
            arguments,
            description="Draw pictures that obey a condition map: with one ControlNet or several, "
            "from noise, from a picture, or into the masked part of one.",
            example=f'{COMMAND} --run run --hint map.png --prompt "a red star"',
        )
        early.need_runs(config.run)
        early.need_paths("--hint", config.hint, "a picture")
        given = {"--init-image": config.init_image, "--mask": config.mask}
        for flag, path in given.items():
            early.need_paths(flag, [path], "a picture")
        from controlset.drawing import draw

        load_arrow()
    for path in draw(config):
        say(path)
    return 0
