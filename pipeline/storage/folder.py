"""What a walk through folders yields."""

import dataclasses
from collections.abc import Callable

from schemas.records import Place, Problem


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FileStat:
    """A regular file."""

    uri: str
    size_bytes: int
    modified_s: float | None

    @property
    def place(self) -> Place:
        """The whole file."""
        return Place(uri=self.uri, file_bytes=self.size_bytes, modified_s=self.modified_s)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """One folder of a walk."""

    relative: str  # to the selection's base
    uri: str
    names: list[str]  # of everything but folders, sorted
    folders: list[str]  # names, sorted
    stat: Callable[[str], FileStat | Problem]
    problem: Problem | None = None  # the folder itself cannot be listed
    hidden: tuple[str, ...] = ()  # names of hidden files and folders
    ours: bool = False  # a data set of controlset: nothing in it is read, its names are not here
    seen: bool = False  # a link to a folder that is walked on another way: names are not here
