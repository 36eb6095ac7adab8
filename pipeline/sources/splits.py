"""Splits that a source has by its names: train, validation and test, which nobody joins unsaid."""

import re
from collections.abc import Mapping

from pipeline.sources.spec import Selection, SourceKind, SourceSpec
from schemas.errors import ConfigError
from schemas.records import printable

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NAME = re.compile(rf"({'|'.join(_SPLITS)})(?:20\d\d)?", re.IGNORECASE)  # COCO has train2017
_FOLDERS = 2  # of a path: images/train and data/train are as usual as train


def split_of(relative: str, kind: SourceKind) -> str | None:
    """The split that a file's name tells.

    Args:
        relative: its path from the root of the source.
        kind: of pictures only the folders tell (`train.jpg` shows a train); of tars and Parquet
            also the file's name up to its first `-`, `_` or `.`.

    Returns:
        "train", "validation", "test", or None.
    """
    *folders, name = relative.split("/")
    parts = folders[:_FOLDERS]
    if kind is not SourceKind.IMAGES:
        parts = [re.split("[-_.]", name, maxsplit=1)[0], *parts]
    for part in parts:
        found = _NAME.fullmatch(part)
        if found is not None:
            return _SPLITS[found[1].lower()]
    return None


class Splits:
    """Sees to it that one split is taken, or all of them because somebody said so."""

    def __init__(self, spec: SourceSpec) -> None:
        """Those of one source; `spec.split` is --source-split."""
        self._spec = spec
        self._seen: dict[Selection, dict[str, str]] = {}  # split -> a file of it

    def takes(self, uri: str, selection: Selection) -> bool:
        """Whether a file of the source is to be read.

        Args:
            uri: of the file.
            selection: which it is of. Files of a brace list are chosen by being named.

        Raises:
            ConfigError: it is of another split than a file before it, and nobody chose.
        """
        choice = self._spec.split
        if choice == "all" or (choice == "auto" and selection.names is not None):
            return True
        relative = self._spec.relative(uri)
        split = split_of(relative, self._spec.kind)
        if choice != "auto":
            return split == choice
        seen = self._seen.setdefault(selection, {})
        if split is not None and split not in seen:
            seen[split] = relative
            if len(seen) > 1:
                raise _several(self._spec.root, seen)
        return True


def _several(root: str, seen: Mapping[str, str]) -> ConfigError:
    got = " and ".join(f"{split} ({printable(name)})" for split, name in sorted(seen.items()))
    choices = " or ".join(f"--source-split {split}" for split in sorted(seen))
    return ConfigError(
        f"{printable(root)}: need one split, got {got}; choose with {choices}, or join them with "
        "--source-split all"
    )
