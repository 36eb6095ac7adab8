"""How a number came about, in so few words that two results can be compared by them."""

import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from controlnet.evaluator.config import EvaluateConfig
from controlnet.evaluator.examples import Rows
from controlnet.evaluator.judge import Eye
from controlnet.evaluator.metrics.base import RESAMPLES, Estimate, Scorer
from controlnet.evaluator.samples import CODEC
from schemas.errors import ConfigError
from schemas.machine import cores, memory_bytes

_PACKAGES = ("controlset", "torch", "diffusers", "transformers", "numpy", "opencv-python-headless")


def protocol_of(
    config: EvaluateConfig,
    condition: str,
    eye: Eye,
    scorer: Scorer,
    rows: Rows,
    *,
    same_judge: bool,
    precision: str,
    extras: Sequence[str],
) -> dict[str, Any]:
    """Everything that a score depends on but the weights, with an id that stands for it.

    Args:
        config: resolved.
        condition: that is judged.
        eye: of the judge.
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
        "judge": dict(eye.record),
        "wanted": "extracted" if eye.from_pictures else "stored",
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
    parts = [_processor(), f"{cores()} cores", f"{memory_gb:.0f} GB"]
    if device.startswith("cuda"):
        import torch

        parts.insert(0, torch.cuda.get_device_name(device))
    return ", ".join(parts)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def plain(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """Estimates as JSON has them: NaN, which JSON lacks, is null.

    Raises:
        ConfigError: a number is infinite.
    """
    return {name: _plain(name, one) for name, one in estimates.items()}


def _plain(name: str, one: Estimate) -> dict[str, Any] | None:
    if math.isnan(one.value):
        return None
    if math.isinf(one.value):
        raise ConfigError(f"{name}: need a finite number, got {one.value}; look at the pictures")
    low, high = (None if not math.isfinite(end) else end for end in (one.low, one.high))
    return {"value": one.value, "low": low, "high": high, "count": one.count}
