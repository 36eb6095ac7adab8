"""What a user can ask of `add`. Light to import."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

from annotators.options import AnnotateConfig
from schemas.errors import need
from schemas.machine import cores
from schemas.manifest import ADDING_DIR, MANIFEST_NAME


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AddConfig(AnnotateConfig):
    """Everything that `controlset add` needs to know."""

    output: str
    """Folder of a complete data set."""

    conditions: tuple[str, ...] = ()
    """Condition maps to add, e.g. `lineart normal`; `controlset doctor` lists them."""

    import_condition: tuple[str, ...] = ()
    """Conditions whose maps are files of yours: NAME=TEMPLATE, as for `generate`, relative to the
    source that the set was made of, or with its whole path, e.g. `scribble=/maps/{stem}.png`."""

    latents: str | None = None
    """Base (folder in diffusers' format, or hub name) whose VAE encodes every image once, so that
    training on it need not do it in every step. In fp32 unless --precision says otherwise."""

    latent_flips: bool = False
    """Also encode the mirrored images, for training with `--flip`."""

    caption: Literal["none", "blip"] = "none"
    """blip: `--caption-model` describes the images that have no caption."""

    seed: int | None = None  # type: ignore[assignment]  # None is the set's own
    """Seed of everything that is drawn at random: thresholds, shuffling, sampled captions. Default:
    the one that the data set was generated with."""

    num_workers: int | None = None
    """How many threads decode, annotate and encode. Default: one for each core."""

    dry_run: bool = False
    """Print what would be added, and write nothing."""

    def __post_init__(self) -> None:
        AnnotateConfig.__post_init__(self)
        need(bool(self.output), "DATASET", "the folder of a data set", self.output)
        need(
            self.asks_for_something
            or os.path.lexists(f"{self.folder}/{ADDING_DIR}/{MANIFEST_NAME}"),  # to be finished
            "--conditions",
            "at least one, or --caption blip, --latents BASE or --import-condition NAME=WHERE",
            self.conditions,
        )
        need(self.latents != "", "--latents", "a folder, or a name on the hub", self.latents)
        need(
            not self.latent_flips or self.latents is not None,
            "--latent-flips",
            "--latents BASE",
            self.latents,
        )
        need(
            self.num_workers is None or self.num_workers >= 1,
            "--num-workers",
            "1 or more",
            self.num_workers,
        )

    @property
    def asks_for_something(self) -> bool:
        """False where an addition that waits shall be finished, and nothing else."""
        return (
            bool(self.conditions)
            or self.caption != "none"
            or self.latents is not None
            or bool(self.import_condition)
        )

    @property
    def folder(self) -> str:
        """The data set's folder without a trailing slash."""
        return self.output.removeprefix("file://").rstrip("/") or "/"

    @property
    def workers(self) -> int:
        """Threads to use on this machine."""
        return self.num_workers or cores()

    def with_seed_of(self, recipe: Mapping[str, Any]) -> "AddConfig":
        """The same, with the data set's seed where none is asked for."""
        if self.seed is not None or not self.asks_for_something:
            return self
        return dataclasses.replace(self, seed=recipe.get("seed", 0))
