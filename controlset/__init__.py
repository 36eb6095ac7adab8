"""controlset: raw images in, ControlNet training sets out.

    import controlset

    photos = controlset.generate("photos", "set", conditions=["canny"], validation=0.02)
    run = controlset.train(photos, "run", condition="canny", base="nano")
    scores = controlset.evaluate(run, photos, "evaluation")
    pictures = controlset.sample(run, photos[0]["canny"], prompt="a red star")
    controlset.export(run, "canny.safetensors", format="original")

    rows = controlset.load("set", "train", conditions=["canny"])  # for torch's DataLoader

Names load when they are first used, so that the command line answers at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from annotators.protocol import Annotation, Spec
    from annotators.runtime import Runtime
    from controlnet.evaluator.config import EvaluateConfig
    from controlnet.export import Exported
    from controlnet.trainer.config import TrainConfig
    from controlset.api import add, evaluate, export, generate, inspect, load, sample, train, verify
    from controlset.commands.sample import SampleConfig
    from controlset.results import Pictures, Rows, Scores, TrainedRun
    from pipeline.config import AddConfig, GenerateConfig
    from pipeline.inspection import Inspection
    from pipeline.verify.verify import VerifyReport
    from schemas.dataset import Dataset, Example
    from schemas.dataset import open_dataset as open
    from schemas.errors import ConfigError, NothingKept, Reason, Rejected

__version__ = "0.2.0"

# Where public names are defined: a name imports its module when it is asked for, and no other.
_PLACES = {
    "annotators.protocol": ["Annotation", "Spec"],
    "annotators.runtime": ["Runtime"],
    "controlnet.evaluator.config": ["EvaluateConfig"],
    "controlnet.export": ["Exported"],
    "controlnet.trainer.config": ["TrainConfig"],
    "controlset.api": [
        *("add", "evaluate", "export", "generate", "inspect", "load", "sample", "train", "verify")
    ],
    "controlset.commands.sample": ["SampleConfig"],
    "controlset.results": ["Pictures", "Rows", "Scores", "TrainedRun"],
    "pipeline.config": ["AddConfig", "GenerateConfig"],
    "pipeline.inspection": ["Inspection"],
    "pipeline.verify.verify": ["VerifyReport"],
    "schemas.dataset": ["Dataset", "Example", "open_dataset"],
    "schemas.errors": ["ConfigError", "NothingKept", "Reason", "Rejected"],
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}
# Called so here alone: inside of a module it would hide Python's own.
_MODULES["open"] = _MODULES.pop("open_dataset")

# Written out a second time, since type checkers and editors read a list and no dictionary.
__all__ = [
    "AddConfig",
    "Annotation",
    "ConfigError",
    "Dataset",
    "EvaluateConfig",
    "Example",
    "Exported",
    "GenerateConfig",
    "Inspection",
    "NothingKept",
    "Pictures",
    "Reason",
    "Rejected",
    "Rows",
    "Runtime",
    "SampleConfig",
    "Scores",
    "Spec",
    "TrainConfig",
    "TrainedRun",
    "VerifyReport",
    "__version__",
    "add",
    "evaluate",
    "export",
    "generate",
    "inspect",
    "load",
    "open",
    "sample",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'controlset' has no attribute {name!r}")
    attribute = "open_dataset" if name == "open" else name
    return getattr(importlib.import_module(_MODULES[name]), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
