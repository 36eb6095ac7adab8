"""The Hugging Face hub: its cache on this machine, and downloads. Nobody else goes there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a transformers model needs: no pickles, no other framework's weights.
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


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
