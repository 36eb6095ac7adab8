"""What is sampled for an evaluation, and the networks that do it.

One base is in memory at a time, told apart by its name.
"""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from controlnet.architecture.backbone import Base, fits, load_base, zero_terminal
from controlnet.architecture.control import ControlNet
from controlnet.architecture.control_files import find_control, load_control, metadata_of_file
from controlnet.architecture.model_folder import weights_file
from controlnet.architecture.sampling import SampleOptions, to_pictures
from controlnet.evaluator.config import EvaluateConfig
from controlnet.evaluator.samples import Request, Sampler
from controlnet.nano import NAME, base_folder
from controlnet.trainer.devices import DTYPES, resolved_precision
from controlnet.trainer.run_folder import CONFIG_NAME, CONTROL_DIR, check_result, read_record
from schemas.errors import ConfigError
from schemas.pixels import RgbU8


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
class Setting:
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
    # The latter are folders of pictures as well.
    taken = {other.name for other in others} | {"floor", "ceiling", "real", "wanted", "judge"}
    stem = path.resolve().stem if path.is_file() else path.resolve().name  # `.` has none
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name


def settings_of(places: Sequence[RunPlace], config: EvaluateConfig) -> list[Setting]:
    """All settings; each run's own first, its floor last of what everybody needs."""
    assert config.guidance is not None, "resolve the configuration first"
    guidance, scale = config.guidance, config.scale
    settings: list[Setting] = []
    for place in places:
        own = Setting(
            name=place.name, run=place, control=place.control, guidance=guidance, scale=scale
        )
        settings.append(own)
        for what, values in (("guidance", config.sweep_guidance), ("scale", config.sweep_scale)):
            for value in values:
                changed = {what: value, "swept": (what, value)}
                name = f"{place.name}-{what}-{value:g}"
                settings.append(dataclasses.replace(own, name=name, **changed))
        if config.curve:
            settings += [
                dataclasses.replace(
                    own, name=f"{place.name}-step-{step}", control=folder, step=step
                )
                for step, folder in _saved(place)
            ]
    return settings


def _saved(place: RunPlace) -> list[tuple[int, Path]]:
    folders = sorted((place.path / "checkpoints").glob("step-*")) if place.is_run else []
    return [
        (int(folder.name.removeprefix("step-")), folder / "controlnet")
        for folder in folders
        if weights_file(folder / "controlnet") is not None
    ]


_KNOWN_BASES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-xl-base-1.0",
}
"""Those that a run may name without surprise."""


