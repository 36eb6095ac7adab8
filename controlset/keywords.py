"""Keywords of the Python API: their types, the configuration they make, and errors that name them.

Each class has the options of one configuration, which is where they are declared, explained and
checked; here they only have the types in which a function takes them, for type checkers and
editors: any sequence for a tuple, any path for a text that names a place.
`tests/controlset/test_api.py` holds the two equal, and prints the class as it has to be where they
are not.
"""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import os
import re
import reprlib
import shlex
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar

from annotators.options import AnnotateConfig
from annotators.runtime import PrecisionAsked
from controlnet.evaluator.config import Preset
from controlnet.trainer.config import Optimizer, Precision, Schedule
from controlset.parse import option_kinds, typed
from controlset.refusals import need_own_files
from pipeline.config import (
    CaptionList,
    CaptionMode,
    Fit,
    ImageFormat,
    SourceFormat,
    SourceSplit,
)
from schemas.errors import ConfigError
from schemas.printable import without_progress

Config = TypeVar("Config")
P = ParamSpec("P")
Result = TypeVar("Result")

Place = str | os.PathLike[str]
"""A path or an address; results of this package that lie on disk are such, too."""


# None is in a type where the configuration takes it; a keyword that is None is as if left out.


class AnnotateKeywords(TypedDict, total=False):
    """What every command that annotates can be asked; `options` are those of single annotators."""

    conditions: Sequence[str]
    device: str
    precision: PrecisionAsked
    weights: Place | None
    offline: bool
    compile: bool
    seed: int
    options: Mapping[str, Any]


class GenerateKeywords(AnnotateKeywords, total=False):
    """Options of `controlset.generate`; `controlset.GenerateConfig` explains each."""

    caption: CaptionMode
    caption_list: CaptionList
    caption_text: str | None
    caption_column: str | None
    image_column: str | None
    import_condition: Sequence[str]
    keep_columns: Sequence[str]
    source_format: SourceFormat
    source_split: SourceSplit
    resolution: int
    fit: Fit
    pad_color: str
    image_format: ImageFormat
    quality: int
    keep_metadata: bool
    max_pixels: int
    min_side: int | None
    max_aspect: float
    shard_rows: int
    validation: float
    keep_copies_together: bool
    limit: int | None
    num_workers: int | None
    overwrite: bool
    beam_args: Sequence[str]


class AddKeywords(AnnotateKeywords, total=False):
    """Options of `controlset.add`; `controlset.AddConfig` explains each."""

    import_condition: Sequence[str]
    latents: Place | None
    latent_flips: bool
    caption: Literal["none", "blip"]
    num_workers: int | None


class TrainKeywords(TypedDict, total=False):
    """Options of `controlset.train`; `controlset.TrainConfig` explains each."""

    vae: Place | None
    base_lora: Place | None
    resume: bool
    init: Place | None
    exclude_keys: Place | None
    steps: int
    batch_size: int
    accumulation: int
    learning_rate: float
    schedule: Schedule
    warmup: int
    optimizer: Optimizer
    weight_decay: float
    beta2: float
    clip: float
    ema: float | None
    precision: Precision
    tf32: bool
    channels_last: bool
    compile: bool
    gradient_checkpointing: bool
    prompt_dropout: float
    condition_dropout: float
    flip: float
    noise_offset: float
    min_snr: float | None
    zero_terminal_snr: bool
    latents: Literal["auto", "column", "encode"]
    global_pool: bool | None
    seed: int
    device: str
    loader_workers: int
    log_every: int
    checkpoint_every: int
    keep_last: int
    probe_every: int
    probe_images: int
    probe_steps: int
    probe_guidance: float
    tracker: Literal["tensorboard", "wandb", "none"]
    offline: bool
    trust_model: Sequence[str]


class EvaluateKeywords(TypedDict, total=False):
    """Options of `controlset.evaluate`; `controlset.EvaluateConfig` explains each."""

    condition: str | None
    base: Place | None
    vae: Place | None
    base_lora: Place | None
    split: str
    limit: int | None
    samples: int
    seed: int
    preset: Preset
    scheduler: str | None
    steps: int
    guidance: float | None
    scale: float
    negative_prompt: str | None
    empty_prompt: bool
    judge: Sequence[str]
    tolerance: int
    sweep_guidance: Sequence[float]
    sweep_scale: Sequence[float]
    curve: bool
    inception: Place | None
    clip: Place | None
    lpips: Place | None
    batch_size: int
    device: str
    precision: Precision
    weights: Place | None
    offline: bool
    trust_model: Sequence[str]
    report: bool


