"""How a number came about, in so few words that two results can be compared by them."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controlnet.evaluator.config import EvaluateConfig
from controlnet.evaluator.examples import JudgedRows
from controlnet.evaluator.judge import JudgeAnnotator
from controlnet.evaluator.metrics.base import RESAMPLES, Scorer
from controlnet.evaluator.samples import CODEC
from schemas.documents import read_checked, with_digest
from schemas.errors import ConfigError
from schemas.files import clear_temporary, write_json
from schemas.machine import cores, memory_bytes, processor

IDENTITY = ".identity.json"
_PACKAGES = ("controlset", "torch", "diffusers", "transformers", "numpy", "opencv-python-headless")


def protocol_of(
    config: EvaluateConfig,
    condition: str,
    annotator: JudgeAnnotator,
    scorer: Scorer,
    rows: JudgedRows,
    *,
    same_judge: bool,
    precision: str,
    extras: Sequence[str],
) -> dict[str, Any]:
    """Everything that a score depends on but the weights, with an id that stands for it.

    Args:
        config: resolved.
        condition: that is judged.
        annotator: of the judge.
        scorer: compares.
        rows: what is judged by.
        same_judge: whether the judge drew the data set's maps.
        precision: of the networks that draw.
        extras: names of the other measures, with their extractors.
    """
    fields = {
        "preset": config.preset,
        "condition": condition,
        "scorer": scorer.protocol,
        "judge": dict(annotator.record),
        "wanted": "extracted" if annotator.from_pictures else "stored",
        "ceiling": "the real pictures through the base's VAE",
        "shuffled": "scored against the map of the next row by key",
        "scheduler": config.scheduler,
        "steps": config.steps,
        "guidance": config.guidance,
        "scale": config.scale,
        "negative_prompt": config.negative_prompt,
        "prompt": "empty" if config.empty_prompt else "the row's caption",
        "seed": config.seed,
        "seeds": "sha256(seed/key/number)",
        "samples_per_image": config.samples,
        "codec": CODEC,
        "sizes": sorted({row.size for row in rows.rows}),
        "precision": precision,
        "interval": f"95 %, bootstrap over images, {RESAMPLES} resamples",
        "others": list(extras),
    }
    text = json.dumps(fields, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return {"id": f"{config.preset}-{digest}", "same_judge": same_judge, **json.loads(text)}


def software() -> dict[str, str]:
    """Package -> version of what had a part in it."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES} | {
        "python": platform.python_version()
    }


def hardware(device: str) -> str:
    """`AMD EPYC …, 2 cores, 23 GB`, and the GPU if one was used."""
    memory_gb = memory_bytes()[0] / 1e9
    parts = [processor(), f"{cores()} cores", f"{memory_gb:.0f} GB"]
    if device.startswith("cuda"):
        import torch

        parts.insert(0, torch.cuda.get_device_name(device))
    return ", ".join(parts)


def claim_folder(folder: Path, identity: Mapping[str, Any]) -> None:
    """Take a folder for this evaluation, or go on with what it began.

    Args:
        folder: of the evaluation; it is there, and nobody else writes to it.
        identity: everything that decides about a pixel or a score.

    Raises:
        ConfigError: it holds something else, or another evaluation; says what differs.
    """
    clear_temporary(folder)
    place = folder / IDENTITY
    now = with_digest(identity)
    if place.exists():
        before = read_checked(place, dict, advice="take another --output")
        changed = sorted(
            f"{name} {before.get(name)!r} -> {now.get(name)!r}"
            for name in before.keys() | now.keys()
            if before.get(name) != now.get(name) and name != "sha256"
        )
        if changed:
            raise ConfigError(
                f"{folder}: holds another evaluation ({'; '.join(changed)[:400]}); take another "
                "--output"
            )
        return
    if any(True for _ in folder.iterdir()):
        raise ConfigError(
            f"{folder}: need an empty folder or an evaluation, got something else; take another "
            "--output"
        )
    write_json(place, now)
