"""From references to bytes: the same call for files, tar members and Parquet rows."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.sources import captions, files
from pipeline.sources.listing import list_source
from pipeline.sources.pairs import read_maps
from pipeline.sources.spec import Container, Notes, RawImage, SourceKind, SourceSpec
from schemas.errors import Rejected
from schemas.records import ImageRef, Place


def index_container(
    container: Container, spec: SourceSpec, notes: Notes | None = None
) -> Iterator[ImageRef]:
    """References to the pictures of one tar or Parquet file; reads headers, never pixels.

    Yields:
        One for each picture, in the file's order; damage is a reference with a `problem`.
    """
    notes = Notes() if notes is None else notes
    if spec.kind is SourceKind.TAR:
        from pipeline.sources.tar import index_tar

        yield from index_tar(container, spec, notes)
    else:
        from pipeline.sources.parquet import index_parquet

        yield from index_parquet(container, spec, notes)


def all_refs(spec: SourceSpec, notes: Notes | None = None) -> Iterator[ImageRef]:
    """Everything that `list_source` and `index_container` find, in this process."""
    return itertools.chain.from_iterable(
        index_container(listed, spec, notes) if isinstance(listed, Container) else [listed]
        for listed in list_source(spec, notes)
    )


def first_refs(spec: SourceSpec, count: int, notes: Notes | None = None) -> Iterator[ImageRef]:
    """The first references of a source that have no problem; for a look before a run."""
    refs = (ref for ref in all_refs(spec, notes) if ref.problem is None)
    yield from itertools.islice(refs, count)


def iter_reads(
    refs: Sequence[ImageRef], spec: SourceSpec
) -> Iterator[tuple[ImageRef, Callable[[], RawImage]]]:
    """A way to the bytes of each reference, in their order.

    Args:
        refs: without those that have a `problem`.
        spec: from `resolve_source`.

    Yields:
        The reference and a callable. Files and tar members: the callable opens and reads; any
        thread may call it. Parquet: a few rows are read as the iteration goes, the callable only
        returns its row.

    Raises:
        Rejected: from the callable: SOURCE_MISSING, SOURCE_CHANGED, SOURCE_UNREADABLE, NULL_IMAGE,
            BROKEN_CONTAINER.
        OSError: an outage; worth another try.
    """
    if spec.kind is SourceKind.PARQUET:
        from pipeline.sources.parquet import read_rows

        yield from read_rows(refs, spec)
    else:
        yield from ((ref, functools.partial(_read_image, ref, spec)) for ref in refs)


def _read_image(ref: ImageRef, spec: SourceSpec) -> RawImage:
    image = RawImage(raw=files.read(ref.place), **captions.read_caption(ref, spec)._asdict())
    if ref.maps:
        image = dataclasses.replace(image, maps=read_maps(ref, spec))
    return dataclasses.replace(image, values=_kept_values(ref, spec)) if spec.keep else image


# What a source says besides captions -----------------------------------------------------------

_MAX_RECORD_BYTES = 16 * 2**20  # a picture's JSON is not larger; the file is something else


def read_fields(ref: ImageRef) -> Mapping[str, Any]:
    """Everything that a reference to a file or tar member says; its own JSON before a table.

    Raises:
        ValueError: its JSON cannot be read.
    """
    fields = _in_table(ref)
    return fields if ref.record is None else {**fields, **_in_file(ref.record)}


def _kept_values(ref: ImageRef, spec: SourceSpec) -> dict[str, Any]:
    """Column that is kept -> its value as it stood there, or a ValueError that says why not."""
    try:
        fields = read_fields(ref)
    except ValueError as error:
        fields = {**dict.fromkeys(spec.keep, error), **_in_table(ref)}
    return {name: fields[name] for name in spec.keep if fields.get(name) is not None}


def _in_table(ref: ImageRef) -> dict[str, Any]:
    return {} if ref.fields is None else json.loads(ref.fields)


def _in_file(place: Place) -> Mapping[str, Any]:
    size_bytes = place.expected_bytes
    if size_bytes is not None and size_bytes > _MAX_RECORD_BYTES:
        raise ValueError(f"need a JSON file of {_MAX_RECORD_BYTES:,} bytes or fewer, got more")
    try:
        value = json.loads(captions.decoded(files.read(place)))
    except (ValueError, RecursionError, Rejected) as error:
        raise ValueError(f"need a JSON file that can be read, got {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"need a JSON object, got {type(value).__name__}")
    return value