class SampleKeywords(TypedDict, total=False):
    """Options of `controlset.sample`; `controlset.SampleConfig` explains each."""

    prompt: Sequence[str]
    annotate: bool
    base: Place | None
    vae: Place | None
    base_lora: Place | None
    negative_prompt: str
    scheduler: Literal["ddim", "dpm++", "unipc", "euler"]
    steps: int
    guidance: float
    scale: float | Sequence[float]
    start: float
    end: float
    guess: bool
    resolution_weighting: bool
    init_image: Place | None
    strength: float | None
    mask: Place | None
    count: int
    seed: int
    batch_size: int
    device: str
    precision: Precision
    offline: bool
    trust_model: Sequence[str]


# From keywords to a configuration, and from a flag in a message to the keyword -----------------

# Options that a function has not, since it does what it is called for and returns numbers.
_OF_THE_COMMAND = {"dry_run": False, "expect": None}
# Fields that no flag sets as it is.
_WHOLE: Mapping[str, Callable[[Any], Any]] = {"beam_args": tuple, "options": dict}

_POSITIONAL = {"SOURCE": "source", "DATASET": "output", "RUN": "run"}
# How a message begins that names an option with its value: `--run nowhere: need the folder of …`.
_WHERE = re.compile(r"^(?:--)?([A-Za-z][\w-]*) (?!need )(\S.*?): (?=need |no such |nothing )")
# An option anywhere in a message, and the word behind it, which may be its value or its metavar:
# `--overwrite`, `--caption blip`, `--latents BASE`, `--import-condition NAME=WHERE`.
_FLAG = re.compile(r"--([a-z][a-z0-9-]*[a-z0-9])(?: ([a-z0-9_+-]+|[A-Z]+(?:=[A-Z]+)?)\b)?")


def command(kind: type | None = None) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Makes a function of a command: errors speak of keywords, progress is shown on demand.

    Args:
        kind: the configuration, whose fields then stand in the function's signature, so that
            notebooks show and complete them.
    """

    def decorated(function: Callable[P, Result]) -> Callable[P, Result]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> Result:
            # For the whole call and not handed on: a step that shows progress may lie deep inside.
            shown = contextlib.nullcontext() if kwargs.get("progress") else without_progress()
            with _in_python(kind or function), shown:
                need_own_files()
                return function(*args, **kwargs)

        if kind is not None:  # else the function has all its arguments itself
            called.__dict__["__signature__"] = _signature(function, kind)
        return called

    return decorated


def _signature(function: Callable[..., Any], kind: type) -> inspect.Signature:
    """The function's own arguments, then the other fields as keywords with their defaults."""
    own = inspect.signature(function)
    first = {
        name: argument
        for name, argument in own.parameters.items()
        if argument.kind is not argument.VAR_KEYWORD
    }
    fields = [
        field
        for name, field in inspect.signature(kind).parameters.items()
        if name not in first | _OF_THE_COMMAND
    ]
    return own.replace(parameters=[*first.values(), *fields])


def _kinds_of(of: Any) -> dict[str, Any]:
    """Keyword -> type, of a configuration or of a function that has all its keywords itself."""
    if isinstance(of, type):
        return option_kinds(of)
    return {name: hint for name, hint in of.__annotations__.items() if name != "return"}


@contextlib.contextmanager
def _in_python(of: Any) -> Iterator[None]:
    """Lets the message of a ConfigError name keywords where the command line has flags."""
    try:
        yield
    except ConfigError as error:
        kinds = _kinds_of(of)
        # Every other part stands between backticks: commands stay as they are typed.
        parts = re.split(r"(`[^`]*`)", str(error))
        parts[::2] = [_reworded(part, kinds) for part in parts[::2]]
        error.args = ("".join(parts),)  # the same error, with its class and its cause
        raise


