"""The commands that make a data set again, out of its manifest."""

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from annotators.options import Option
from annotators.registry import all_options, always_fp32, is_imported
from pipeline.config import GenerateConfig
from schemas.latents import LatentInfo
from schemas.manifest import Manifest

_SOURCE_ALONE = {"blip": "none", "sidecar-else-blip": "auto"}
"""What `--caption` is without the model."""


@dataclasses.dataclass(kw_only=True, slots=True)
class _Command:
    """One command: models that can have been loaded by the same run."""

    known: Mapping[str, tuple[Option, ...]]  # model -> its options; without those not installed
    conditions: list[str] = dataclasses.field(default_factory=list)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    caption: str | None = None
    seed: int | None = None  # None: nothing in it draws
    precision: str | None = None  # None: no network in it
    has_fixed_precision: bool = False  # a model whose precision `auto` alone gives

    def takes(self, name: str, parameters: Mapping[str, Any]) -> bool:
        """Add a model, if its seed and precision are those of the others."""
        seed, precision, fixed = None, None, False
        if name in self.known:
            fixed = always_fp32(name, parameters)  # whatever precision the others have
            seed = parameters.get("seed")
            precision = None if fixed else parameters.get("precision")
        if seed is not None and self.seed not in (None, seed):
            return False
        if precision is not None and self.precision not in (None, precision):
            return False
        self.has_fixed_precision |= fixed
        self.seed = self.seed if seed is None else seed
        self.precision = self.precision or precision
        for option in self.known.get(name, ()):
            if option.parameters.keys() <= parameters.keys():
                self.options[option.name] = option.value_of(parameters)
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
    commands = [" ".join([*words, *_flags_of(runs[0]), *_flags(recipe, first.known)])]
    for run in later:
        said = {"caption": run.caption, "seed": None if run.seed == seed else run.seed}
        words = ["controlset", "add", "DIR", *_flags_of(run), *_flags(said, run.known)]
        commands.append(" ".join(words))
    given = recipe.get("import_condition") or ()
    added = [asked for asked in _imported(manifest) if asked not in given]
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


def _runs(manifest: Manifest, seed: int) -> list[_Command]:
    """Models in the order of their columns, cut where they cannot have come from one run."""
    known = all_options()
    runs = [_Command(known=known, seed=seed)]
    for name, record in manifest.annotators.items():
        if is_imported(record):
            continue  # the recipe says --import-condition, or an `add` of its own
        if not runs[-1].takes(name, record["parameters"]):
            runs.append(_Command(known=known))
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
        runs.append(_Command(known=known))
        runs[-1].takes(name, captioner["parameters"])
    runs[-1].caption = name
    return runs


def _flags_of(run: _Command) -> Iterator[str]:
    options = dict(run.options)
    if run.precision == "fp32" or not run.has_fixed_precision:
        options["precision"] = run.precision
    if run.conditions:
        yield "--conditions"
        yield from (shlex.quote(name) for name in run.conditions)
    yield from _flags(options, run.known)


def _flags(values: Mapping[str, Any], known: Mapping[str, tuple[Option, ...]]) -> Iterator[str]:
    """Flags of what is not at its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(GenerateConfig)}
    defaults |= {option.name: option.default for options in known.values() for option in options}
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if value is None or value == defaults.get(name, dataclasses.MISSING):
            continue
        if isinstance(value, bool):
            yield flag if value else "--no-" + flag[2:]
        elif isinstance(value, list | tuple):
            yield from (flag, *(shlex.quote(str(word)) for word in value))
        elif str(value).startswith("-"):
            yield shlex.quote(f"{flag}={value}")  # or it would be taken for a flag
        else:
            yield from (flag, shlex.quote(str(value)))
