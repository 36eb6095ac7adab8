"""Measures beside adherence that an evaluation can have here, and why it cannot have others."""

from collections.abc import Iterator, Sequence

from controlnet.architecture.backbone import load_base
from controlnet.evaluator.config import EvaluateConfig
from controlnet.evaluator.examples import JudgedRows, load_rows
from controlnet.evaluator.metrics.base import Extra
from controlnet.evaluator.metrics.clip_score import Clip, ClipScore, Words
from controlnet.evaluator.metrics.diversity import Diversity, lpips_distance, rmse
from controlnet.evaluator.metrics.fid_kid import Distance, inception, vae_features
from controlnet.evaluator.models import Models, places_of
from controlnet.nano import base_folder
from controlnet.nano.reading import parse_caption
from schemas.pixels import RgbU8


def extras_of(
    config: EvaluateConfig, condition: str, device: str
) -> tuple[Sequence[Extra], list[dict[str, str]]]:
    """What can be measured, and what cannot with the reason.

    Args:
        config: resolved.
        condition: whose rows are judged.
        device: of the networks.

    Raises:
        ConfigError: weights that were asked for and are not here.
    """
    rows = load_rows(config.data, split=config.split, condition=condition, limit=config.limit)
    extras: list[Extra] = []
    missing: list[dict[str, str]] = []
    _quality(config, rows, device, extras, missing)
    if parse_caption(rows.rows[0].text) is not None and not config.empty_prompt:
        extras.append(Words())
    if config.clip is not None:
        extras.append(Clip(ClipScore(config.clip, device=device, offline=config.offline)))
    else:
        missing.append({"measure": "CLIP score", "why": "no CLIP model: give --clip NAME"})
    if config.samples == 1:
        why = "one picture a row: give --samples 4"
        missing.append({"measure": "diversity", "why": why})
    elif config.lpips is not None:
        distance = lpips_distance(config.lpips, device=device)
        extras.append(Diversity(distance, "LPIPS"))
    else:
        extras.append(Diversity(rmse, "RMSE, of 255"))
    return extras, missing


def _quality(
    config: EvaluateConfig,
    rows: JudgedRows,
    device: str,
    extras: list[Extra],
    missing: list[dict[str, str]],
) -> None:
    """FID and KID; on the nano base, which Inception has never seen, a distance of latents."""

    def real() -> Iterator[RgbU8]:
        return (row.image for row in rows.rows)

    if config.inception is not None:
        names = ("fid", "kid")
        extractor = inception(config.inception, device=device)
        extras.append(Distance(extractor, real, names=names, labels=("FID", "KID")))
    else:
        missing.append(
            {"measure": "FID, KID", "why": "no Inception weights: give --inception FILE"}
        )
    if _is_nano(config):
        base = load_base(str(base_folder()), text=False, offline=True)
        extras.append(
            Distance(
                vae_features(base),
                real,
                names=("frechet_latents", "kernel_latents"),
                labels=("Fréchet distance of latents", "kernel distance of latents"),
            )
        )


def _is_nano(config: EvaluateConfig) -> bool:
    models = Models(base=config.base, precision="fp32", offline=True, device="cpu")
    bases = {models.base_of(place) for place in places_of(config.run, offline=config.offline)}
    return bases == {str(base_folder())}
