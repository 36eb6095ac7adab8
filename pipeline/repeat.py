"""The commands that make a data set again, out of its manifest."""

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from annotators.options import EyeOptions
from annotators.registry import is_imported
from pipeline.options import GenerateConfig
from schemas.latents import LatentInfo
from schemas.manifest import Manifest

_OPTIONS: Mapping[str, Mapping[str, str]] = {
    # annotator or captioner -> its parameter -> the option that sets it
    "canny": {"low": "canny_thresholds", "high": "canny_thresholds"},
    "depth": {"model": "depth_model", "bits": "depth_bits"},
    "pose": {
        "parts": "pose",
        "model": "pose_model",
        "detector": "pose_detector",
        "keep_empty": "keep_empty_pose",
    },
    "hed": {"mode": "hed_mode"},
    "softedge": {"mode": "softedge_mode"},
    "lineart": {"coarse": "lineart_coarse"},
    "lineart_anime": {},
    "mlsd": {"score": "mlsd_thresholds", "distance": "mlsd_thresholds"},
    "normal": {},
    "segmentation": {"model": "segmentation_model"},
    "shuffle": {},
    "grey": {},
    "tile": {"factor": "tile_factor"},
    "blip": {
        "model": "caption_model",
        "prompt": "caption_prompt",
        "beams": "caption_beams",
        "top_p": "caption_top_p",
        "max_tokens": "caption_max_tokens",
    },
}
"""Of ours; a third party's annotator has no options. Seed and precision are those of the run."""

_SOURCE_ALONE = {"blip": "none", "sidecar-else-blip": "auto"}
"""What `--caption` is without the model."""


@dataclasses.dataclass(kw_only=True, slots=True)
class _Run:
    """One command: models that can have been loaded by the same run."""

    conditions: list[str] = dataclasses.field(default_factory=list)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    caption: str | None = None
    seed: int | None = None  # None: nothing in it draws
    precision: str | None = None  # None: no network in it

    def takes(self, name: str, parameters: Mapping[str, Any]) -> bool:
        """Add a model, if its seed and precision are those of the others."""
        seed, precision = _seed_and_precision(name, parameters)
        if seed is not None and self.seed not in (None, seed):
            return False
        if precision is not None and self.precision not in (None, precision):
            return False
        self.seed = self.seed if seed is None else seed
        self.precision = self.precision or precision
        self.options |= options_of(name, parameters)
        return True


