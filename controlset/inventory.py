"""Which weights the annotators need and which of them are here."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from annotators.options import EyeOptions
from annotators.protocol import CaptionSpec, Spec, weights_of
from annotators.registry import CAPTIONERS, available, captioner_of, specs_of, weights_ready
from annotators.runtime import Runtime
from annotators.weights import Weights, is_here, locate, record_of_weights
from schemas.errors import ConfigError

Models = Sequence[Spec | CaptionSpec]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Weights of one annotator; without `weights` it needs none."""

    name: str
    weights: Weights | None
    path: Path | None  # where they are
    sha256: str | None
    licence: str

    @property
    def ready(self) -> bool:
        """Whether the annotator will find them."""
        return self.weights is None or self.path is not None

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.weights is None:
            return "needs none"
        if self.path is None:
            return f"missing{f', {self.weights.size_mb} MB' if self.weights.size_mb else ''}"
        if self.weights.sha256 is not None and self.weights.sha256 != self.sha256:
            return "here, not the released file"
        return "here"


def models_of(names: Sequence[str], options: EyeOptions, *, all_if_none: bool) -> Models:
    """Specs of conditions and captioners by name.

    Raises:
        ConfigError: an unknown name, or no names where some are needed.
    """
    every = [*available(), *CAPTIONERS]
    if not names:
        if not all_if_none:
            raise ConfigError(f"weights fetch: need at least one NAME of {', '.join(every)}")
        names = every
    unknown = [name for name in names if name not in every]
    if unknown:
        raise ConfigError(f"{unknown[0]}: no such annotator; there are {', '.join(every)}")
    conditions = tuple(dict.fromkeys(name for name in names if name not in CAPTIONERS))
    specs = specs_of(dataclasses.replace(options, conditions=conditions))
    captioners = dict.fromkeys(name for name in names if name in CAPTIONERS)
    return [*specs, *(captioner_of(name, options) for name in captioners)]


def runtime_of(options: EyeOptions) -> Runtime:
    """Where these options look for weights."""
    return Runtime(weights=options.weights, offline=options.offline)


def fetch_all(models: Models, options: EyeOptions) -> None:
    """Download what is missing.

    Raises:
        ConfigError: some cannot be had.
    """
    if options.weights is not None:
        Path(options.weights).mkdir(parents=True, exist_ok=True)
    weights_ready(models, runtime_of(options), download=True)


def needs_of(models: Models, options: EyeOptions) -> list[Need]:
    """What the models need, and what is here of it; hashes what is here."""
    runtime = runtime_of(options)
    needs: list[Need] = []
    for spec in models:
        wanted = weights_of(spec)
        if not wanted:
            needs.append(
                Need(name=spec.name, weights=None, path=None, sha256=None, licence=spec.licence)
            )
        for weights in wanted:
            here = is_here(weights, runtime)
            needs.append(
                Need(
                    name=spec.name,
                    weights=weights,
                    path=locate(weights, runtime) if here else None,
                    sha256=record_of_weights(weights, runtime).sha256 if here else None,
                    licence=weights.licence,
                )
            )
    return needs


def print_needs(needs: Sequence[Need], console: Console) -> None:
    """A table that fits 80 columns."""
    table = Table(title="Weights", title_justify="left")
    for column in ("name", "weights", "state", "licence"):
        table.add_column(column, overflow="fold")
    for need in needs:
        color = "green" if need.ready else "yellow"
        title = "" if need.weights is None else need.weights.title
        table.add_row(need.name, title, f"[{color}]{need.state}[/]", need.licence)
    console.print(table)
    for need in needs:
        if need.path is not None and need.sha256 is not None:
            line = f"{need.path}  sha256 {need.sha256[:16]}…"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
