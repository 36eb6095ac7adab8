"""One part of a base, from a folder or the hub: its configuration is sound, its weights are whole.

A folder may be anybody's. Nothing of it is run, no pickle is read, and whatever is wrong with it is
one line that names the part; meanwhile no bars of the libraries' own are shown.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import diffusers
import msgspec
from msgspec import Meta
from torch import Tensor

from schemas.errors import ConfigError
from schemas.model_files import (
    NO_CODE,
    NO_PICKLES,
    VaeConfig,
    Width,
    Widths,
    check_model_config,
    no_questions,
    read_model_config,
)


@contextlib.contextmanager
def refusing(refusal: Callable[[str], str]) -> Iterator[None]:
    """One line of ours for whatever a strange file makes the libraries raise: nearly anything.

    Want of memory, and what is such a line already, go through.

    Args:
        refusal: makes it of the first line of what they say.

    Raises:
        ConfigError: instead of theirs.
    """
    try:
        yield
    except (MemoryError, ConfigError):
        raise
    except Exception as error:
        # A KeyError's own text would be in quotes.
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        said = ((str(text) or type(error).__name__).splitlines() or [""])[0][:160]
        raise ConfigError(refusal(said)) from error


def need_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse a network with a NaN or an infinity in it: all that it draws is black.

    Raises:
        ConfigError: names the first one.
    """
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ConfigError(
                f"{where}: need finite weights, got NaN or infinity in {name}; take an earlier "
                "checkpoint, or train with a lower --learning-rate"
            )


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Loading shows no bars of the libraries' own among ours; downloads still do.

    The bars are settings of the process: what they were before, they are again afterwards.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as transformers_logging

    downloads = disable_progress_bars if are_progress_bars_disabled() else enable_progress_bars
    shown = [
        library
        for library in (transformers_logging, diffusers_logging)
        if library.is_progress_bar_enabled()
    ]
    for library in shown:
        library.disable_progress_bar()  # transformers' silences downloads, too
    downloads()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
        downloads()


CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "clip_text_model",
    "text_encoder_2": "clip_text_model",
}
"""Parts that hold weights -> `_class_name` (transformers: `model_type`) that their config says."""

_VARIANTS = (None, "fp16", "bf16")  # parts of files' names, best first: the same model, rounded
_SPARE = ("position_ids", "text_projection.weight")  # in some files, though nothing reads them

