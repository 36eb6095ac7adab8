"""`controlset weights`."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.table import Table
from rich.text import Text

from annotators.options import AnnotateConfig, options_of
from annotators.protocol import CaptionSpec, Spec, weights_of
from annotators.registry import available, captioner_of, captioners, kind_of, specs_of
from annotators.runtime import Runtime
from annotators.weights import Weights, fetch, is_here, locate, sha256_of
from controlset.commands import leaving_at_once
from controlset.parse import Command
from schemas.errors import ConfigError, need
from schemas.printable import printable, say
from schemas.terminal import Terminal

COMMAND = "controlset weights"  # two actions, so it has a help of its own
_BOX = box.SIMPLE_HEAD  # without lines between columns, so that names fit into 80
_HELP = f"""usage: {COMMAND} fetch|list [NAME ...] [OPTIONS]

Get the weights that annotators and captioners need, for machines without a
network and for container images, or say what is here.

actions:
  fetch NAME [NAME ...]  download what these need and is not here yet
  list [NAME ...]        annotator, weights, size, licence, here or not

options:
  -h, --help             this text; those of the actions have --weights DIR,
                         --offline, and the options that choose models

example:
  {COMMAND} fetch canny hed depth pose blip --weights weights/
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options(AnnotateConfig):
    conditions: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME ...]")
    ] = ()
    """Conditions and captioners, e.g. `canny depth pose blip`."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One annotator and one of the files or models that it needs."""

    name: str  # condition or captioner
    option: str = ""  # what has to be asked for, where it is not needed by default
    weights: Weights | None = None  # None: needs none
    path: Path | None = None  # None: not here
    sha256: str | None = None  # of what is here, where it was computed
    problem: str | None = None  # why the annotator cannot be used at all

    @property
    def ready(self) -> bool:
        """Whether it can be used now."""
        return self.problem is None and (self.weights is None or self.path is not None)

    @property
    def released(self) -> bool | None:
        """Whether the file is the released one; None where that is not known."""
        if self.weights is None or None in {self.weights.sha256, self.sha256}:
            return None
        return self.weights.sha256 == self.sha256

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.problem is not None:
            return "cannot be used"
        if self.weights is None:
            return "needs none"
        if self.path is None:
            return "missing"
        return "not the released file" if self.released is False else "here"

    @property
    def size_mb(self) -> float | None:
        """Of what is here, else of what is to be had."""
        if self.path is None:
            return self.weights.size_mb if self.weights else None
        files = [self.path] if self.path.is_file() else self.path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file()) / 1e6

    @property
    def size(self) -> str:
        """As tables show it; `~` where it is not here to be measured."""
        if self.size_mb is None:
            return ""
        return f"{'' if self.path else '~'}{self.size_mb:,.{0 if self.size_mb >= 10 else 1}f} MB"


FETCH = Command(
    name="weights fetch",
    kind=_Options,
    description="Download what annotators and captioners need and is not here yet: into "
    "--weights DIR, or else into the hub's cache. Say the same options as to `generate`.",
    example="hed depth blip --weights weights/",
)

LIST = Command(
    name="weights list",
    kind=_Options,
    description="Say which weights annotators and captioners need, under which licence, "
    "and whether they are here; without names, of all.",
    example="hed depth --weights weights/",
)


def run(arguments: Sequence[str]) -> int:
    """Fetch or list weights."""
    action = arguments[0] if arguments else None
    if action in {"-h", "--help"}:
        say(*_HELP.splitlines())
        raise SystemExit(0)
    actions = {"fetch": _fetch, "list": _list}
    if action not in actions:
        got = "nothing" if action is None else repr(action)
        raise ConfigError(f"need fetch or list, got {got}; see {COMMAND} --help")
    return actions[action](arguments[1:])


def _fetch(arguments: Sequence[str]) -> int:
    with leaving_at_once("weights"):
        options = FETCH.parse(arguments)

    names = options.conditions
    need(bool(names), "fetch", "at least one NAME", "none")
    need_known(names)
    runtime = Runtime(weights=options.weights, offline=options.offline)
    specs = [_spec(name, options.options) for name in names]
    fetch([weights for spec in specs for weights in weights_of(spec)], runtime)
    for entry in entries(names, options, models_too=True):
        say(*_described(entry))
    if options.weights:
        say(f"use them with --weights {options.weights} or CONTROLSET_WEIGHTS={options.weights}")
    return 0


def _described(entry: Entry) -> list[str]:
    """Name, file, size, licence, hash and place, in a form that can be copied."""
    if entry.weights is None:
        return [f"{entry.name}: needs none"]
    # Somebody may have put a file of their own there, and means it.
    same = {True: " (the released file)", False: " (not the released file)", None: ""}
    return [
        f"{entry.name}: {entry.weights.title}, {entry.size}",
        f"  licence {entry.weights.licence}",
        f"  sha256  {entry.sha256}{same[entry.released]}",
        f"  in      {entry.path}",
    ]


