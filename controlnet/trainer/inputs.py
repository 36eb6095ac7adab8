"""Whether what a training run is given is there: data, condition, base; light to import."""

from pathlib import Path

from controlnet import nano
from controlnet.trainer.config import TrainConfig
from schemas.dataset import open_dataset
from schemas.errors import ConfigError, first_line
from schemas.files import is_temporary, writing

# Of every family; the second text encoder of SDXL is looked for when the base is loaded.
_PARTS = ("unet", "vae", "scheduler", "tokenizer", "text_encoder")


def check_inputs(config: TrainConfig) -> dict[str, object]:
    """Refuse what would be refused later, without a network being loaded or a file written.

    Args:
        config: of the run.

    Returns:
        What would be trained: rows, rows that are looked at, and the base.

    Raises:
        ConfigError: no such data set, condition, rows to look at, or base.
    """
    data = open_dataset(config.data, split="train")
    if config.condition not in data.conditions:
        raise ConfigError(
            f"{config.data}: need the condition {config.condition!r}, got shards with "
            f"{', '.join(data.conditions) or 'none'}; name one of these or run "
            f"`controlset add {config.data} --conditions {config.condition}`"
        )
    rows = data.manifest.rows_of_splits
    # Told now: the first probe would find none, after the base was loaded.
    if config.probe_every and not rows.get("validation"):
        raise ConfigError(
            f"{config.data}: need validation rows to see whether control works, found none; "
            "generate with --validation 0.02, or train blindly with --probe-every 0"
        )
    return {
        "rows": rows.get("train", 0),
        "validation_rows": rows.get("validation", 0),
        "base": _found_base(config),
    }


def need_output(config: TrainConfig) -> bool:
    """Refuse an output that holds something else than a run, or a run that is not asked for.

    Returns:
        Whether a run stands there; it is to go on.

    Raises:
        ConfigError: says what stands there, or that there is nothing to resume.
        OutputError: it cannot be looked at.
    """
    folder = Path(config.output)
    if not _holds_something(folder):
        if config.resume:
            raise ConfigError(
                f"{folder}: need a run to resume, found none; leave --resume out to start one"
            )
        return False
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder}: need an empty folder or a run, got something else; take another --output"
        )
    if not config.resume:
        raise ConfigError(
            f"{folder}: holds a run already; go on with --resume, or take another --output"
        )
    return True


def _holds_something(folder: Path) -> bool:
    """Whether more stands there than what a run leaves that was killed before its first file."""
    with writing(folder):  # a folder that may not be looked at is no empty one
        if not folder.exists():
            return False
        return folder.is_file() or any(not is_temporary(path.name) for path in folder.iterdir())


def _found_base(config: TrainConfig) -> str:
    """Where the base lies, or that it would be downloaded."""
    if config.base == nano.NAME:
        return "bundled"
    folder = Path(config.base)
    if folder.exists():
        absent = [part for part in _PARTS if not (folder / part).is_dir()]
        if absent:
            raise ConfigError(
                f"--base {config.base}: need a model in diffusers' folder format, found no usable "
                f"{absent[0]}/; give its folder or its name on the hub"
            )
        return str(folder.resolve())
    # One small file says whether the name can be reached; nothing larger is fetched yet.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        config_file = hf_hub_download(
            config.base, "unet/config.json", local_files_only=config.offline
        )
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ConfigError(
            f"--base {config.base}: need a folder, or a name on the hub that can be reached, got "
            f"{first_line(error)}"
        ) from error
    return str(Path(config_file).parents[1])
