"""The resolved addition: which columns are new, and what the data set will say of itself then."""

import dataclasses
import itertools
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from pyarrow.fs import LocalFileSystem

from annotators.latents import LatentSpec, vae_ready
from annotators.protocol import Spec
from annotators.registry import (
    captioner_of,
    is_imported,
    record_of,
    record_of_captioner,
    specs_of,
    weights_ready,
)
from annotators.runtime import Runtime
from pipeline.config import AddConfig, GenerateConfig
from pipeline.identity import changes
from pipeline.images.imported_maps import PEEKED, ImportedCondition, imports_of
from pipeline.job import Job, check_names
from pipeline.output.finalize import packages_of
from pipeline.sources import SourceKind, SourceSpec
from pipeline.sources.pairs import place_of, read_maps
from pipeline.sources.resolve import root_of
from pipeline.sources.spec import Pairing, parse_pairings
from schemas.dataset import open_dataset
from schemas.documents import parse_json
from schemas.errors import ConfigError, Rejected
from schemas.latents import LatentInfo
from schemas.manifest import Manifest, ShardRecord
from schemas.records import ImageRef, Place
from schemas.shards import ShardReader, path_inside
from schemas.triple import FOOTER_KEY, Condition

# Of a set whose recipe does not say; the default of `generate`.
MAX_PIXELS = 100_000_000

_WITH_MODEL = {"none": "blip", "auto": "sidecar-else-blip"}
"""What `generate --caption` is told to do the same at once; the other modes have no such twin."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Addition(Job):
    """What workers need to know. `specs`, `imports`, `captioner` and `latents` are new only.

    Of `config` only the device and the threads matter: the recipe is that of the data set, and
    nothing is listed; `source` says where new maps lie. So footer, identity and schema are those of
    the run that would have made the old and the new columns at once; only imported conditions stand
    among the annotators alone, since a `generate` with them might have taken other pictures.
    """

    old: Manifest
    old_footer: Mapping[str, Any]
    new_latents: LatentInfo | None = None  # of `latents`, if its VAE is here

    @property
    def is_empty(self) -> bool:
        """Everything that was asked for is there."""
        return not self.models and self.latents is None and not self.imports

    @property
    def recipe(self) -> dict[str, Any]:
        """The data set's options; with a captioner, where captions then come from."""
        caption = self.old.recipe.get("caption", "auto")
        if self.captioner is not None:
            caption = _WITH_MODEL.get(caption, caption)
        return {**self.old.recipe, "caption": caption}

    @property
    def annotators(self) -> dict[str, Any]:
        """Condition -> everything that is known about its annotator; old ones first."""
        new = {spec.name: record_of(spec, self.weights.get(spec.name, ())) for spec in self.specs}
        new |= {condition.name: condition.record for condition in self.imports}
        return {**self.old.annotators, **new}

    @property
    def captioner_record(self) -> dict[str, Any] | None:
        """The same of the captioner, if a model writes captions."""
        if self.captioner is None:
            return None if self.old.captioner is None else dict(self.old.captioner)
        return record_of_captioner(self.captioner, self.weights.get(self.captioner.name, ()))

    @property
    def latent_record(self) -> dict[str, Any] | None:
        """What is known about the moments, old or new."""
        if self.new_latents is not None:
            return self.new_latents.to_json()
        return None if self.old.latents is None else dict(self.old.latents)

    @property
    def footer(self) -> dict[str, Any]:
        """What every shard carries."""
        latents = {} if self.latent_record is None else {"latents": self.latent_record}
        return {
            **self.old_footer,
            "recipe": self.recipe,
            "annotators": self.annotators,
            "captioner": self.captioner_record,
            **latents,
        }

    @property
    def conditions(self) -> list[Condition]:
        """Of all annotators, from records: an old one need not be installed."""
        return [
            Condition(name=name, stats=record["stats"]) for name, record in self.annotators.items()
        ]

    def manifest(self, shards: list[ShardRecord]) -> Manifest:
        """The manifest of the data set with the new columns."""
        encoding = ("diffusers",) if self.latents else ()  # encodes them; maps do not need it
        software = {package: version(package) for package in (*packages_of(self), *encoding)}
        return dataclasses.replace(
            self.old,
            recipe=self.recipe,
            annotators=self.annotators,
            captioner=self.captioner_record,
            latents=self.latent_record,
            software={**self.old.software, **software},
            shards=shards,
        )