class Models:
    """Bases and samplers as they are asked for; the last of each stays.

    Args:
        base: for all runs; None takes the one that each was trained on.
        precision: fp32, bf16, fp16 or auto.
        offline: never ask the hub.
        device: of the networks.
        vae: to use instead of each base's own.
        lora: file that is added to each base.
    """

    def __init__(
        self,
        *,
        base: str | None,
        precision: str,
        offline: bool,
        device: str,
        vae: str | None = None,
        lora: str | None = None,
    ) -> None:
        self._asked, self._offline = base, offline
        self._vae, self._lora = vae, lora
        self.device = device
        self.precision = resolved_precision(precision, torch.device(device))
        self._base: tuple[str, Base] | None = None
        self._sampler: tuple[str, Sampler] | None = None

    def base_of(self, place: RunPlace) -> str:
        """The base of a run: asked for, or what its record or file says; `nano` as its folder.

        Raises:
            ConfigError: nobody says.
        """
        name = self._asked or _trained_on(place)
        if name is None:
            raise ConfigError(
                f"--run {place.path}: its file does not say which base it was trained on; "
                "give --base BASE"
            )
        # Older runs name the folder that it had where they were trained.
        bundled = name == NAME or (not Path(name).exists() and name.endswith("nano/base"))
        return str(base_folder()) if bundled else name

    def check(self, places: Sequence[RunPlace]) -> list[str]:
        """Load every run's networks once, so that what does not fit is known before anything runs.

        Returns:
            What is to be said: a run on another fine-tune of its base.

        Raises:
            ConfigError: a base that is not there, or of another architecture; a network with NaN.
        """
        said = []
        for place in places:
            if place.is_run:  # others have no summary that they could be checked by
                check_result(place.path)
            base = self.base(place)
            fits(load_control(place.control, base.unet), base)
            meant = told_by(place, "base_fingerprint")
            if meant is not None and meant != base.fingerprint:
                said.append(
                    f"{place.path} was trained on a base with other weights than {base.name} "
                    f"(fingerprint {meant}, got {base.fingerprint}); it fits, but may obey less"
                )
        return said

    def identity_of(self, place: RunPlace) -> dict[str, str]:
        """What stands for a run's base: its name, and the weights of its parts as stored."""
        return {"name": self.base_of(place), **self.base(place).stored}

    def control(self, control: Path, base: Base) -> ControlNet:
        """A ControlNet for a base, frozen and in its place."""
        return load_control(control, base.unet).requires_grad_(False).eval().to(self.device)

    def sample(
        self, setting: Setting, config: EvaluateConfig, requests: Sequence[Request]
    ) -> list[RgbU8]:
        """Draw a batch for a setting of an evaluation."""
        if self._sampler is None or self._sampler[0] != setting.name:
            self._sampler = (setting.name, self._new_sampler(setting, config))
        return self._sampler[1](requests)

    @torch.no_grad()
    def round_trip(self, place: RunPlace, picture: RgbU8) -> RgbU8:
        """The picture through the VAE of a run's base and back."""
        base = self.base(place)
        image_CHW = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1
        mean_BCHW, _ = base.moments(image_CHW[None].to(self.device)).chunk(2, dim=1)
        return to_pictures(base.pictures(base.space.scaled(mean_BCHW)))[0]

    def _new_sampler(self, setting: Setting, config: EvaluateConfig) -> Sampler:
        base = self.base(setting.run)
        controls = [] if setting.control is None else [(self.control(setting.control, base), 1.0)]
        return Sampler(
            base,
            controls,
            SampleOptions(
                steps=config.steps,
                guidance=float(setting.guidance),
                scale=float(setting.scale),
                scheduler=config.scheduler or "ddim",
            ),
            negative_prompt=config.negative_prompt or "",
            device=torch.device(self.device),
            autocast=DTYPES[self.precision],
        )

    def base(self, place: RunPlace) -> Base:
        """The base of a run, in its place."""
        name = self.base_of(place)
        if self._base is None or self._base[0] != name:
            base = self._loaded(name, place)
            assert base.text is not None
            assert base.vae is not None
            for module in (base.unet, base.vae, *base.text.models):
                module.to(self.device)
            self._base, self._sampler = (name, base), None  # the sampler holds the old base
        base = self._base[1]
        return zero_terminal(base) if told_by(place, "zero_terminal_snr") == "true" else base

    def _loaded(self, name: str, place: RunPlace) -> Base:
        """The base; one that only the run names, perhaps a stranger's, is not fetched for that."""
        fetched = self._asked is not None or name in _KNOWN_BASES
        try:
            return load_base(
                name,
                dtype=DTYPES[self.precision],
                offline=self._offline or not fetched,
                other_vae=self._vae,
                lora=self._lora,
            )
        except ConfigError as error:
            if fetched or self._offline or Path(name).exists():
                raise
            raise ConfigError(
                f"--run {place.path}: need a base that is here, got {name!r} from the run alone, "
                f"and it was not fetched; if you trust it, say --base {shlex.quote(name)}"
            ) from error


def floors_of(
    places: Sequence[RunPlace], models: Models, config: EvaluateConfig
) -> dict[str, Setting]:
    """A setting without control for each distinct base: `floor`, `floor-2` and so on."""
    assert config.guidance is not None, "resolve the configuration first"
    floors: dict[str, Setting] = {}
    for base in dict.fromkeys(map(models.base_of, places)):
        place = next(run for run in places if models.base_of(run) == base)
        name = "floor" if not floors else f"floor-{len(floors) + 1}"
        floors[name] = Setting(
            name=name, run=place, control=None, guidance=config.guidance, scale=0.0
        )
    return floors


def _trained_on(place: RunPlace) -> str | None:
    """The base by the record of the run (also where its checkpoint is given), or by the file."""
    run = place.path if place.is_run else place.control.resolve().parent
    ours = place.is_run or place.control.name == CONTROL_DIR
    for folder in (run, run.parent.parent) if ours else ():
        base = read_record(folder / CONFIG_NAME).get("config", {}).get("base")
        if base:
            return base
    return told_by(place, "base")
