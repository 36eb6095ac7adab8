"""Moments of a base's VAE, so that training need not encode every image in every epoch.

A base is a folder in diffusers' format, the `vae` folder in it, or a name on the hub. The only
annotator that knows diffusers.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np

from annotators.network import NetworkAnnotator, as_batch, placed
from annotators.runtime import Precision, PrecisionAsked, Runtime, torch_dtype
from annotators.weights import HubError, download, in_cache, sha256_of
from schemas.errors import ConfigError, Reason, Rejected
from schemas.latents import LATENTS, LatentInfo
from schemas.model_files import NO_PICKLES, VaeConfig, quiet, read_model_config
from schemas.pixels import RgbU8

if TYPE_CHECKING:
    import torch

_LOG_VARIANCES = (-30.0, 20.0)  # as diffusers' DiagonalGaussianDistribution cuts them off


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
        # As people sort downloads: `owner/name`, the hub's own `owner--name`, or the name alone.
        for name in (base, base.replace("/", "--"), base.rsplit("/", 1)[-1]):
            yield Path(runtime.weights, name, "vae")
            yield Path(runtime.weights, name)
    for within in _WITHIN:
        found = in_cache(base, f"{within}config.json")
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
            config = download(base, f"{within}config.json", into)
            _download_weights(base, within, into)
            return _read(config.parent, base)
        except HubError as error:
            failure = failure or error  # of the first place, where most bases have theirs
    raise missing(base, runtime, failure) from failure


def _download_weights(base: str, within: str, into: Path | None) -> None:
    names = list(VARIANTS)
    try:
        # fp32 as a rule; some repositories have the fp16 file alone.
        download(base, f"{within}{names[0]}", into)
    except HubError:
        download(base, f"{within}{names[1]}", into)


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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Mean and log-variance of one image's posterior."""

    straight: np.ndarray  # (2C, h, w) float16
    flipped: np.ndarray | None  # the same of the mirrored image, if it was asked for


