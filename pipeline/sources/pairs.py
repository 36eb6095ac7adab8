"""Condition images that a source brings along: where each picture's own one lies.

A file that is somebody's condition image is no picture of the source.
"""

import dataclasses
import os
import posixpath
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.sources import files, names
from schemas.errors import ConfigError, Reason, Rejected
from schemas.ledger import Unused
from schemas.records import ImageRef, Place, as_utf8

if TYPE_CHECKING:
    from pipeline.sources.spec import Notes, SourceSpec

TABLES = {"prompt.json": "target", "metadata.jsonl": "file_name"}
"""Table -> its field that names the picture. The first one is that of ControlNet's tutorial."""


def check_pairings(spec: "SourceSpec") -> None:
    """Refuse what this source cannot have.

    Raises:
        ConfigError: templates for Parquet, columns for tars, a column without a table, or a table
            that pairs pictures with condition images that nobody asked for.
    """
    if spec.kind == "images":
        tables = _Tables(spec)
        for pairing in spec.pairings:
            if pairing.column is not None and not tables.has(pairing.column):
                raise ConfigError(
                    f"{pairing.option}: need a field "
                    f"{pairing.column} in {' or '.join(TABLES)} of the source, found none"
                )
        if not spec.pairings and tables.pairs:
            raise ConfigError(
                f"{as_utf8(tables.pairs)}: it pairs pictures (target) with condition images "
                "(source); import them with --import-condition NAME=column:source, or name the "
                "folder of the pictures alone as the source"
            )
        return
    for pairing in spec.pairings:
        is_of_tar = spec.kind == "tar"
        if (pairing.column is None) != is_of_tar:
            form = "{key}.png, a member of the same tar" if is_of_tar else "column:COLUMN"
            need = f"{pairing.condition}={form}"
            raise ConfigError(f"{pairing.option}: need {need}, got a source of {spec.kind}")


class Pairs:
    """Gives the references of a listing their condition images."""

    def __init__(self, spec: "SourceSpec", notes: "Notes") -> None:
        """Pairs of a source of images; `notes` gets the captions that nobody carries."""
        self._spec = spec
        self._notes = notes
        self._tables = _Tables(spec)
        self._idle = not spec.pairings and not self._tables.rows
        self._takes_prompts = spec.caption in {"auto", "metadata"}

    def is_table(self, folder: str, name: str) -> bool:
        """Whether a file is a table of pairs, and so no picture's caption."""
        return f"{folder}/{name}" in self._tables.uris

    def paired(self, ref: ImageRef) -> ImageRef | None:
        """The reference with its maps and its line's caption; None: it is a map itself."""
        if self._idle or ref.problem is not None:
            return ref
        relative = self._spec.relative(ref.place.uri)
        # What is left at the end names no picture.
        row = self._tables.rows.pop(relative, None)
        if row is None and self._is_map(relative):
            return None
        maps = tuple(self._maps_of(relative, row))
        ref = dataclasses.replace(ref, maps=maps)
        text = None if row is None else row.get("prompt")
        return ref if text is None else self._with_prompt(ref, text.strip())

    def finish(self) -> None:
        """Count prompts of lines that name no picture, and of lines that came twice."""
        for relative, row in self._tables.rows.items():
            if "prompt" in row:
                self._notes.leave(Unused.LINE_UNMATCHED, relative)
        for relative in self._tables.repeated:
            self._notes.leave(Unused.LINE_REPEATED, relative)

    def _with_prompt(self, ref: ImageRef, prompt: str) -> ImageRef:
        reason = None
        if not self._takes_prompts:
            reason = Unused.NOT_ASKED_FOR
        elif not prompt:
            reason = Unused.EMPTY
        elif ref.caption is not None or ref.caption_problem is not None:
            reason = Unused.OTHER_PREFERRED
        if reason is None:
            return dataclasses.replace(ref, caption=prompt)
        self._notes.leave(reason, ref.source)
        return ref

    def _is_map(self, relative: str) -> bool:
        for pairing in self._spec.pairings:
            if pairing.column is None:
                if pairing.is_map(relative):
                    return True
            elif relative in self._tables.named_by(pairing.column):
                return True
        return False

    def _maps_of(
        self, relative: str, row: Mapping[str, Any] | None
    ) -> Iterator[tuple[str, Place | None]]:
        for pairing in self._spec.pairings:
            if pairing.column is None:
                path = pairing.path_of(relative)
            else:
                named = None if row is None else row.get(pairing.column)
                if named is None:
                    yield pairing.condition, None
                    continue
                path = named
            yield pairing.condition, place_of(posixpath.join(self._spec.root, path))