def resolve(config: AddConfig, old: Manifest, *, download: bool = True) -> Addition:
    """Check annotators, device and weights, and set aside what the data set has already.

    Args:
        config: what was asked for.
        old: the data set's manifest.
        download: get weights that are not here; False leaves them out of the job's records.

    Raises:
        ConfigError: a condition that nobody provides, something that is there with other
            parameters, maps, weights or a device that are not there, or a shard that cannot be
            read.
    """
    asked = config.with_seed_of(old.recipe)
    looking = Runtime(weights=config.weights, offline=config.offline)
    new: list[Spec] = []
    for spec in specs_of(asked):
        if spec.name not in old.annotators:
            new.append(spec)
            continue
        # Nothing is drawn with it: its weights are compared if they are here, and not fetched.
        found = weights_ready([spec], looking, download=False).get(spec.name)
        _check_same(
            config.folder, spec.name, old.annotators[spec.name], record_of(spec, found or ())
        )
    captioner = None if config.caption == "none" else captioner_of(config.caption, asked)
    if captioner is not None and old.captioner is not None:
        found = weights_ready([captioner], looking, download=False).get(captioner.name)
        ours = record_of_captioner(captioner, found or ())
        _check_same(config.folder, f"captions of {captioner.name}", old.captioner, ours)
        captioner = None
    source, imports = _resolve_imported(
        config.import_condition, config.conditions, old, config.folder
    )
    latents, found = _latents_of(config, old, looking, download=download)
    job = Addition(
        config=_running_config(config, old),
        source=source,
        specs=tuple(new),
        imports=imports,
        captioner=captioner,
        latents=latents,
        new_latents=found,
        old=old,
        old_footer=_footer_of(config.folder, old.shards[0]),  # staging refuses any other
    )
    check_names(job.conditions, old.columns)
    _ = job.runtime  # a device that is asked for and absent is refused here
    return dataclasses.replace(job, weights=weights_ready(job.models, looking, download=download))


def _latents_of(
    config: AddConfig, old: Manifest, looking: Runtime, *, download: bool
) -> tuple[LatentSpec | None, LatentInfo | None]:
    if config.latents is None:
        return None, None
    spec = LatentSpec.from_options(
        config.latents, flips=config.latent_flips, asked=config.precision
    )
    return _resolve_latents(spec, old, looking, folder=config.folder, download=download)


def _running_config(config: AddConfig, old: Manifest) -> GenerateConfig:
    return GenerateConfig(
        source=old.source,
        output=config.folder,
        # A configuration needs some; what is made stands in `specs`.
        conditions=tuple(dict.fromkeys((*old.annotators, *config.conditions))),
        device=config.device,
        weights=config.weights,
        offline=config.offline,
        compile=config.compile,
        num_workers=config.num_workers,
    )


def _footer_of(folder: str, shard: ShardRecord) -> Mapping[str, Any]:
    """What a shard carries.

    Raises:
        ConfigError: it is not there or cannot be read.
    """
    path = path_inside(LocalFileSystem(), folder, shard.data.path)
    with ShardReader(path, where=path, filesystem=LocalFileSystem()) as reader:
        raw = (reader.schema.metadata or {}).get(FOOTER_KEY, b"")
    return parse_json(raw, dict[str, Any], where=path, advice="run `controlset verify`")