def _reworded(text: str, kinds: Mapping[str, Any]) -> str:
    def where(found: re.Match[str]) -> str:
        name = _POSITIONAL.get(found[1], found[1].replace("-", "_"))
        flagged = found[0].startswith("--") or found[1] in _POSITIONAL
        return f'{name}="{found[2]}": ' if flagged and name in kinds else found[0]

    def flag(found: re.Match[str]) -> str:
        name, word = found[1].replace("-", "_"), found[2]
        if name not in kinds and name not in _OF_THE_COMMAND:
            return found[0]  # an option of another command, or of another program
        kind = kinds.get(name, bool)
        if kind is bool:  # takes no value, so the word belongs to the sentence
            return f"{name}=True{f' {word}' if word else ''}"
        if word is None:
            return f"{name}="
        if word.isupper():
            return f'{name}="{word}"' if "=" in word else f"{name}={word}"
        return f'{name}="{word}"' if word in _choices(kind) else f"{name}= {word}"

    text = re.sub(r"--trust-model (\S+|'[^']*')$", _trusted, text)
    text = re.sub(r"^(SOURCE|DATASET|RUN):", lambda found: f"{_POSITIONAL[found[1]]}=:", text)
    return _FLAG.sub(flag, _WHERE.sub(where, text))


def _trusted(found: re.Match[str]) -> str:
    (name,) = shlex.split(found[1])  # the message has quoted it for a shell
    return f'trust_model=["{name}"]'


def _choices(kind: Any) -> tuple[Any, ...]:
    """The words of a Literal, also of one that may be None; of other types none."""
    if isinstance(kind, types.UnionType):
        return tuple(word for part in typing.get_args(kind) for word in _choices(part))
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def configured(kind: type[Config], first: Any, given: Mapping[str, Any]) -> Config:
    """The configuration that a call asks for.

    Args:
        kind: of configuration.
        first: the first argument, which may be the whole configuration.
        given: keyword -> value, the first argument's included; None is as if it were not there.

    Raises:
        ConfigError: an unknown keyword, one that is missing, or a value of another type.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(first, kind):
        if len(given) > 1:
            raise ConfigError(
                f"need a {kind.__name__} or keywords, got both; dataclasses.replace changes one"
            )
        usual = _OF_THE_COMMAND.items()
        _need_no_command([name for name, value in usual if getattr(first, name, value) != value])
        return first
    _need_no_command(given.keys())
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    kinds = option_kinds(kind)
    own, options = dict[str, Any](), dict[str, Any]()
    for name, value in given.items():
        if name in _WHOLE and name in fields:
            own[name] = _WHOLE[name](value)
        else:
            (own if name in fields else options)[name] = _value(kinds, name, value)
    if issubclass(kind, AnnotateConfig):
        # Left out it is refused by the configuration, which knows what may stand in its place.
        own.setdefault("conditions", ())
        own["options"] = {**own.get("options", {}), **options}
    missing = [
        f"{name}="
        for name, field in fields.items()
        if field.default is field.default_factory is dataclasses.MISSING and name not in own
    ]
    if missing:
        raise ConfigError(f"need {', '.join(missing)}")
    return kind(**own)


def _need_no_command(names: Collection[str]) -> None:
    """Refuse what only the command line does."""
    for name in names:
        if name in _OF_THE_COMMAND:
            raise ConfigError(f"{name}=: need the command line for this, got a call in Python")


def _value(kinds: Mapping[str, Any], name: str, value: Any) -> Any:
    """A keyword's value as the configuration has it.

    Raises:
        ConfigError: there is no such keyword, or it has no such values.
    """
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=1)
        hint = f"; did you mean {near[0]}=?" if near else ""
        raise ConfigError(f"unknown keyword {name}={hint}")
    # Any other iterable is several values: a tuple, an array, a Series.
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | os.PathLike | Mapping):
        value = [*map(_plain, value)]
    try:
        return typed(kinds[name], _plain(value))
    except ValueError as rule:
        raise ConfigError(f"{name}=: need {rule}, got {reprlib.repr(value)}") from None


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def value_of(function: Callable[..., Any], name: str, value: Any) -> Any:
    """A keyword's value, of a function that has all its keywords itself.

    Raises:
        ConfigError: it has no such values.
    """
    return _value(_kinds_of(function), name, value)
