"""What `--import-condition` says: which condition images belong to which pictures.

`NAME=source/{name}.png`          files, by the picture's name; relative to the source's root
`NAME={key}.scribble.png`         in tars: members of the same tar, here of the same sample
`NAME=column:conditioning_image`  a Parquet column, or a field of prompt.json or metadata.jsonl
"""

import dataclasses
import functools
import posixpath
import re
from collections.abc import Sequence

from pipeline.sources import names
from schemas.errors import ConfigError

_COLUMN = "column:"
_FIELD = re.compile(r"\{(\w*)\}")
_FIELDS = {"name": "[^/]+", "stem": ".+", "key": "(?:[^/]+/)*[^/.]*", "folder": ".*"}
_NAMING = {"name", "stem", "key"}  # one of them tells pictures apart
_OURS = {"image", "text", "key", "source", "sha256", "caption_source", "width", "height"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """Where the condition images of one condition lie; picklable."""

    condition: str
    where: str  # as it was asked for

    @property
    def column(self) -> str | None:
        """Column or field that holds or names them; None: they are files."""
        return self.where.removeprefix(_COLUMN) if self.where.startswith(_COLUMN) else None

    def path_of(self, relative: str) -> str:
        """The condition image's path for a picture; both relative to the root, or to their tar."""
        stem = names.split_suffix(relative)[0]
        folder, name = posixpath.split(stem)
        key = names.join(folder, name.partition(".")[0])
        values = {"name": name, "stem": stem, "key": key, "folder": folder or "."}
        filled = _FIELD.sub(lambda match: values[match[1]], self.where)
        return posixpath.normpath(filled)

    def is_map(self, relative: str) -> bool:
        """Whether a file has the name of a condition image."""
        return _regex_of(self.where).fullmatch(relative) is not None


@functools.cache
def _regex_of(template: str) -> re.Pattern[str]:
    regex = ""
    parts = _FIELD.split(posixpath.normpath(template))
    for number, part in enumerate(parts):
        regex += _FIELDS[part] if number % 2 else re.escape(part)
    # {folder} is "" at the root, and then no slash follows.
    return re.compile(regex.replace(".*/", "(?:.*/)?"), re.DOTALL)


def parse_pairings(asked: Sequence[str], conditions: Sequence[str]) -> tuple[Pairing, ...]:
    """What `--import-condition` says.

    Args:
        asked: `NAME=WHERE` each.
        conditions: names that annotators draw, which are taken.

    Raises:
        ConfigError: another form, a name that is taken, or a template that is the same file for
            every picture.
    """
    found: list[Pairing] = []
    taken = set(conditions)
    for one in asked:
        name, _, where = one.partition("=")
        option = f"--import-condition {one}"
        if not re.fullmatch("[a-z][a-z0-9_]{0,62}", name) or not where or where == _COLUMN:
            raise ConfigError(
                f"{option}: need NAME=TEMPLATE or NAME=column:COLUMN, NAME of small letters, "
                "digits and _; e.g. scribble=source/{name}.png"
            )
        if name in taken or name in _OURS:
            raise ConfigError(f"{option}: need a name of its own, got {name}, which is taken")
        fields = _FIELD.findall(where)
        strange = [field for field in fields if field not in _FIELDS]
        if not where.startswith(_COLUMN) and (strange or not _NAMING & {*fields}):
            raise ConfigError(
                f"{option}: need a template with {{name}} (file name without suffix), {{stem}} "
                "(its whole path without suffix) or {key} (the path to the first dot of the name), "
                f"and perhaps {{folder}}, got {where!r}"
            )
        taken.add(name)
        found.append(Pairing(condition=name, where=where))
    return tuple(found)