def commands_of(manifest: Manifest) -> list[str]:
    """Commands that make a data set again; options at their defaults are left out.

    One `generate`; where a model had another seed or precision than those before it, it was added
    later, and so an `add` follows. The precision is always said, since its default depends on the
    machine; except beside 16-bit depth, which is never computed in less than fp32: then the other
    networks had the precision that `auto` means on a machine like the one that made the set.

    Args:
        manifest: of the data set, which is called DIR.

    Returns:
        Command lines for a POSIX shell, in the order in which to run them.
    """
    seed = manifest.recipe.get("seed", 0)
    first, *later = runs = _runs(manifest, seed)
    recipe = dict(manifest.recipe)
    if first.caption is None:
        caption = recipe.get("caption")
        recipe["caption"] = _SOURCE_ALONE.get(str(caption), caption)
    if "resolution" in recipe and recipe.get("min_side") == max(1, recipe["resolution"] // 2):
        del recipe["min_side"]
    words = ["controlset", "generate", shlex.quote(manifest.source), "--output", "DIR"]
    commands = [" ".join([*words, *_flags_of(runs[0]), *_flags(recipe)])]
    for run in later:
        said = {"caption": run.caption, "seed": None if run.seed == seed else run.seed}
        words = ["controlset", "add", "DIR", *_flags_of(run), *_flags(said)]
        commands.append(" ".join(words))
    given = recipe.get("import_condition") or ()
    added = [one for one in _imported(manifest) if one not in given]
    if added:
        words = ["controlset", "add", "DIR", "--import-condition", *map(shlex.quote, added)]
        commands.append(" ".join(words))
    if manifest.latents is not None:
        commands.append(_command_of_latents(LatentInfo.from_json(manifest.latents)))
    return commands


def _imported(manifest: Manifest) -> Iterator[str]:
    """`NAME=WHERE` of every imported condition."""
    for name, record in manifest.annotators.items():
        if is_imported(record):
            yield f"{name}={record['parameters']['imported']}"


def _command_of_latents(info: LatentInfo) -> str:
    words = ["controlset", "add", "DIR", "--latents", shlex.quote(info.base)]
    flips = ["--latent-flips"] if info.flips else []
    return " ".join([*words, *flips, "--precision", info.precision])


def options_of(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Options that give an annotator or captioner its parameters, but for seed and precision.

    Args:
        name: of a condition or captioner.
        parameters: as the manifest records them.

    Returns:
        Field of `EyeOptions` -> value, defaults included.
    """
    if name == "canny":
        low, high = _span(parameters["low"]), _span(parameters["high"])
        return {"canny_thresholds": f"{low},{high}"}
    if name == "mlsd":
        return {"mlsd_thresholds": f"{parameters['score']},{parameters['distance']}"}
    known = _OPTIONS.get(name, {})
    return {
        known[key]: tuple(value) if isinstance(value, list) else value
        for key, value in parameters.items()
        if key in known
    }


def _span(ends: Sequence[int]) -> str:
    first, last = ends
    return str(first) if first == last else f"{first}-{last}"


def _runs(manifest: Manifest, seed: int) -> list[_Run]:
    """Models in the order of their columns, cut where they cannot have come from one run."""
    runs = [_Run(seed=seed)]
    for name, record in manifest.annotators.items():
        if is_imported(record):
            continue  # the recipe says --import-condition, or an `add` of its own
        if not runs[-1].takes(name, record["parameters"]):
            runs.append(_Run())
            runs[-1].takes(name, record["parameters"])
        runs[-1].conditions.append(name)
    captioner = manifest.captioner
    if captioner is None:
        return runs
    name, mode = captioner["name"], manifest.recipe.get("caption")
    if mode in _SOURCE_ALONE and runs[0].takes(name, captioner["parameters"]):
        runs[0].caption = mode
        return runs
    if len(runs) == 1 or not runs[-1].takes(name, captioner["parameters"]):
        runs.append(_Run())
        runs[-1].takes(name, captioner["parameters"])
    runs[-1].caption = name
    return runs


def _seed_and_precision(name: str, parameters: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """What the whole run must have had; None where this model does not tell."""
    if name not in _OPTIONS:
        return None, None
    is_deep = parameters.get("bits") == 16  # fp32, whatever the others are
    return parameters.get("seed"), None if is_deep else parameters.get("precision")


def _flags_of(run: _Run) -> Iterator[str]:
    options = dict(run.options)
    if run.precision == "fp32" or options.get("depth_bits") != 16:
        options["precision"] = run.precision
    if run.conditions:
        yield "--conditions"
        yield from (shlex.quote(name) for name in run.conditions)
    yield from _flags(options)


def _flags(values: Mapping[str, Any]) -> Iterator[str]:
    """Flags of what is not at its default."""
    defaults = {
        field.name: field.default
        for field in (*dataclasses.fields(EyeOptions), *dataclasses.fields(GenerateConfig))
    }
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if value is None or value == defaults.get(name, dataclasses.MISSING):
            continue
        if isinstance(value, bool):
            yield flag if value else "--no-" + flag[2:]
        elif isinstance(value, list | tuple):
            yield from (flag, *(shlex.quote(str(one)) for one in value))
        elif str(value).startswith("-"):
            yield shlex.quote(f"{flag}={value}")  # or it would be taken for a flag
        else:
            yield from (flag, shlex.quote(str(value)))
