"""Which conditions exist: ours and third parties', found through one entry-point group."""

import dataclasses
import importlib
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from annotators import third_party
from annotators.canny import CannySpec
from annotators.options import EyeOptions
from annotators.protocol import CaptionSpec, Spec, parameters, weights_of
from annotators.runtime import Precision, Runtime, resolve_device, resolve_precision
from annotators.weights import WeightsRecord, fetch, is_here, is_known, record_of_weights
from schemas.documents import as_record, misfit
from schemas.errors import ConfigError

# Ours, with the module that defines each spec. A spec that needs no network takes no precision.
_OURS = {
    "canny": "annotators.canny:CannySpec",
    "depth": "annotators.depth:DepthSpec",
    "pose": "annotators.pose:PoseSpec",
    "hed": "annotators.hed:HedSpec",
    "softedge": "annotators.softedge:SoftedgeSpec",
    "lineart": "annotators.lineart:LineartSpec",
    "lineart_anime": "annotators.lineart_anime:LineartAnimeSpec",
    "mlsd": "annotators.mlsd:MlsdSpec",
    "normal": "annotators.normal:NormalSpec",
    "segmentation": "annotators.segmentation:SegmentationSpec",
    "shuffle": "annotators.plain:ShuffleSpec",
    "grey": "annotators.plain:GreySpec",
    "tile": "annotators.plain:TileSpec",
}
CAPTIONERS = {"blip": "annotators.blip:BlipSpec"}
_MADE_AGAIN = "generate the data set again, or train again"
_WITHOUT_NETWORK = frozenset({"canny", "grey", "tile", "shuffle"})


def available() -> list[str]:
    """Every condition that can be asked for: ours first, then installed ones."""
    return [*_OURS, *others()]


def others() -> list[str]:
    """Conditions of other packages; who takes one of our names is not heard."""
    return sorted(third_party.installed().keys() - _OURS.keys())


def specs_of(options: EyeOptions) -> tuple[Spec, ...]:
    """Specs of all conditions, in the order asked for.

    Raises:
        ConfigError: a condition that nobody provides, parameters out of range, or a device that
            is not there.
    """
    for condition in options.conditions:
        if condition not in available():
            known = ", ".join(available())
            raise ConfigError(f"--conditions {condition}: no such annotator; available: {known}")
    return tuple(_spec_of(condition, options) for condition in options.conditions)


def _spec_of(condition: str, options: EyeOptions) -> Spec:
    if condition == CannySpec.name:
        return CannySpec.parse(options.canny_thresholds, seed=options.seed)
    kind = _kind_of(condition)
    if condition not in _OURS:
        return kind()
    return kind.from_options(options, _precision(condition, options))


def captioner_of(name: str, options: EyeOptions) -> CaptionSpec:
    """The spec of a captioner, e.g. `blip`.

    Raises:
        ConfigError: parameters out of range, or a device that is not there.
    """
    return _imported(CAPTIONERS[name]).from_options(options, _precision(name, options))


def _precision(name: str, options: EyeOptions) -> Precision:
    if name in _WITHOUT_NETWORK:
        return "fp32"
    if options.precision != "auto":
        return options.precision  # the device may be another machine's
    return resolve_precision(options.precision, resolve_device(options.device))


def _kind_of(condition: str) -> Any:
    if condition in _OURS:
        return _imported(_OURS[condition])
    entry = third_party.installed().get(condition)
    if entry is None:
        raise ConfigError(f"{condition}: need its annotator to be installed, found none")
    return third_party.imported(entry)


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


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
    absent = [one for several in wanted.values() for one in several if not is_here(one, runtime)]
    if absent and download:
        fetch(absent, runtime)
        absent = []
    return {
        name: tuple(record_of_weights(one, runtime) for one in several)
        for name, several in wanted.items()
        if not any(one in absent for one in several)
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
    kind = _kind_of(condition)
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
    for one in weights_of(spec):
        if one.file is None and not is_known(one.hub_id) and one.hub_id not in trusted:
            raise ConfigError(
                f"{spec.name}: need a model that you name, got {one.hub_id!r} from the data alone, "
                f"and it was not loaded; if you trust it, say --trust-model "
                f"{shlex.quote(one.hub_id)}"
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
        "weights": [dataclasses.asdict(one) for one in weights] or None,
        "licence": spec.licence,
    }


def record_of_captioner(spec: CaptionSpec, weights: Sequence[WeightsRecord] = ()) -> dict[str, Any]:
    """The same of a captioner."""
    return {
        "name": spec.name,
        "revision": spec.revision,
        "parameters": _plain(parameters(spec)),
        "weights": [dataclasses.asdict(one) for one in weights] or None,
        "licence": spec.licence,
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }
