"""The folder of an evaluation: whose pictures lie in it, and whether they may be taken up again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.documents import read_checked, with_digest
from schemas.errors import ConfigError
from schemas.writing import clear_temporary, write_json

IDENTITY, RESULT = ".identity.json", "evaluation.json"


def claim_folder(folder: Path, identity: Mapping[str, Any]) -> None:
    """Take a folder for this evaluation, or go on with what it began.

    Args:
        folder: of the evaluation; it is there, and nobody else writes to it.
        identity: everything that decides about a pixel or a score.

    Raises:
        ConfigError: it holds something else, or another evaluation; says what differs.
    """
    clear_temporary(folder)
    place = folder / IDENTITY
    now = with_digest(identity)
    if place.exists():
        before = read_checked(place, dict, advice="take another --output")
        changed = sorted(
            f"{name} {before.get(name)!r} -> {now.get(name)!r}"
            for name in before.keys() | now.keys()
            if before.get(name) != now.get(name) and name != "sha256"
        )
        if changed:
            raise ConfigError(
                f"{folder}: holds another evaluation ({'; '.join(changed)[:400]}); take another "
                "--output"
            )
        return
    if any(True for _ in folder.iterdir()):
        raise ConfigError(
            f"{folder}: need an empty folder or an evaluation, got something else; take another "
            "--output"
        )
    write_json(place, now)
