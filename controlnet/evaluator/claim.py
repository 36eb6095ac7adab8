"""The folder of an evaluation: whose pictures lie in it, and whether they may be taken up again."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError

IDENTITY, RESULT = ".identity.json", "evaluation.json"


def claim_folder(folder: Path, identity: Mapping[str, Any]) -> None:
    """Take a folder for this evaluation, or go on with what it began.

    Args:
        folder: of the evaluation.
        identity: everything that decides about a pixel or a score.

    Raises:
        ConfigError: it holds something else, or another evaluation; says what differs.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output: need a folder to write to, got {error}") from error
    place = folder / IDENTITY
    now = json.loads(json.dumps(identity))
    if place.is_file():
        before = json.loads(place.read_text())
        changed = sorted(
            f"{name} {before.get(name)!r} -> {now.get(name)!r}"
            for name in before.keys() | now.keys()
            if before.get(name) != now.get(name)
        )
        if changed:
            raise ConfigError(
                f"{folder}: holds another evaluation ({'; '.join(changed)[:400]}); take another "
                "--output"
            )
        return
    if any(path.name != f"{IDENTITY}.tmp" for path in folder.iterdir()):
        raise ConfigError(
            f"{folder}: need an empty folder or an evaluation, got something else; take another "
            "--output"
        )
    temporary = place.with_name(f"{IDENTITY}.tmp")
    temporary.write_text(json.dumps(now, indent=1) + "\n")
    os.replace(temporary, place)
