"""The resolved job: what every worker needs to know, and what a stored byte depends on."""

import dataclasses
import hashlib
import json
from typing import Any

import pyarrow as pa

from annotators.protocol import Spec
from annotators.registry import record_of, spec_of
from pipeline.options import GenerateConfig
from pipeline.sources import SourceSpec
from schemas.triple import SCHEMA_VERSION, Condition, triple_schema

PIPELINE_REVISION = 1
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

    @property
    def output(self) -> str:
        """Output folder without a trailing slash."""
        return self.config.output.removeprefix("file://").rstrip("/") or "/"

    @property
    def annotators(self) -> dict[str, Any]:
        """Condition -> everything that is known about its annotator."""
        return {spec.name: record_of(spec) for spec in self.specs}

    @property
    def footer(self) -> dict[str, Any]:
        """What every shard carries: enough to make the same maps again."""
        return {
            "schema_version": SCHEMA_VERSION,
            "pipeline_revision": PIPELINE_REVISION,
            "recipe": self.config.recipe(),
            "annotators": self.annotators,
        }

    @property
    def identity(self) -> str:
        """Hash of everything but the references that a shard's bytes depend on."""
        return hashlib.sha256(json.dumps(self.footer, sort_keys=True).encode()).hexdigest()

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the shards."""
        conditions = [Condition(name=spec.name, stats=spec.stats) for spec in self.specs]
        return triple_schema(conditions, self.footer)


def specs_of(config: GenerateConfig) -> tuple[Spec, ...]:
    """Annotator specs that the configuration asks for, in its order.

    Raises:
        ConfigError: a condition that nobody provides, or parameters out of range.
    """
    return tuple(
        spec_of(condition, canny_thresholds=config.canny_thresholds, seed=config.seed)
        for condition in config.conditions
    )
