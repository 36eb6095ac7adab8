"""Which weights annotators need, where they lie, and under which licence. The only downloader.

A folder of the user's comes first (`--weights DIR` or CONTROLSET_WEIGHTS), then the hub's cache,
then, unless `--offline`, the hub itself.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from annotators.runtime import Runtime
from schemas.errors import ConfigError

# What a transformers model needs: no pickles, no other framework's weights.
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


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


_ANNOTATORS = "lllyasviel/Annotators"

HED = Weights(
    hub_id=_ANNOTATORS,
    file="ControlNetHED.pth",
    licence="Apache-2.0",
    size_mb=29,
)
PIDINET = Weights(
    hub_id=_ANNOTATORS,
    file="table5_pidinet.pth",
    licence="research only; commercial use on request to the authors of PiDiNet",
    size_mb=3,
    sha256="80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c",
)
LINEART = Weights(hub_id=_ANNOTATORS, file="sk_model.pth", licence="MIT", size_mb=17)
LINEART_COARSE = Weights(hub_id=_ANNOTATORS, file="sk_model2.pth", licence="MIT", size_mb=17)
LINEART_ANIME = Weights(hub_id=_ANNOTATORS, file="netG.pth", licence="MIT", size_mb=218)
MLSD = Weights(hub_id=_ANNOTATORS, file="mlsd_large_512_fp32.pth", licence="Apache-2.0", size_mb=6)
NORMAL = Weights(
    hub_id=_ANNOTATORS,
    file="scannet.pt",
    licence="MIT; trained on ScanNet, whose terms are non-commercial",
    size_mb=291,
)
MIDAS = Weights(hub_id=_ANNOTATORS, file="dpt_hybrid-midas-501f0c75.pt", licence="MIT", size_mb=493)
_CMU = "CMU OpenPose: non-commercial use only"
OPENPOSE_BODY = Weights(hub_id=_ANNOTATORS, file="body_pose_model.pth", licence=_CMU, size_mb=209)
OPENPOSE_HAND = Weights(hub_id=_ANNOTATORS, file="hand_pose_model.pth", licence=_CMU, size_mb=147)
OPENPOSE_FACE = Weights(hub_id=_ANNOTATORS, file="facenet.pth", licence=_CMU, size_mb=154)

# Licences of transformers models that we name as defaults or in the README.
_MODEL_LICENCES = {
    "Intel/dpt-hybrid-midas": "Apache-2.0",
    "Intel/dpt-large": "Apache-2.0",
    "depth-anything/Depth-Anything-V2-Small-hf": "Apache-2.0",
    "depth-anything/Depth-Anything-V2-Base-hf": "CC-BY-NC-4.0",
    "depth-anything/Depth-Anything-V2-Large-hf": "CC-BY-NC-4.0",
    "openmmlab/upernet-convnext-small": "MIT",
    "Salesforce/blip-image-captioning-base": "BSD-3-Clause",
    "Salesforce/blip-image-captioning-large": "BSD-3-Clause",
    "Salesforce/blip2-opt-2.7b": "MIT",
    "florence-community/Florence-2-base": "MIT",
    "usyd-community/vitpose-base-simple": "Apache-2.0",
    "PekingU/rtdetr_r50vd_coco_o365": "Apache-2.0",
}


def model(hub_id: str) -> Weights:
    """A transformers model, by its name on the hub or the path of its folder."""
    licence = _MODEL_LICENCES.get(hub_id, "see the model's card")
    return Weights(hub_id=hub_id, licence=licence)


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
    """The error for weights that are nowhere to be found."""
    named = "; ".join(
        f"{one.title}, {f'about {one.size_mb} MB, ' if one.size_mb else ''}licence: {one.licence}"
        for one in wanted
    )
    places = [f"the folder {runtime.weights}"] if runtime.weights else []
    places.append("the hub's cache")
    advice = "run `controlset weights fetch` where there is a network, or say --weights DIR"
    if runtime.offline:
        advice += ", or leave out --offline"
    return ConfigError(f"weights: need {named}; found none in {' or '.join(places)}; {advice}")


def _here(weights: Weights, runtime: Runtime) -> Path | None:
    for place in _places(weights, runtime):
        if place.is_file() if weights.file else (place / "config.json").is_file():
            return place
    return _in_cache(weights)


def _places(weights: Weights, runtime: Runtime) -> Iterator[Path]:
    """Where a user may have put them: flat, or in a folder of the repository's name."""
    if weights.file is None:
        yield Path(weights.hub_id)
    if runtime.weights is None:
        return
    folder = Path(runtime.weights)
    repositories = [folder / weights.hub_id, folder / weights.hub_id.replace("/", "--")]
    if weights.file is None:
        yield from repositories
        yield folder / weights.hub_id.rsplit("/", 1)[-1]
    else:
        yield folder / weights.file
        yield from (repository / weights.file for repository in repositories)


def _in_cache(weights: Weights) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    wanted = weights.file or "config.json"
    try:
        found = Path(hf_hub_download(weights.hub_id, wanted, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return found if weights.file else found.parent


def fetch(weights: Weights, runtime: Runtime) -> Path:
    """Where weights lie, downloaded with a progress bar if they are not here yet.

    Args:
        weights: which.
        runtime: downloads go to its folder if it has one, else to the hub's cache.

    Raises:
        ConfigError: not here, and `--offline` or the hub cannot be reached; or the released file
            arrived damaged.
    """
    found = _here(weights, runtime)
    if found is not None:
        return found
    if runtime.offline:
        raise missing([weights], runtime)
    path = _download(weights, runtime)
    if weights.sha256 is not None and _sha256(path) != weights.sha256:
        raise ConfigError(
            f"weights: need {weights.title} with sha256 {weights.sha256[:16]}…, got "
            f"{_sha256(path)[:16]}…; delete {path} and fetch again"
        )
    return path


def _download(weights: Weights, runtime: Runtime) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,  # type: ignore[reportPrivateImportUsage]  # its client's name changed twice
    )

    into = None
    if runtime.weights is not None:
        into = Path(runtime.weights) / weights.hub_id.replace("/", "--")
    try:
        if weights.file is not None:
            return Path(str(hf_hub_download(weights.hub_id, weights.file, local_dir=into)))
        patterns: list[str] = list(MODEL_FILES)
        return Path(snapshot_download(weights.hub_id, allow_patterns=patterns, local_dir=into))
    except (OSError, HFValidationError, HTTPError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{missing([weights], runtime)} (the hub: {reason})") from error


def record_of_weights(weights: Weights, runtime: Runtime) -> WeightsRecord:
    """What was found, with its hash; reads the whole file."""
    path = locate(weights, runtime)
    return WeightsRecord(
        source=weights.hub_id,
        file=weights.file,
        sha256=_sha256(path) if weights.file else _sha256_of_model(path),
        licence=weights.licence,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_model(folder: Path) -> str:
    """Over names and hashes of the files that a model is loaded from."""
    files = sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)})
    hashes = {file.name: _sha256(file) for file in files}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def load_state(path: Path) -> dict[str, Any]:
    """Tensors of a `.pth` or `.safetensors` file, on the CPU.

    Raises:
        ConfigError: damaged, or a pickle that holds more than tensors; that is never executed.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError, OSError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ConfigError(
            f"{path}: need a file of tensors alone, got {reason}; fetch the weights again"
        ) from error