def read_maps(ref: ImageRef, spec: "SourceSpec") -> dict[str, bytes | Rejected]:
    """The bytes of a picture's condition images; never raises Rejected, because the image stays."""
    found: dict[str, bytes | Rejected] = {}
    for condition, place in ref.maps:
        try:
            if place is None:
                raise Rejected(Reason.MAP_MISSING, _why_none(ref, condition, spec))
            found[condition] = files.read(place)
        except Rejected as rejected:
            reason, detail = rejected.reason, rejected.detail
            if reason is Reason.SOURCE_MISSING and place is not None:
                reason = Reason.MAP_MISSING
                detail = f"need the file {as_utf8(spec.relative_or_whole(place.uri))}"
            found[condition] = Rejected(reason, detail)
    return found


def _why_none(ref: ImageRef, condition: str, spec: "SourceSpec") -> str:
    if spec.kind != "tar":
        return "no line of the table names one"
    pairing = next(pairing for pairing in spec.pairings if pairing.condition == condition)
    member = pairing.path_of(ref.source.removeprefix(f"{ref.group}/"))
    return f"need a whole member {member} in its tar"


def place_of(uri: str) -> Place:
    """A file as it is now; without size and time where it is not there, or not on this disk."""
    if files.is_remote(uri):
        return Place(uri=uri)
    try:
        status = os.stat(uri)
    except (OSError, ValueError):
        return Place(uri=uri)
    return Place(uri=uri, file_bytes=status.st_size, modified_s=status.st_mtime)


class _Tables:
    """Lines of the tables that lie in the selected folders themselves, by their pictures."""

    def __init__(self, spec: "SourceSpec") -> None:
        self.rows: dict[str, dict[str, str]] = {}
        self.uris: set[str] = set()
        self.repeated: list[str] = []
        self.pairs: str | None = None  # a table that names pictures and condition images
        self._named: dict[str, set[str]] = {}
        columns = {pairing.column for pairing in spec.pairings if pairing.column is not None}
        for selection in spec.selections:
            for table, picture in TABLES.items():
                uri = f"{selection.base}/{table}"
                is_theirs = table == "prompt.json"
                # ControlNet's own also unasked: else its condition images pass for pictures.
                if (is_theirs or columns) and uri in files.existing([uri]):
                    self._load(uri, picture, columns | ({"source"} if is_theirs else set()), spec)

    def has(self, column: str) -> bool:
        return bool(self._named.get(column))

    def named_by(self, column: str) -> set[str]:
        """Files that the field names, relative to the root."""
        return self._named.get(column, set())

    def _load(self, uri: str, picture: str, columns: set[str], spec: "SourceSpec") -> None:
        try:
            raw = files.read(Place(uri=uri))
        except Rejected as rejected:
            raise ConfigError(f"{as_utf8(uri)}: {rejected.detail}; run again") from None
        folder = spec.relative(posixpath.dirname(uri))
        for number, line in enumerate(raw.splitlines(), start=1):
            if not line.strip():
                continue
            is_first = number == 1 and picture == "target"
            row = _line_of(line, None if is_first else f"{as_utf8(uri)}, line {number}")
            if picture not in row:
                if is_first:
                    return  # another file of this name, e.g. one picture's caption
                continue
            kept = {name: row[name] for name in columns if isinstance(row.get(name), str)}
            kept = {
                name: posixpath.normpath(names.join(folder, path)) for name, path in kept.items()
            }
            for name, path in kept.items():
                self._named.setdefault(name, set()).add(path)
            if picture == "target":
                if isinstance(row.get("prompt"), str):
                    kept["prompt"] = row["prompt"]
                self.pairs = uri if "source" in kept else self.pairs
            relative = posixpath.normpath(names.join(folder, row[picture]))
            if "prompt" in self.rows.get(relative, {}):
                self.repeated.append(relative)
            self.rows[relative] = kept
            if picture == "target":
                self.uris.add(uri)


def _line_of(line: bytes, where: str | None) -> dict[str, str]:
    """A line's texts; none where it is something else and nobody (`where`) may be told."""
    try:
        row = msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        if where is None:
            return {}
        raise ConfigError(
            f"{where}: need a JSON object, got {line[:60]!r} ({error}); correct the line"
        ) from None
    return {name: value for name, value in row.items() if isinstance(value, str)}
