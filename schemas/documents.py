"""JSON from outside: read once, with its types checked; what does not fit is one line of error.

Everything that this project reads back (manifests, records, states, results) may come from a
stranger, or from a disk that lost a part of it. Whoever reads it says with a type what it must be.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from types import GenericAlias
from typing import Any, TypeVar

import msgspec

from schemas.errors import ConfigError
from schemas.files import open_plain

T = TypeVar("T")

_DIGEST = "sha256"
MAX_DOCUMENT_BYTES = 256 * 1000 * 1000
"""A manifest of 10^8 images in 10^5 shards takes 50 MB; what is larger is not one of ours."""


def parse_json(
    raw: bytes | str, kind: type[T] | GenericAlias, *, where: str, advice: str = ""
) -> T:
    """A JSON document as the type that it must have.

    Args:
        raw: the document; UTF-8.
        kind: dataclass, `dict[str, float]` and the like; NaN and infinity are no JSON.
        where: its place, for the error.
        advice: what to do if it is not one, for the error.

    Raises:
        ConfigError: not JSON, or of another form; it says where in the document.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError, TypeError) as error:
        # ValueError and TypeError are what a record's own __post_init__ refuses with.
        raise misfit(where, error, advice) from error


def as_record(
    value: Mapping[str, Any], kind: type[T] | GenericAlias, *, where: str, advice: str = ""
) -> T:
    """A mapping that was parsed already (a part of a document, a footer) as a record.

    Args:
        value: of plain JSON values.
        kind: as in `parse_json`.
        where: its place, for the error.
        advice: what to do if it does not fit, for the error.

    Raises:
        ConfigError: of another form.
    """
    try:
        return msgspec.convert(value, kind)
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError) as error:
        raise misfit(where, error, advice) from error


def read_json(path: str | os.PathLike[str], kind: type[T] | GenericAlias, *, advice: str = "") -> T:
    """A JSON file as the type that it must have; see `parse_json`.

    Raises:
        ConfigError: not there, not to be read, too large, not JSON, or of another form.
    """
    try:
        with open_plain(path) as opened:
            size = os.fstat(opened.fileno()).st_size
            raw = b"" if size > MAX_DOCUMENT_BYTES else opened.read()
    except OSError as error:
        raise misfit(str(path), error.strerror or error, advice) from error
    if size > MAX_DOCUMENT_BYTES:
        raise misfit(str(path), f"{size} bytes, more than {MAX_DOCUMENT_BYTES}", advice)
    return parse_json(raw, kind, where=str(path), advice=advice)


def with_digest(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document that says what it holds, so that a later change of it is seen.

    Args:
        document: JSON can hold it; no NaN, no infinity.

    Returns:
        As JSON has it (texts as names, lists for tuples), with `sha256` of everything else.
    """
    plain = json.loads(json.dumps(document, allow_nan=False))
    return {**plain, _DIGEST: digest_of(plain)}


def digest_of(document: Mapping[str, Any]) -> str:
    """sha256 of what a document says; order and layout do not count.

    Args:
        document: plain JSON; its own `sha256` is left out.
    """
    said = {name: value for name, value in document.items() if name != _DIGEST}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def check_digest(document: Mapping[str, Any], *, where: str, advice: str = "") -> None:
    """Refuse a document that was changed since it was written.

    Args:
        document: as it was read; one without a digest (of an older release) is taken as it is.
        where: its place, for the error.
        advice: what to do, for the error.

    Raises:
        ConfigError: its digest is not that of the rest.
    """
    if _DIGEST in document and document[_DIGEST] != digest_of(document):
        raise misfit(where, "one that was changed since it was written (sha256 differs)", advice)


def read_checked(path: str | os.PathLike[str], kind: type[T], *, advice: str = "") -> T:
    """A JSON object from a file as a record, its digest checked; see `with_digest`.

    Raises:
        ConfigError: as `read_json` and `check_digest`.
    """
    document: dict[str, Any] = read_json(path, dict, advice=advice)
    check_digest(document, where=str(path), advice=advice)
    return as_record(document, kind, where=str(path), advice=advice)


def misfit(where: str, found: object, advice: str) -> ConfigError:
    """The error of a document that is not what it should be."""
    first = (str(found).splitlines() or [""])[0][:300]
    return ConfigError(
        f"{where}: need a document of controlset, got {first}{advice and '; '}{advice}"
    )