# One batch in, one result for each image out, in order; see `annotators.protocol.Annotator`.
Encoder = Callable[[Sequence[RgbU8], Sequence[str]], list[Moments | Rejected]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LatentSpec:
    """Whose VAE encodes, and in which format."""

    name: ClassVar[str] = "latents"
    licence: ClassVar[str] = "Apache-2.0 (diffusers)"

    base: str  # folder, or name on the hub
    precision: Precision = "fp32"
    flips: bool = False  # encode the mirrored images, too

    @classmethod
    def from_options(cls, base: str, *, flips: bool, asked: PrecisionAsked) -> "LatentSpec":
        """The spec that options ask for.

        Here `auto` is fp32 on every machine: a set is encoded once and trained on for long, the
        trainer's own VAE is fp32, and in fp16 SDXL's gives NaN.
        """
        return cls(base=base, precision="fp32" if asked == "auto" else asked, flips=flips)

    def load(self, runtime: Runtime) -> Encoder:
        """The encoder, which all threads share.

        Raises:
            ConfigError: the VAE is not here, or its weights are another network's.

        Cost: 6.9 s per 512x512 on one core in fp32 with a VAE of Stable Diffusion's size, twice
            that with flips (measured 2026-11-23, AMD EPYC).
        """
        vae = located(self.base, runtime)
        if vae is None:
            raise missing(self.base, runtime)
        network = placed(_encoder_of(vae, self.base), runtime, self.precision)

        def encode(signed_BCHW: "torch.Tensor") -> list[tuple[np.ndarray, np.ndarray | None]]:
            straight = _moments(signed_BCHW, network, self.precision)
            if not self.flips:
                return [(moments, None) for moments in straight]
            flipped = _moments(signed_BCHW.flip(3), network, self.precision)
            return list(zip(straight, flipped, strict=True))

        return NetworkAnnotator(
            runtime=runtime,
            feed=lambda images: _fed(images, self, vae.config.factor, runtime),
            network=encode,
            draw=lambda pairs, _height, _width: [
                _result(*pair, precision=self.precision) for pair in pairs
            ],
        )


def vae_ready(spec: LatentSpec, runtime: Runtime, *, download: bool) -> LatentInfo | None:
    """Make sure that the VAE will be found, before any image is read.

    Args:
        spec: whose VAE.
        runtime: where to look; whether to stay offline.
        download: get a VAE that is not here.

    Returns:
        What manifest and footer say of its moments; None where it is not here and not downloaded.

    Raises:
        ConfigError: the folder holds no VAE, or it is nowhere to be had.
    """
    vae = located(spec.base, runtime)
    if vae is None and not download:
        return None
    if vae is None:
        vae = fetched(spec.base, runtime)
    return LatentInfo(
        base=spec.base,
        vae_sha256=sha256_of(vae.weights),
        channels=vae.config.latent_channels,
        factor=vae.config.factor,
        scaling_factor=vae.config.scaling_factor,
        shift_factor=vae.config.shift_factor,
        flips=spec.flips,
        precision=spec.precision,
    )


def _encoder_of(vae: Vae, base: str) -> "torch.nn.Module":
    """The half of a VAE that encodes, on the CPU in fp32: (B, 3, H, W) -> (B, 2C, h, w).

    Raises:
        ConfigError: weights that are damaged or lack a part.
    """
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    kind: Any = AutoencoderKL  # whose stub does not tell of the report
    try:
        with quiet("diffusers"):
            whole, report = kind.from_pretrained(
                vae.weights.parent,
                variant=VARIANTS[vae.weights.name],
                local_files_only=True,
                torch_dtype=torch.float32,
                output_loading_info=True,
                **NO_PICKLES,
            )
    except MemoryError:
        raise
    except Exception as error:  # a strange configuration makes diffusers raise nearly anything
        reason = " ".join(str(error).split())[:200]
        raise no_vae(base, f"{vae.weights} ({type(error).__name__}: {reason})") from error
    used = ("encoder.", "quant_conv.")
    absent = sorted(name for name in report["missing_keys"] if name.startswith(used))
    if absent:  # diffusers itself would fill them with random numbers
        raise no_vae(base, f"{vae.weights} without {absent[0]} and {len(absent) - 1} more")
    if report["unexpected_keys"]:
        spare = sorted(report["unexpected_keys"])
        raise no_vae(base, f"{vae.weights} with {spare[0]} and {len(spare) - 1} more of another")
    last = whole.quant_conv  # Stable Diffusion 3's has none
    return torch.nn.Sequential(whole.encoder, torch.nn.Identity() if last is None else last)


def _fed(
    images: Sequence[RgbU8], spec: LatentSpec, factor: int, runtime: Runtime
) -> "torch.Tensor":
    """(B, 3, H, W) float32 in -1..1.

    Raises:
        ConfigError: images that the VAE cannot halve as often as it wants to.
    """
    height, width = images[0].shape[:2]
    if height % factor or width % factor:
        raise ConfigError(
            f"--latents {spec.base}: need images whose sides are multiples of {factor} px, got "
            f"{width}x{height} px; generate the set again with such a --resolution"
        )
    return as_batch(images, runtime, "fp32") / 127.5 - 1


def _moments(
    signed_BCHW: "torch.Tensor", network: "torch.nn.Module", precision: Precision
) -> np.ndarray:
    """(B, 2C, h, w) float16 of images in [-1, 1]; not finite where the VAE's are not."""
    import torch

    raw_BCHW = network(signed_BCHW.to(torch_dtype(precision)))
    mean_BCHW, log_variance_BCHW = raw_BCHW.float().chunk(2, dim=1)
    # Before they are cut off: infinite log-variances would become 20.
    broken_B111 = ~torch.isfinite(raw_BCHW).flatten(1).all(1)[:, None, None, None]
    cut_BCHW = log_variance_BCHW.clamp(*_LOG_VARIANCES)
    moments_BCHW = torch.cat([mean_BCHW, cut_BCHW], dim=1).masked_fill(broken_B111, torch.nan)
    # Means and log-variances are small numbers: fp16 halves what a set stores of them.
    return moments_BCHW.half().contiguous().cpu().numpy()


def _result(
    straight: np.ndarray, flipped: np.ndarray | None, precision: Precision
) -> Moments | Rejected:
    """A reader that mirrors at random needs both, so neither is kept without the other."""
    for moments, which in ((straight, ""), (flipped, " of the mirrored image")):
        if moments is not None and not np.isfinite(moments).all():
            return Rejected(
                Reason.NOT_FINITE,
                f"need {LATENTS}{which} within float16's range, got NaN, infinity or more "
                f"from the VAE in {precision}",
            )
    return Moments(straight=straight, flipped=flipped)