def _check_same(folder: str, what: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse to add what is there already, made otherwise."""
    # Tuples become lists, as in what was read.
    ours = json.loads(json.dumps(ours))
    if not ours["weights"]:  # not here, and not needed if all else is equal
        theirs, ours = ({**record, "weights": None} for record in (theirs, ours))
    differences = changes(_flat(theirs), _flat(ours))
    if differences:
        raise ConfigError(
            f"{folder}: holds {what} made with {'; '.join(differences)}; "
            "ask for it with the same options, or generate another data set"
        )


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by their own names; of weights only the hashes."""
    rest = {name: value for name, value in record.items() if name != "parameters"}
    weights = [file["sha256"] for file in record["weights"] or []]
    return {**rest, "weights": weights, **record["parameters"]}


# Imported conditions ------------------------------------------------------------------------------


def _resolve_imported(
    asked: Sequence[str], conditions: Sequence[str], old: Manifest, folder: str
) -> tuple[SourceSpec, tuple[ImportedCondition, ...]]:
    """Find the first maps; a condition that the set has from the same place is left out.

    Returns:
        Where to look for maps, and what they are like.

    Raises:
        ConfigError: another form, a name that is taken, a template that is the same file for two
            pictures, a source that is not there, or none of the first rows has a map.
    """
    pairings = tuple(
        pairing
        for pairing in parse_pairings(asked, conditions)
        if not _is_there(pairing, old, folder)
    )
    for pairing in pairings:
        # Lines of tables are read by the listing, which an addition does not repeat.
        if pairing.column is not None:
            raise ConfigError(
                f"{pairing.option}: need a template of files "
                "for a set that exists, e.g. maps/{name}.png, got a column; generate the set anew"
            )
    spec = SourceSpec(
        root=_root(pairings, old.source),
        kind=SourceKind.IMAGES,
        selections=(),
        pairings=pairings,
    )
    if not pairings:
        return spec, ()
    first = _first_sources(folder)
    for pairing in pairings:
        _check_apart(pairing, first)
    most = old.recipe.get("max_pixels", MAX_PIXELS)
    found = (maps_of(source, spec) for source in first)
    return spec, imports_of(pairings, found, max_pixels=most)


def _is_there(pairing: Pairing, old: Manifest, folder: str) -> bool:
    """Whether the set has it from the same place; refused where it has it from another."""
    record = old.annotators.get(pairing.condition)
    if record is None:
        return False
    theirs = record["parameters"]["imported"] if is_imported(record) else "an annotator"
    if theirs != pairing.where:
        raise ConfigError(
            f"{folder}: holds {pairing.condition} of {theirs} (now {pairing.where}); "
            "take another name, or generate another data set"
        )
    return True


def _root(pairings: Sequence[Pairing], source: str) -> str:
    """What templates are relative to; absolute ones do not need the source."""
    if all(posixpath.isabs(pairing.where) or "://" in pairing.where for pairing in pairings):
        return "/"
    try:
        return root_of(source)
    except ConfigError as error:
        first = next(pairing for pairing in pairings if not posixpath.isabs(pairing.where))
        raise ConfigError(
            f"{first.option}: need the set's source, which it "
            f"is relative to, got: {error}; give the template with its whole path"
        ) from None


def _first_sources(folder: str) -> list[str]:
    batches = open_dataset(folder).batches(["source"], batch_rows=PEEKED)
    cells: Iterator[str] = itertools.chain.from_iterable(
        batch.column("source").to_pylist() for batch in batches
    )
    return list(itertools.islice(cells, PEEKED))


def _check_apart(pairing: Pairing, sources: Sequence[str]) -> None:
    """Refuse a template that is one file for several pictures, as for rows of one Parquet file."""
    by_path: dict[str, str] = {}
    for source in sources:
        path = pairing.path_of(source)
        other = by_path.setdefault(path, source)
        if other != source:
            raise ConfigError(
                f"{pairing.option}: need another file for "
                f"each picture, got {path} for {other} and {source}; use {{stem}} or {{folder}}"
            )


def maps_of(source: str, spec: SourceSpec) -> dict[str, bytes | Rejected]:
    """Condition -> bytes of a row's condition image, or why there are none."""
    places = (
        (pairing.condition, place_of(posixpath.join(spec.root, pairing.path_of(source))))
        for pairing in spec.pairings
    )
    # `read_maps` asks for nothing else of it.
    ref = ImageRef(key="", source=source, place=Place(uri=""), maps=tuple(places))
    return read_maps(ref, spec)


# Latents ------------------------------------------------------------------------------------------


def _resolve_latents(
    spec: LatentSpec, old: Manifest, runtime: Runtime, *, folder: str, download: bool
) -> tuple[LatentSpec | None, LatentInfo | None]:
    """Find the VAE, and set the wish aside where the data set has its moments already.

    Returns:
        What to encode with and what to say of it, the latter None where it is not here; two Nones
        where there is nothing to do.

    Raises:
        ConfigError: moments of another VAE are there, or the VAE is nowhere or does not fit.
    """
    if old.latents is not None:
        _check_same_latents(spec, vae_ready(spec, runtime, download=False), old.latents, folder)
        return None, None
    info = vae_ready(spec, runtime, download=download)
    if info is not None:
        _check_divides(info, old.recipe, folder)
    return spec, info


def _check_same_latents(
    spec: LatentSpec, found: LatentInfo | None, theirs: Mapping[str, Any], folder: str
) -> None:
    """Refuse to add what is there already, made otherwise."""
    if found is None:  # not here, and not needed if all else is equal
        ours: dict[str, Any] = {
            "base": spec.base,
            "flips": spec.flips,
            "precision": spec.precision,
        }
    else:
        ours = found.to_json()
        if theirs.get("vae_sha256") == found.vae_sha256:
            del ours["base"]  # the same VAE from another place
    differences = changes({name: theirs.get(name) for name in ours}, ours)
    if differences:
        raise ConfigError(
            f"{folder}: holds latents made with {'; '.join(differences)}; "
            "ask for them with the same options, or generate another data set"
        )


def _check_divides(info: LatentInfo, recipe: Mapping[str, Any], folder: str) -> None:
    """Refuse images that the VAE would cut or pad, as far as the recipe tells their sizes."""
    # Buckets have sides of many lengths, all of them multiples of 64.
    side = 64 if recipe.get("fit") == "bucket" else recipe.get("resolution", info.factor)
    if side % info.factor:
        raise ConfigError(
            f"{folder}: need images whose sides are multiples of {info.factor} px for the VAE of "
            f"{info.base}, got {side} px; generate the set with such a --resolution"
        )
