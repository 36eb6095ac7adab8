"""Rows that a run is told to leave out, by key."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from controlnet.trainer.index import Index
from schemas.errors import ConfigError


def read_keys(path: str) -> frozenset[str]:
    """Keys of a text file, one a line; empty lines do not count.

    Raises:
        ConfigError: it cannot be read, or names no key.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--exclude-keys {path}: need a text file, got {error}") from error
    keys = frozenset(line.strip() for line in lines if line.strip())
    if not keys:
        raise ConfigError(f"--exclude-keys {path}: need one key a line, got none")
    return keys


def without(index: Index, keys: frozenset[str], *, where: str) -> Index:
    """The index without some rows.

    Args:
        index: of the rows to train on.
        keys: of the rows that go.
        where: who names them, for the error.

    Raises:
        ConfigError: no such row, or none is left.
    """
    named = np.array(sorted(key.encode() for key in keys))
    unknown = np.setdiff1d(named, index.keys)
    if len(unknown):
        raise ConfigError(
            f"{where}: need keys of rows that would be trained on, got {unknown[0].decode()} and "
            f"{len(unknown) - 1} others that are not among the {len(index)} of {index.path}"
        )
    kept = ~np.isin(index.keys, named)
    if not kept.any():
        raise ConfigError(f"{where}: need rows that stay, got the keys of all {len(index)} rows")
    names = ("keys", "widths", "heights", "file_numbers", "row_groups", "rows_in_group")
    return dataclasses.replace(index, **{name: getattr(index, name)[kept] for name in names})


def digest_of_keys(keys: frozenset[str]) -> str:
    """Sixteen hexadecimal digits that stand for a set of keys."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]
