"""Captions beside pictures: sidecar files, tar members and Hugging Face's metadata.jsonl."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.sources import files, names
from pipeline.sources.folder import Folder
from pipeline.sources.spec import SourceSpec
from schemas.errors import ConfigError, Reason, Rejected
from schemas.records import ImageRef, Place, Problem, printable

COLUMNS = ("text", "caption", "prompt")
"""Where a caption may stand in Parquet and metadata.jsonl, first one first."""

_SIDECAR_FIELDS = ("caption", "text", "prompt")
_MAX_SIDECAR_BYTES = 16 * 2**20  # a caption is not longer; the file is something else

Caption = tuple[str | None, Problem | None]


def bad(detail: str) -> Problem:
    """There is a caption, but it cannot be used."""
    return Problem(reason=Reason.BAD_CAPTION, detail=detail)


def sidecars(in_folder: Iterable[str]) -> dict[tuple[str, str], str]:
    """(stem, suffix in lower case) -> name, of all caption files among the names."""
    found: dict[tuple[str, str], str] = {}
    for name in in_folder:
        stem, suffix = names.split_suffix(name)
        if suffix in names.CAPTION_SUFFIXES:
            found.setdefault((stem, suffix), name)
    return found


def find_sidecar(found: Mapping[tuple[str, str], str], stem: str) -> str | None:
    """Name of the caption file for a stem: .txt, then .caption, then .json."""
    for suffix in names.CAPTION_SUFFIXES:
        if (stem, suffix) in found:
            return found[stem, suffix]
    return None


def clean(value: Any, *, where: str) -> Caption:
    """A caption from a value of JSON, CSV or Arrow.

    Args:
        value: a string; of a list of strings the first is taken (as COCO has several); None.
        where: what to call the value in the problem.

    Returns:
        Stripped text or None if empty; and BAD_CAPTION if the value is something else.
    """
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None:
        return None, None
    if not isinstance(value, str):
        return None, bad(f"{where}: need a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON may spell half a surrogate pair; Parquet cannot store it
        return None, bad(f"{where}: not valid Unicode")
    return value.strip() or None, None


def parse_sidecar(
    raw: bytes, *, is_json: bool, fields: tuple[str, ...] = _SIDECAR_FIELDS
) -> Caption:
    """Caption from the bytes of a sidecar file, tar member or metadata line.

    Args:
        raw: UTF-8, with or without a byte order mark.
        is_json: an object; else plain text.
        fields: of the object, first one that is there and not null.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return None, bad(f"caption file is not UTF-8: byte {error.start} is {raw[error.start]:#x}")
    if not is_json:
        return clean(text, where="caption file")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, bad(f"caption file is not JSON: {error}")
    if not isinstance(value, dict):
        return None, bad(f"caption file: need a JSON object, got {type(value).__name__}")
    return _field_of(value, fields)


def _field_of(value: Mapping[str, Any], fields: tuple[str, ...]) -> Caption:
    for field in fields:
        if value.get(field) is not None:
            return clean(value[field], where=f"field {field}")
    return None, None


def read_caption(ref: ImageRef, spec: SourceSpec) -> tuple[str | None, str | None, Problem | None]:
    """Caption of a file or tar member; never raises Rejected, because the image stays.

    Returns:
        Caption, where it comes from, and NO_CAPTION or BAD_CAPTION.
    """
    if spec.caption == "none":
        return None, None, None
    if spec.caption == "fixed":
        return spec.caption_text, "fixed", None
    caption, problem = _from_place(ref, spec)
    if caption is not None:
        return caption, "sidecar", None
    if problem is None and ref.caption is not None:
        return ref.caption, "metadata", None
    if problem is None and spec.caption != "auto":
        problem = Problem(reason=Reason.NO_CAPTION, detail=f"no caption in its {spec.caption}")
    return None, None, problem