def _list(arguments: Sequence[str]) -> int:
    with leaving_at_once("weights"):
        options = LIST.parse(arguments)

    need_known(options.conditions)
    names = options.conditions or tuple(everything())
    print_entries(entries(names, options, variants=True), Terminal())
    return 0


def everything() -> list[str]:
    """Every condition and captioner that can be asked for."""
    return [*available(), *captioners()]


def need_known(names: Sequence[str]) -> None:
    """Refuse names that nobody provides.

    Raises:
        ConfigError: names one, and all that there are.
    """
    for name in names:
        if name not in everything():
            raise ConfigError(
                f"{name}: no such annotator or captioner; available: {', '.join(everything())}"
            )


def entries(
    names: Sequence[str],
    options: AnnotateConfig,
    *,
    variants: bool = False,
    models_too: bool = False,
) -> list[Entry]:
    """What these annotators and captioners need, and where it lies.

    Args:
        names: conditions and captioners.
        options: models and parts that are asked for; the folder of weights.
        variants: also what other options would need.
        models_too: hash also what has no known hash to compare with.
    """
    runtime = Runtime(weights=options.weights, offline=True)
    found = [entry for name in names for entry in _entries(name, "", options.options, runtime)]
    # Each file once: the variant of an annotator may share some with its default.
    for name in names if variants else ():
        for said, changes in _variants(name):
            others = _entries(name, said, {**options.options, **changes}, runtime)
            mine = {entry.weights for entry in found if entry.name == name}
            found += [entry for entry in others if entry.weights and entry.weights not in mine]
    found.sort(key=lambda entry: names.index(entry.name))
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter's lock
        return list(pool.map(lambda entry: _hashed(entry, models_too), found))


def _variants(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Options, as typed and as values, with which an annotator needs other weights."""
    try:
        kind = kind_of(name)
    except ConfigError:
        return  # its own entry says what is wrong
    options = options_of(kind)
    defaults = {option.name: option.default for option in options}
    for changes in getattr(kind, "variants", ()):
        values = {
            option.name: option.value_of(changes)
            for option in options
            if option.parameters.keys() <= changes.keys()
        }
        said = [option.typed(values[option.name]) for option in options if option.name in values]
        yield " ".join(said), defaults | values


def _entries(
    name: str, option: str, options: Mapping[str, Any], runtime: Runtime
) -> Iterator[Entry]:
    try:
        wanted = weights_of(_spec(name, options))
    except (ConfigError, ImportError) as error:  # another package's annotator may be broken
        yield Entry(name=name, option=option, problem=str(error))
        return
    if not wanted:
        yield Entry(name=name, option=option)
    for weights in wanted:
        path = locate(weights, runtime) if is_here(weights, runtime) else None
        yield Entry(name=name, option=option, weights=weights, path=path)


def _hashed(entry: Entry, models_too: bool) -> Entry:
    if entry.path is None or entry.weights is None:
        return entry
    if entry.weights.sha256 is None and not models_too:
        return entry  # nothing to compare with, and gigabytes to read
    return dataclasses.replace(entry, sha256=sha256_of(entry.path))


def _spec(name: str, options: Mapping[str, Any]) -> Spec | CaptionSpec:
    # For the CPU, so that torch need not be imported; where weights lie does not depend on it.
    here = AnnotateConfig(conditions=(), device="cpu", precision="fp32", options=options)
    if name in captioners():
        return captioner_of(name, here)
    return specs_of(dataclasses.replace(here, conditions=(name,)))[0]


def print_entries(found: Sequence[Entry], console: Terminal) -> None:
    """A table, then what is wrong with annotators that cannot be used."""
    table = Table(title="Annotators, captioners and their weights", title_justify="left", box=_BOX)
    table.add_column("name", no_wrap=True)
    table.add_column("weights and their licence", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("state", max_width=13)
    before = ""
    for entry in found:
        lines = [f"with {entry.option}:"] if entry.option else []
        if entry.weights is not None:
            lines += [entry.weights.file or entry.weights.hub_id, entry.weights.licence]
        color = "green" if entry.ready and entry.released is not False else "yellow"
        name = entry.name if entry.name != before else ""
        text = Text("\n".join(map(printable, lines)))
        table.add_row(name, text, entry.size, Text(entry.state, style=color))
        before = entry.name
    console.print(table)
    for entry in found:
        if entry.problem is not None:
            console.tell(f"{entry.name}: {entry.problem}")
