"""Which conditions there are, ours and other packages', and the specs that options ask for.

Ours are found in the folder `annotators/conditions`, and captioners in `annotators/captions.py`: a
new one needs no line elsewhere. Other packages add conditions through the entry points
`controlset.annotators`.
"""

import contextlib
import dataclasses
import difflib
import functools
import importlib
import pkgutil
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, get_args

from annotators import captions, conditions
from annotators.options import AnnotateConfig, Option, options_of
from annotators.protocol import CaptionSpec, HintMode, Spec, parameters, weights_of
from annotators.runtime import Precision, Runtime, resolve_device, resolve_precision
from annotators.weights import WeightsRecord, fetch, is_here, record_of_weights
from schemas.documents import as_record, misfit
from schemas.errors import ConfigError

GROUP = "controlset.annotators"

_MADE_AGAIN = "generate the data set again, or train again"
_ATTRIBUTES = ("name", "revision", "hint_mode", "stats", "licence", "load")


@functools.cache
def ours() -> Mapping[str, Any]:
    """Condition -> class of its spec, by name."""
    found = pkgutil.iter_modules(conditions.__path__, f"{conditions.__name__}.")
    return _specs_in(importlib.import_module(module.name) for module in found)


@functools.cache
def captioners() -> Mapping[str, Any]:
    """The same of models that write captions."""
    return _specs_in([captions])


def _specs_in(modules: Iterable[ModuleType]) -> dict[str, Any]:
    """Every class with a `revision` that the modules define themselves, by name."""
    found = {
        kind.name: kind
        for module in modules
        for kind in vars(module).values()
        # What a module imports from another one belongs to that.
        if getattr(kind, "__module__", None) == module.__name__ and hasattr(kind, "revision")
    }
    return dict(sorted(found.items()))


def available() -> list[str]:
    """Every condition that can be asked for: ours first, then installed ones."""
    return [*ours(), *others()]


def others() -> list[str]:
    """Conditions of other packages; who takes one of our names is not heard."""
    return sorted(installed().keys() - ours().keys())


def installed() -> dict[str, EntryPoint]:
    """Condition -> entry point, of every package that is installed; ours is one of them."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def specs_of(config: AnnotateConfig) -> tuple[Spec, ...]:
    """Specs of all conditions, in the order asked for.

    Raises:
        ConfigError: a condition or an option that nobody provides, parameters out of range, or a
            device that is not there.
    """
    for condition in config.conditions:
        if condition not in available():
            known = ", ".join(available())
            raise ConfigError(f"--conditions {condition}: no such annotator; available: {known}")
    _check_known(config.options)
    return tuple(_made(kind_of(condition), config) for condition in config.conditions)


def captioner_of(name: str, config: AnnotateConfig) -> CaptionSpec:
    """The spec of a captioner, e.g. `blip`.

    Raises:
        ConfigError: an option that nobody provides, parameters out of range, or a device that is
            not there.
    """
    _check_known(config.options)
    return _made(captioners()[name], config)


def all_options() -> dict[str, tuple[Option, ...]]:
    """Condition or captioner -> its options.

    A package that cannot be imported is left out; it is named when its condition is asked for.
    """
    found: dict[str, tuple[Option, ...]] = {}
    for name in (*available(), *captioners()):
        with contextlib.suppress(ConfigError):
            found[name] = options_of(kind_of(name))
    return found


def _check_known(options: Mapping[str, Any]) -> None:
    if not options:
        return  # so that other packages need not be imported
    known = [option.name for several in all_options().values() for option in several]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"unknown option {name}{hint}")


def _made(kind: Any, config: AnnotateConfig) -> Any:
    """A spec with the parameters that were asked for, and the run's seed and precision."""
    values: dict[str, Any] = {}
    for option in options_of(kind):
        if option.name in config.options:
            values |= option.parameters_of(config.options[option.name])
    has_fields = dataclasses.is_dataclass(kind)
    fields = {field.name for field in dataclasses.fields(kind)} if has_fields else set()
    if "seed" in fields:
        values["seed"] = config.seed
    if "precision" in fields:
        values["precision"] = _precision(kind, values, config)
    return kind(**values)


def _precision(kind: Any, values: Mapping[str, Any], config: AnnotateConfig) -> Precision:
    if config.precision != "auto":
        return config.precision  # the device may be another machine's
    if always_fp32(kind.name, values):
        return "fp32"
    return resolve_precision(config.precision, resolve_device(config.device))


def always_fp32(name: str, values: Mapping[str, Any]) -> bool:
    """Whether an annotator with these parameters computes in fp32 where nothing else is asked."""
    kind = kind_of(name)
    return hasattr(kind, "always_fp32") and kind.always_fp32(values)


def kind_of(name: str) -> Any:
    """The class of a condition's or captioner's spec.

    Raises:
        ConfigError: nobody provides it, or its package cannot be used.
    """
    found = ours().get(name) or captioners().get(name)
    if found is not None:
        return found
    entry = installed().get(name)
    if entry is None:
        raise ConfigError(f"{name}: need its annotator to be installed, found none")
    return _of_another_package(entry)


