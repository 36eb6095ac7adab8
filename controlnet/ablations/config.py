"""What a user can ask of `ablate`. Light to import."""

import dataclasses
from typing import Any

from controlnet.trainer.config import TrainConfig, nano_recipe
from schemas.errors import need_field

_PARTS = (0, 1, 4, 8, 12, 16)  # sixteenths of the steps after which a variant is sampled
EARLY = 1  # of them: where a broken start shows


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AblationConfig:
    """Everything that the table depends on."""

    data: str
    """Data set of drawn shapes that `controlset generate` wrote, with validation rows."""

    output: str
    """Folder of the table; run again, the command goes on where it stopped."""

    condition: str = "canny"
    """Which of its condition columns to obey."""

    steps: int = 480
    """Optimizer steps of each variant; a multiple of 16."""

    seeds: int = 1
    """Trainings of each variant, with seeds 0, 1, …"""

    images: int = 64
    """How many validation rows every variant draws and is judged by."""

    batch_size: int = 32
    """Samples that go through the network in one step."""

    sample_steps: int = 20
    """Steps in which a picture is sampled."""

    guidance: float = 3.0
    """Scale of classifier-free guidance for pictures with a prompt; without a prompt there is
    none."""

    device: str = "auto"
    """Where to train and sample: auto (a GPU if there is one), cpu or cuda."""

    def __post_init__(self) -> None:
        need_field(self, self.steps > 0 and self.steps % 16 == 0, "steps", "a multiple of 16")
        for name in ("seeds", "batch_size", "sample_steps"):
            need_field(self, getattr(self, name) >= 1, name, "1 or more")
        need_field(self, self.images >= 2, "images", "2 or more")
        need_field(self, bool(self.output), "output", "a folder")

    @property
    def sampled_after(self) -> tuple[int, ...]:
        """Steps after which a variant is sampled, 0 and the last one among them."""
        return tuple(self.steps * part // 16 for part in _PARTS)

    @property
    def early(self) -> int:
        """The first of them after the start."""
        return self.sampled_after[EARLY]

    def identity(self) -> dict[str, Any]:
        """What must be the same for a table to go on."""
        ignored = {"output", "device", "seeds"}  # more seeds are added to a table, not another one
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in ignored}

    def training(self, *, base: str, output: str, seed: int) -> TrainConfig:
        """The nano recipe, shortened; a variant changes it further.

        The learning rate stays constant after the warm-up: a cosine over so few steps would end
        before control is in (nano: about step 400), and curves over steps would not compare.

        Args:
            base: folder.
            output: of the run.
            seed: of order, noise, timesteps and the hint block.
        """
        recipe = nano_recipe(data=self.data, condition=self.condition, output=output)
        return dataclasses.replace(
            recipe,
            base=base,
            steps=self.steps,
            batch_size=self.batch_size,
            schedule="constant",
            warmup=min(recipe.warmup, self.steps // 8),
            checkpoint_every=self.early,  # every step that is sampled is one of these
            keep_last=16,
            probe_every=0,
            tracker="none",
            seed=seed,
            device=self.device,
            offline=True,
        )
