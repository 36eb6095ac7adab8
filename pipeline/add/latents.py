"""Moments of a VAE as columns, and what is checked of them before they replace anything."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyarrow.fs import LocalFileSystem

from annotators.latents import LatentSpec, Moments, vae_ready
from annotators.runtime import Runtime
from pipeline.annotate import Eye
from pipeline.progress import Stopwatch
from schemas.errors import ConfigError, Rejected
from schemas.latents import LATENTS, LATENTS_FLIPPED, LatentInfo, encode_moments
from schemas.manifest import Manifest
from schemas.pixels import RgbU8
from schemas.records import RejectRow, reject_of
from schemas.shards import ShardReader, path_inside


def add_latents(
    rows: Sequence[dict[str, Any]],
    images: Sequence[RgbU8],
    info: LatentInfo,
    eye: Eye[Moments],
    watch: Stopwatch,
) -> list[RejectRow]:
    """Add the columns of moments to the rows.

    Args:
        rows: with at least `key` and `source`; changed in place.
        images: what the `image` of each row decodes to.
        info: of the moments.
        eye: the loaded encoder.
        watch: gets the seconds.

    Returns:
        One reject for each null: a row without moments has them in no column.
    """
    rejects: list[RejectRow] = []
    with watch.stage(eye.name):
        results = eye(images, [row["key"] for row in rows])
    for row, result in zip(rows, results, strict=True):
        row.update(dict.fromkeys(info.columns))
        if isinstance(result, Rejected):
            rejects += [reject_of(row, eye.name, result, kind=column) for column in info.columns]
            continue
        row[LATENTS] = encode_moments(result.straight)
        if result.flipped is not None:
            row[LATENTS_FLIPPED] = encode_moments(result.flipped)
    return rejects


def resolve_latents(
    spec: LatentSpec, old: Manifest, runtime: Runtime, *, folder: str, download: bool
) -> tuple[LatentSpec | None, LatentInfo | None]:
    """Find the VAE, and set the wish aside where the data set has its moments already.

    Args:
        spec: what was asked for.
        old: the data set's manifest.
        runtime: where to look.
        folder: of the data set, for errors.
        download: get a VAE that is not here.

    Returns:
        What to encode with and what to say of it, the latter None where it is not here; two Nones
        where there is nothing to do.

    Raises:
        ConfigError: moments of another VAE are there, or the VAE is nowhere or does not fit.
    """
    if old.latents is not None:
        _check_same(spec, vae_ready(spec, runtime, download=False), old.latents, folder)
        return None, None
    info = vae_ready(spec, runtime, download=download)
    if info is not None:
        _check_divides(info, old.recipe, folder)
    return spec, info


def _check_same(
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
    differences = [
        f"{name}={theirs.get(name)} (now {value})"
        for name, value in ours.items()
        if theirs.get(name) != value
    ]
    if differences:
        raise ConfigError(
            f"{folder}: holds latents made with {'; '.join(differences)}; "
            "ask for them with the same options, or generate another data set"
        )


def _check_divides(info: LatentInfo, recipe: Mapping[str, Any], folder: str) -> None:
    """Refuse images that the VAE would cut or pad, as far as the recipe tells their sizes."""
    side = 64 if recipe.get("fit") == "bucket" else recipe.get("resolution", info.factor)
    if side % info.factor:
        raise ConfigError(
            f"{folder}: need images whose sides are multiples of {info.factor} px for the VAE of "
            f"{info.base}, got {side} px; generate the set with such a --resolution"
        )


def check_some_finite(manifest: Manifest, info: LatentInfo, place: str) -> None:
    """Refuse columns without a single value; a data set would keep them for good.

    Args:
        manifest: of the data set with the new columns.
        info: of the moments.
        place: folder that its shards are staged in.

    Raises:
        ConfigError: the VAE gave NaN for every image.
    """
    for shard in manifest.shards:
        path = path_inside(LocalFileSystem(), place, shard.data.path)
        with ShardReader(path, where=path, filesystem=LocalFileSystem()) as reader:
            for group in range(len(reader.rows_of_groups)):
                column = reader.read([LATENTS], row_group=group)[LATENTS]
                if column.null_count < len(column):
                    return
    if manifest.rows:
        raise ConfigError(
            f"--latents {info.base}: need finite moments, got none for all {manifest.rows} images "
            f"in {info.precision}; use --precision fp32, or another VAE"
        )
