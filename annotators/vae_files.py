"""A base's VAE as files: where it lies, what its configuration says. Reads no weights.

A base is a folder in diffusers' format, the `vae` folder in it, or a name on the hub.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from annotators import hub
from annotators.runtime import Runtime
from schemas.errors import ConfigError
from schemas.model_files import VaeConfig, read_model_config

VARIANTS: Mapping[str, str | None] = {
    "diffusion_pytorch_model.safetensors": None,
    "diffusion_pytorch_model.fp16.safetensors": "fp16",
}
"""Files of weights, best first -> the variant as diffusers names it. Never a pickle."""

_WITHIN = ("vae/", "")  # of a repository: a whole base, or a VAE alone


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Vae:
    """A VAE on this machine; its weights are not read yet."""

    weights: Path
    config: VaeConfig


def located(base: str, runtime: Runtime) -> Vae | None:
    """The VAE in a folder of the user's, else in the hub's cache.

    Raises:
        ConfigError: `base` is a folder, but no VAE in it.
    """
    if Path(base).is_dir():
        whole = Path(base, "vae")
        return _read(whole if whole.is_dir() else Path(base), base)
    for folder in _kept(base, runtime):
        if any((folder / name).is_file() for name in VARIANTS):  # else a download stopped half way
            return _read(folder, base)
    return None


def _kept(base: str, runtime: Runtime) -> Iterator[Path]:
    """Where a download can lie: below `--weights DIR` or in the hub's cache."""
    if runtime.weights is not None:
        for name in (base, base.replace("/", "--"), base.rsplit("/", 1)[-1]):
            yield Path(runtime.weights, name, "vae")
            yield Path(runtime.weights, name)
    for within in _WITHIN:
        found = hub.in_cache(base, f"{within}config.json")
        if found is not None:
            yield found.parent


def _read(folder: Path, base: str) -> Vae:
    """Look at a VAE's configuration.

    Raises:
        ConfigError: it is none, or has no safetensors.
    """
    path = folder / "config.json"
    try:
        if not path.is_file():
            raise no_vae(base, f"no config.json in {folder}")
        config = read_model_config(path)
        kind = config.get("_class_name")
        known = msgspec.convert(config, VaeConfig)
    except ValueError as error:  # msgspec's are such, too
        reason = " ".join(str(error).split())[:200]
        raise no_vae(base, f"no JSON object in {path} that is a VAE's ({reason})") from error
    if kind != "AutoencoderKL":
        raise no_vae(base, f"the class {kind} in {path}")
    weights = [folder / name for name in VARIANTS if (folder / name).is_file()]
    if not weights:
        raise no_vae(base, f"no {next(iter(VARIANTS))} in {folder}")
    return Vae(weights=weights[0], config=known)


def fetched(base: str, runtime: Runtime) -> Vae:
    """Download a VAE: `vae/` of a whole base, or a repository that is a VAE itself.

    Raises:
        ConfigError: `--offline`, no such repository, or the hub cannot be reached.
    """
    failure = None
    into = Path(runtime.weights, base.replace("/", "--")) if runtime.weights else None
    for within in () if runtime.offline else _WITHIN:
        try:
            config = hub.download(base, f"{within}config.json", into)
            _download_weights(base, within, into)
            return _read(config.parent, base)
        except hub.HubError as error:
            failure = failure or error  # of the first place, where most bases have theirs
    raise missing(base, runtime, failure) from failure


def _download_weights(base: str, within: str, into: Path | None) -> None:
    names = list(VARIANTS)
    try:
        hub.download(base, f"{within}{names[0]}", into)
    except hub.HubError:
        hub.download(base, f"{within}{names[1]}", into)


def no_vae(base: str, found: str) -> ConfigError:
    """The error for something else than a VAE."""
    return ConfigError(
        f"--latents {base}: need an AutoencoderKL in diffusers' format, found {found}; "
        "give the folder of a base or of its VAE, or a name on the hub"
    )


def missing(base: str, runtime: Runtime, failure: Exception | None = None) -> ConfigError:
    """The error for a VAE that is nowhere to be found."""
    below = f" nor one below {runtime.weights}" if runtime.weights else ""
    why = f" ({failure})" if failure else ""
    advice = ", or leave out --offline" if runtime.offline else ""
    return ConfigError(
        f"--latents {base}: need a VAE in diffusers' format, found no such folder{below} and "
        f"nothing in the hub's cache{why}; give the folder of a base or of its VAE{advice}"
    )
