"""What is sampled for an evaluation: one cell for each network with each setting."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from controlnet.architecture.control_files import find_control, metadata_of_file
from controlnet.architecture.model_folder import weights_file
from controlnet.evaluator.config import EvaluateConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunPlace:
    """A ControlNet to judge."""

    name: str  # short, no two alike
    path: Path  # folder of the run, or the ControlNetModel folder itself
    control: Path  # the ControlNetModel folder, or the one file

    @property
    def is_run(self) -> bool:
        """Whether training left its record beside the weights."""
        return self.path != self.control


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Pictures of one network with one setting."""

    name: str  # its folder
    run: RunPlace
    control: Path | None  # weights; None: the base alone
    guidance: float
    scale: float
    swept: tuple[str, float] | None = None  # ("guidance", 5.0)
    step: int | None = None  # of a saved step


def places_of(runs: Sequence[str], *, offline: bool = False) -> list[RunPlace]:
    """Where the ControlNets lie; see `find_control` for the forms.

    Raises:
        ConfigError: no ControlNet there.
    """
    places: list[RunPlace] = []
    for given in runs:
        control = find_control(given, "--run", offline=offline)
        path = Path(given) if Path(given).exists() else control  # on the hub
        places.append(RunPlace(name=_name(Path(given), places), path=path, control=control))
    return places


def told_by(place: RunPlace, what: str) -> str | None:
    """What a ControlNet's file says about itself: `condition`, `base`, …; None: nothing."""
    return metadata_of_file(place.control).get(f"controlset.{what}")


def _name(path: Path, others: Sequence[RunPlace]) -> str:
    taken = {other.name for other in others} | {"floor", "ceiling", "real", "wanted"}
    stem = path.resolve().stem if path.is_file() else path.resolve().name
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name


def cells_of(places: Sequence[RunPlace], config: EvaluateConfig) -> list[Cell]:
    """All cells; each run's own first, its floor last of what everybody needs."""
    assert config.guidance is not None, "resolve the configuration first"
    guidance, scale = config.guidance, config.scale
    cells: list[Cell] = []
    for place in places:
        own = Cell(
            name=place.name, run=place, control=place.control, guidance=guidance, scale=scale
        )
        cells.append(own)
        for what, values in (("guidance", config.sweep_guidance), ("scale", config.sweep_scale)):
            for value in values:
                changed = {what: value, "swept": (what, value)}
                name = f"{place.name}-{what}-{value:g}"
                cells.append(dataclasses.replace(own, name=name, **changed))
        if config.curve:
            cells += [
                dataclasses.replace(
                    own, name=f"{place.name}-step-{step}", control=folder, step=step
                )
                for step, folder in _saved(place)
            ]
    return cells


def floor_of(place: RunPlace, name: str, config: EvaluateConfig) -> Cell:
    """The base of a run, without control."""
    assert config.guidance is not None, "resolve the configuration first"
    return Cell(name=name, run=place, control=None, guidance=config.guidance, scale=0.0)


def _saved(place: RunPlace) -> list[tuple[int, Path]]:
    folders = sorted((place.path / "checkpoints").glob("step-*")) if place.is_run else []
    return [
        (int(folder.name.removeprefix("step-")), folder / "controlnet")
        for folder in folders
        if weights_file(folder / "controlnet") is not None
    ]
