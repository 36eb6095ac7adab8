"""What a ControlNet's file says about itself, so that nobody has to guess."""

import json
from pathlib import Path

from controlnet import nano
from controlnet.architecture.backbone import Base
from controlnet.architecture.control import ControlNet
from controlnet.trainer.config import TrainConfig
from controlnet.trainer.index import Index


def published(name: str) -> str:
    """A base's name for a file that is passed on: no folders of the machine that trained it."""
    if name in {nano.NAME, str(nano.base_folder())}:
        return nano.NAME
    path = Path(name)
    return path.resolve().name if path.is_absolute() or path.exists() else name


def metadata_of(
    config: TrainConfig, index: Index, base: Base, control: ControlNet
) -> dict[str, str]:
    """Safetensors metadata: which condition, in which range and colour order, drawn by what."""
    return {
        "controlset.condition": config.condition,
        "controlset.hint_range": "0..1",
        "controlset.color_order": "RGB",
        "controlset.annotator": json.dumps(dict(index.annotator), sort_keys=True),
        "controlset.base": published(config.base),
        **({"controlset.vae": Path(config.vae).name} if config.vae else {}),
        **({"controlset.base_lora": Path(config.base_lora).name} if config.base_lora else {}),
        "controlset.base_fingerprint": base.fingerprint,
        "controlset.global_pool": str(bool(control.config.get("global_pool_conditions"))).lower(),
        "controlset.zero_terminal_snr": str(config.zero_terminal_snr).lower(),
        "controlset.prediction_type": str(base.scheduler.get("prediction_type", "epsilon")),
        "controlset.resolution": "{}x{}".format(*next(iter(index.sizes))),
    }