def _from_place(ref: ImageRef, spec: SourceSpec) -> Caption:
    place = ref.caption_place
    if place is None:
        return None, None
    size_bytes = place.file_bytes if place.size_bytes is None else place.size_bytes
    if size_bytes is not None and size_bytes > _MAX_SIDECAR_BYTES:
        return None, bad(f"caption file has {size_bytes} bytes, more than {_MAX_SIDECAR_BYTES}")
    try:
        raw = files.read(place)
    except Rejected as rejected:
        return None, bad(f"caption file: {rejected.detail}")
    in_metadata = place.uri.endswith(names.METADATA_NAMES)
    fields = COLUMNS if in_metadata else _SIDECAR_FIELDS
    if spec.caption_column is not None:
        fields = (spec.caption_column,)
    return parse_sidecar(raw, is_json=ref.caption_is_json, fields=fields)


class MetadataTable:
    """Captions of one folder's metadata.jsonl or metadata.csv, by file name.

    A caption that cannot be used is kept as the place of its line, so that reading it again tells
    what is wrong; other lines are kept as text. A name that stands in two lines has the last one.
    """

    def __init__(self, folder: str) -> None:
        """Table without rows for the folder `folder` (relative)."""
        self.folder = folder
        self.captions: dict[str, str | Place] = {}

    def get(self, relative: str) -> str | Place | None:
        """Caption of the file `relative` (to the same root as the folder)."""
        inside = relative[len(self.folder) + 1 :] if self.folder else relative
        return self.captions.get(inside)


def load_metadata(folder: Folder, spec: SourceSpec) -> MetadataTable | None:
    """Captions of the folder's metadata.jsonl, else metadata.csv, if it has one.

    Raises:
        ConfigError: a line that cannot be tied to a file; so captions would be lost unseen.
    """
    for name in names.METADATA_NAMES:
        if name not in folder.names:
            continue
        found = folder.stat(name)
        if isinstance(found, Problem):
            raise ConfigError(f"{printable(folder.uri)}/{name}: cannot be read: {found.detail}")
        table = MetadataTable(folder.relative)
        try:
            raw = files.read(found.place)
        except Rejected as rejected:
            raise ConfigError(f"{printable(found.uri)}: {rejected.detail}; run again") from None
        fields = COLUMNS if spec.caption_column is None else (spec.caption_column,)
        load = _load_jsonl if name.endswith(".jsonl") else _load_csv
        load(table, raw, found.place, fields)
        return table
    return None


def _load_jsonl(table: MetadataTable, raw: bytes, place: Place, fields: tuple[str, ...]) -> None:
    start = 0
    for number, line in enumerate(io.BytesIO(raw), start=1):
        offset, start = start, start + len(line)
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8-sig"))
            name = value["file_name"]
            if not isinstance(name, str):
                raise TypeError(f"file_name is {name!r}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"{printable(place.uri)}, line {number}: need a JSON object with file_name, "
                f"got {line[:60]!r} ({type(error).__name__}: {error}); correct the line, "
                "or do without it: --caption sidecar or --caption none"
            ) from None
        caption, problem = _field_of(value, fields)
        if problem is not None:
            table.captions[name.removeprefix("./")] = Place(
                uri=place.uri,
                offset=offset,
                size_bytes=len(line),
                file_bytes=place.file_bytes,
                modified_s=place.modified_s,
            )
        elif caption is not None:
            table.captions[name.removeprefix("./")] = caption


def _load_csv(table: MetadataTable, raw: bytes, place: Place, fields: tuple[str, ...]) -> None:
    try:
        rows = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
        if "file_name" not in (rows.fieldnames or ()):
            return  # some other table that happens to have this name
        for row in rows:
            caption, _ = _field_of(row, fields)
            if caption is None:
                continue
            if not row["file_name"]:
                raise csv.Error(f"no file_name in line {rows.line_num}")
            table.captions[row["file_name"].removeprefix("./")] = caption
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{printable(place.uri)}: need a CSV table in UTF-8, got {error}; correct it, "
            "or do without it: --caption sidecar or --caption none"
        ) from None
