"""The resolved job: what every worker needs to know, and what a stored byte depends on."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from annotators.latents import LatentSpec
from annotators.protocol import CaptionSpec, Spec, weights_of
from annotators.registry import record_of, record_of_captioner
from annotators.runtime import Runtime, resolve_device
from annotators.weights import WeightsRecord
from pipeline.config import GenerateConfig
from pipeline.images.imported_maps import ImportedCondition
from pipeline.sources import SourceSpec
from schemas.errors import ConfigError
from schemas.triple import OUR_COLUMNS, SCHEMA_VERSION, Condition, triple_schema

PIPELINE_REVISION = 2
"""Bump when decode, geometry, encode or planning may change a stored byte."""

BATCH_IMAGES = 8
"""Images that go through the annotators together. Cut by the plan, never by timing: a network's
floats depend on the batch, and the data set must not depend on who was quick."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A configuration whose source and annotators are known; picklable, holds no model."""

    config: GenerateConfig
    source: SourceSpec
    specs: tuple[Spec, ...]
    captioner: CaptionSpec | None = None
    latents: LatentSpec | None = None
    imports: tuple[ImportedCondition, ...] = ()
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # kept -> type, by name
    weights: Mapping[str, tuple[WeightsRecord, ...]] = dataclasses.field(default_factory=dict)

    @property
    def output(self) -> str:
        """Output folder without a trailing slash."""
        return self.config.output.removeprefix("file://").rstrip("/") or "/"

    @property
    def models(self) -> tuple[Spec | CaptionSpec, ...]:
        """Annotators and the captioner, if there is one."""
        return (*self.specs, self.captioner) if self.captioner else self.specs

    @property
    def needs_networks(self) -> bool:
        """Whether torch has to be imported at all."""
        return self.latents is not None or any(weights_of(spec) for spec in self.models)

    @property
    def runtime(self) -> Runtime:
        """Where annotators run in this process.

        Raises:
            ConfigError: the device that was asked for is not here.
        """
        config = self.config
        # Without networks torch is not imported, unless a device was named that may not be here.
        matters = self.needs_networks or config.device not in {"auto", "cpu"}
        return Runtime(
            device=resolve_device(config.device) if matters else "cpu",
            weights=_weights_here(config.weights),
            offline=config.offline,
            compile=config.compile,
        )

    @property
    def annotators(self) -> dict[str, Any]:
        """Condition -> everything that is known about its annotator."""
        drawn = {spec.name: record_of(spec, self.weights.get(spec.name, ())) for spec in self.specs}
        return drawn | {condition.name: condition.record for condition in self.imports}

    @property
    def captioner_record(self) -> dict[str, Any] | None:
        """The same of the captioner, if a model writes captions."""
        if self.captioner is None:
            return None
        return record_of_captioner(self.captioner, self.weights.get(self.captioner.name, ()))

    @property
    def footer(self) -> dict[str, Any]:
        """What every shard carries: enough to make the same maps again."""
        return {
            "schema_version": SCHEMA_VERSION,
            "pipeline_revision": PIPELINE_REVISION,
            "recipe": self.config.recipe(),
            "annotators": self.annotators,
            "captioner": self.captioner_record,
            # Not there where nothing is kept: the hash of sets that exist stays what it was.
            **({"columns": dict(self.columns)} if self.columns else {}),
        }

    @property
    def identity(self) -> str:
        """Hash of everything but the references that a shard's bytes depend on."""
        return hashlib.sha256(json.dumps(self.footer, sort_keys=True).encode()).hexdigest()

    @property
    def conditions(self) -> list[Condition]:
        """The columns of every condition, in order."""
        conditions = [Condition(name=spec.name, stats=spec.stats) for spec in self.specs]
        return conditions + [Condition(name=condition.name, stats={}) for condition in self.imports]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the shards."""
        return triple_schema(self.conditions, self.footer)


def _weights_here(folder: str | None) -> str | None:
    """The folder that was named at launch, or on another machine the one of its image."""
    if folder is None or os.path.isdir(folder):
        return folder
    return os.environ.get("CONTROLSET_WEIGHTS") or folder


def check_names(conditions: Iterable[Condition], kept: Iterable[str]) -> None:
    """Refuse two columns of one name.

    Raises:
        ConfigError: says which two.
    """
    taken: dict[str, str] = dict.fromkeys(OUR_COLUMNS, "one that only controlset writes")
    for name in kept:
        _take(taken, name, "one kept from the source (--keep-columns)")
    for condition in conditions:
        for name in (condition.name, *condition.stat_columns):
            _take(taken, name, f"one of the condition {condition.name}")


def _take(taken: dict[str, str], name: str, what: str) -> None:
    if name in taken:
        raise ConfigError(
            f"column {name}: need one of this name, got {taken[name]} and {what}; leave one of "
            "them out, or call it otherwise in the source"
        )
    taken[name] = what
