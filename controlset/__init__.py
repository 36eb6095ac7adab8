"""controlset: raw images in, ControlNet training sets out.

    import controlset

    config = controlset.GenerateConfig(source="photos", output="set", conditions=("canny",))
    controlset.generate(config)
    controlset.add(controlset.AddConfig(output="set", conditions=("grey",)))
    data = controlset.open("set", split="train")
    data[0].image, data[0].maps["canny"], data[0].text
    controlset.train(controlset.TrainConfig(data="set", condition="canny", base=BASE, output="run"))
    document, report = controlset.evaluate(
        controlset.EvaluateConfig(run=("run",), data="set", output="evaluation")
    )

Names load when they are first used, so that the command line answers at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from controlnet.evaluator.config import EvaluateConfig
    from controlnet.trainer.config import TrainConfig
    from controlset.judge import run_evaluation as evaluate
    from controlset.judge import train
    from pipeline.add.add import add
    from pipeline.add.config import AddConfig
    from pipeline.config import GenerateConfig
    from pipeline.generate import generate
    from pipeline.inspection import inspect_dataset as inspect
    from pipeline.verify.verify import verify_dataset as verify
    from schemas.dataset import open_dataset as open
    from schemas.errors import ConfigError

__version__ = "0.2.0"

__all__ = [
    "AddConfig",
    "ConfigError",
    "EvaluateConfig",
    "GenerateConfig",
    "TrainConfig",
    "__version__",
    "add",
    "evaluate",
    "generate",
    "inspect",
    "open",
    "train",
    "verify",
]

_PLACES = {
    "AddConfig": ("pipeline.add.config", "AddConfig"),
    "ConfigError": ("schemas.errors", "ConfigError"),
    "EvaluateConfig": ("controlnet.evaluator.config", "EvaluateConfig"),
    "GenerateConfig": ("pipeline.config", "GenerateConfig"),
    "TrainConfig": ("controlnet.trainer.config", "TrainConfig"),
    "add": ("pipeline.add.add", "add"),
    "evaluate": ("controlset.judge", "run_evaluation"),
    "generate": ("pipeline.generate", "generate"),
    "inspect": ("pipeline.inspection", "inspect_dataset"),
    "open": ("schemas.dataset", "open_dataset"),
    "train": ("controlset.judge", "train"),
    "verify": ("pipeline.verify.verify", "verify_dataset"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'controlset' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