Beta = Annotated[float, Meta(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class _Unet:
    """What is read of a U-Net's configuration."""

    block_out_channels: Widths
    in_channels: Width = 4
    cross_attention_dim: Width | list[Width] = 1280
    norm_num_groups: Width | None = 32
    addition_embed_type: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Schedule:
    """What is read of a noise schedule's configuration, by us and by diffusers' schedulers."""

    num_train_timesteps: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    beta_start: Beta = 0.0001
    beta_end: Beta = 0.02
    beta_schedule: str = "linear"
    trained_betas: Annotated[list[Beta], Meta(min_length=1, max_length=100_000)] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: Annotated[int, Meta(ge=0, le=100_000)] = 0
    rescale_betas_zero_snr: bool = False
    clip_sample_range: float = 1.0

    def __post_init__(self) -> None:
        for beta in (self.beta_start, self.beta_end, *(self.trained_betas or ())):
            if not math.isfinite(beta):  # NaN is neither too small nor too large
                raise ValueError(f"a beta of {beta}")


_RECORDS = {"unet": _Unet, "vae": VaeConfig, "scheduler": _Schedule}
_KINDS = {
    "unet": diffusers.UNet2DConditionModel,
    "vae": diffusers.AutoencoderKL,
    "scheduler": diffusers.DDPMScheduler,
}


def part_config(name: str, part: str, *, offline: bool) -> dict[str, Any]:
    """The checked configuration of `unet`, `vae` or `scheduler`.

    Args:
        name: of the base: folder, or name on the hub. Of a VAE alone also its own folder, with ""
            as `part`.
        part: sub-folder.
        offline: never ask the hub.

    Raises:
        ConfigError: not there, not JSON, of another class, or with values that cannot be.
    """
    kind: Any = _KINDS[part or "vae"]
    with _usable(name, part):
        read = kind.load_config(name, subfolder=part or None, local_files_only=offline)
        config = json.loads(json.dumps(dict(read), default=str))  # plain values, to be checked
        check_model_config(config)
        _need_class(config.get("_class_name"), part or "vae")
        msgspec.convert(config, _RECORDS[part or "vae"])
    return config


def network_of(kind: Any, name: str, part: str, *, offline: bool, **options: Any) -> Any:
    """Load one network, all of whose weights are there and none of which is left over.

    The libraries make up what is missing and leave out what they do not know.

    Args:
        kind: its class in diffusers or transformers.
        name: as in `part_config`.
        part: sub-folder.
        offline: never ask the hub.
        options: of `from_pretrained`.

    Raises:
        ConfigError: not there, torn, pickled, of another class or of another shape.
    """
    with _usable(name, part):
        return whole(kind, name, part, offline=offline, **options)


def whole(kind: Any, name: str, part: str, *, offline: bool, **options: Any) -> Any:
    """As `network_of`, raising what the libraries raise, for who names the place otherwise."""
    ours = kind.__module__.startswith("transformers.")
    folder = Path(name, part)
    if ours:  # diffusers says the class in `part_config`
        config = _config_of_transformers(name, folder, part, offline)
        _need_class(config.get("model_type"), part)
    safe = {**NO_PICKLES, **(NO_CODE if ours else {})}
    with no_questions():
        network, found = kind.from_pretrained(
            name,
            **({"subfolder": part} if part else {}),
            variant=_variant(folder, "model" if ours else "diffusion_pytorch_model"),
            local_files_only=offline,
            output_loading_info=True,
            **safe,
            **options,
        )
    missing = sorted(found["missing_keys"])
    if missing:  # these were drawn at random, with a warning
        raise KeyError(f"no {missing[0]} in its file, nor {len(missing) - 1} other weights")
    spare = sorted(key for key in found["unexpected_keys"] if not key.endswith(_SPARE))
    if spare:
        raise KeyError(
            f"{spare[0]} in its file, and {len(spare) - 1} other weights, for which this kind of "
            "network has no place"
        )
    return network


def _config_of_transformers(name: str, folder: Path, part: str, offline: bool) -> dict[str, Any]:
    if folder.is_dir():
        return read_model_config(folder / "config.json")
    from transformers import PretrainedConfig

    config, _ = PretrainedConfig.get_config_dict(name, subfolder=part, local_files_only=offline)
    check_model_config(config)
    return config


def tokenizer_of(kind: Any, name: str, part: str, *, offline: bool) -> Any:
    """Load a tokenizer that knows words.

    Raises:
        ConfigError: not there, torn or empty.
    """
    with _usable(name, part):
        with no_questions():
            tokenizer = kind.from_pretrained(
                name, subfolder=part, local_files_only=offline, **NO_CODE
            )
        # transformers makes a tokenizer of special words alone where there are no files
        if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
            raise FileNotFoundError("no vocabulary")
        if not isinstance(tokenizer.model_max_length, int | float):
            raise TypeError(f"a model_max_length of {tokenizer.model_max_length!r}")
        tokenizer(["a"], padding="max_length", truncation=True, max_length=4)  # has a pad token
    return tokenizer


def _usable(name: str, part: str) -> contextlib.AbstractContextManager[None]:
    return refusing(lambda said: no_base(name, part, said))


def need_base_folder(name: str) -> None:
    """Refuse a path that holds something else than a base, and say what it is.

    Raises:
        ConfigError: one file, one part of a base, a ControlNet, a run, another family.
    """
    path = Path(name)
    if path.is_file():
        raise ConfigError(
            f"--base {name}: need a model in diffusers' folder format, got one file; convert it "
            "once: python -c 'from diffusers import StableDiffusionPipeline as P; "
            f'P.from_single_file("{name}").save_pretrained("base")\' (SDXL: '
            "StableDiffusionXLPipeline), then give --base base"
        )
    if not path.is_dir() or (path / "unet").is_dir():
        return
    found = _what_it_is(path)
    if found is not None:
        raise ConfigError(f"--base {name}: need a whole base in diffusers' folder format, {found}")


def _what_it_is(path: Path) -> str | None:
    try:
        config = read_model_config(path / "config.json")
    except ValueError:
        config = {}
    kind = config.get("_class_name") or config.get("model_type")
    if kind == "ControlNetModel":
        return "got a ControlNet; give it with --init or --run"
    if kind in CLASSES.values():
        return f"got its {path.name}/ alone ({kind}); give the folder above, {path.parent}"
    if "identity" in config or (path / "controlnet").is_dir():
        return "got a run of controlset; give it with --init or --run"
    try:
        family = read_model_config(path / "model_index.json").get("_class_name")
    except ValueError:
        return None
    if family in {"StableDiffusionPipeline", "StableDiffusionXLPipeline"}:
        return None  # it lacks a part, which will be named
    return f"got a {family} without unet/; give a Stable Diffusion 1.x, 2.x or XL base"


def no_base(name: str, part: str, said: str) -> str:
    """What is said of a base without a usable part; "" is a VAE of its own."""
    what = (
        f"--base {name}: need a model in diffusers' folder format, found no usable {part}/"
        if part
        else f"--vae {name}: need an AutoencoderKL in diffusers' folder format, found none that is "
        "usable"
    )
    return f"{what} ({said}); give its folder or its name on the hub"


def weights_file(folder: Path, stem: str = "diffusion_pytorch_model") -> Path | None:
    """The safetensors file (or the list of its pieces) in a folder: full precision first."""
    for variant in _VARIANTS:
        middle = f".{variant}" if variant else ""
        for name in (f"{stem}{middle}.safetensors", f"{stem}.safetensors.index{middle}.json"):
            if (folder / name).is_file():
                return folder / name
    return None


def _variant(folder: Path, stem: str) -> str | None:
    found = weights_file(folder, stem)
    names = found.name.split(".") if found is not None else []
    return next((variant for variant in _VARIANTS if variant in names), None)


def _need_class(kind: object, part: str) -> None:
    known = {None, CLASSES.get(part), "clip" if part.startswith("text") else None}
    if part in CLASSES and kind not in known:
        raise ValueError(f"need the class {CLASSES[part]}, got {kind}")