def _of_another_package(entry: EntryPoint) -> Any:
    """The `Spec` class that an entry point names.

    Raises:
        ConfigError: it cannot be imported, or is no annotator's.
    """
    where = f"{entry.name} ({entry.value})"
    try:
        kind = entry.load()
    except Exception as error:  # another package's code: whatever stops its import
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(
            f"{where}: need an annotator that can be imported, got {reason}; repair its package"
        ) from error
    absent = [name for name in _ATTRIBUTES if not hasattr(kind, name)]
    if absent:
        raise ConfigError(
            f"{where}: need {', '.join(_ATTRIBUTES)} of an annotator, got none of "
            f"{', '.join(absent)}; see docs/own-annotator.md"
        )
    if kind.name != entry.name:
        raise ConfigError(
            f"{where}: need the name of its entry point, got name = {kind.name!r}; make them equal"
        )
    if kind.hint_mode not in get_args(HintMode):
        raise ConfigError(
            f"{where}: need hint_mode {', '.join(get_args(HintMode))}, got {kind.hint_mode!r}"
        )
    return kind


def weights_ready(
    specs: Sequence[Spec | CaptionSpec], runtime: Runtime, *, download: bool
) -> dict[str, tuple[WeightsRecord, ...]]:
    """Make sure that every spec will find its weights, before any image is read.

    Args:
        specs: of annotators and captioner.
        runtime: where to look; whether to stay offline.
        download: get what is not here; False leaves such specs out of the result.

    Returns:
        Name -> what was found, with its hash; specs that need nothing are left out.

    Raises:
        ConfigError: names everything that is missing, with sizes and licences.
    """
    wanted = {spec.name: weights_of(spec) for spec in specs if weights_of(spec)}
    absent = [
        weights
        for several in wanted.values()
        for weights in several
        if not is_here(weights, runtime)
    ]
    if absent and download:
        fetch(absent, runtime)
        absent = []
    return {
        name: tuple(record_of_weights(weights, runtime) for weights in several)
        for name, several in wanted.items()
        if not any(weights in absent for weights in several)
    }


def spec_from_record(condition: str, record: Mapping[str, Any]) -> Spec:
    """The spec that a manifest's record was made from: the inverse of `record_of`.

    The models that it names are those that a data set or run names, perhaps a stranger's: before it
    loads anything, it has to pass `need_known_models`.

    Raises:
        ConfigError: nobody provides this condition, or only at another revision, or the record is
            none of ours; or its maps were imported.
    """
    if is_imported(record):
        raise ConfigError(
            f"{condition}: need an annotator, but its maps were imported "
            f"({record['parameters']['imported']}); nothing can draw them again"
        )
    kind = kind_of(condition)
    revision, parameters = record.get("revision"), record.get("parameters")
    if kind.revision != revision:
        raise ConfigError(
            f"{condition}: need revision {revision} of the annotator, "
            f"got {kind.revision}; use the release that made the data set"
        )
    where = f"annotator of {condition}"
    if not isinstance(parameters, Mapping):
        raise misfit(where, f"parameters {parameters!r}", _MADE_AGAIN)
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(map(str, parameters.keys() - known)):
        raise misfit(where, f"a parameter {unknown[0]!r}", _MADE_AGAIN)
    return as_record(parameters, kind, where=where, advice=_MADE_AGAIN)


def need_known_models(spec: Spec, trusted: Collection[str]) -> None:
    """Refuse to load a model that only data names: neither released with us nor named by the user.

    Args:
        spec: from `spec_from_record`.
        trusted: what the user named on the command line.

    Raises:
        ConfigError: says what to type for the model to be used.
    """
    for weights in weights_of(spec):
        name = weights.hub_id
        if weights.file is None and not weights.known and name not in trusted:
            raise ConfigError(
                f"{spec.name}: need a model that you name, got {name!r} from the data alone, "
                f"and it was not loaded; if you trust it, say --trust-model {shlex.quote(name)}"
            )


def is_imported(record: Mapping[str, Any]) -> bool:
    """Whether a condition's maps came with the source, so that no annotator drew them."""
    parameters = record.get("parameters")
    return isinstance(parameters, Mapping) and "imported" in parameters


def record_of(spec: Spec, weights: Sequence[WeightsRecord] = ()) -> dict[str, Any]:
    """What footer and manifest say of an annotator; JSON-able, tuples as lists."""
    return {
        "revision": spec.revision,
        "parameters": _plain(parameters(spec)),
        "hint_mode": spec.hint_mode,
        "hint_range": [0, 1],
        "color_order": "RGB" if spec.hint_mode == "rgb" else None,
        "stats": dict(spec.stats),
        "weights": [dataclasses.asdict(record) for record in weights] or None,
        "licence": spec.licence,
    }


def record_of_captioner(spec: CaptionSpec, weights: Sequence[WeightsRecord] = ()) -> dict[str, Any]:
    """The same of a captioner."""
    return {
        "name": spec.name,
        "revision": spec.revision,
        "parameters": _plain(parameters(spec)),
        "weights": [dataclasses.asdict(record) for record in weights] or None,
        "licence": spec.licence,
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }
