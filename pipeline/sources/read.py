"""From references to bytes: the same call for files, tar members and Parquet rows."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

from pipeline.sources import captions, fields
from pipeline.sources.listing import list_source
from pipeline.sources.notes import Notes
from pipeline.sources.pairs import read_maps
from pipeline.sources.spec import Container, RawImage, SourceKind, SourceSpec
from pipeline.storage import files
from schemas.records import ImageRef


def index_container(
    container: Container, spec: SourceSpec, notes: Notes | None = None
) -> Iterator[ImageRef]:
    """References to the pictures of one tar or Parquet file; reads headers, never pixels.

    Args:
        container: from `list_source`.
        spec: from `resolve_source`.
        notes: gets what was found and is not yielded; whole once the last one is.

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


def first_refs(spec: SourceSpec, count: int, notes: Notes | None = None) -> Iterator[ImageRef]:
    """The first references of a source that have no problem; for a look before a run.

    Args:
        spec: from `resolve_source`.
        count: how many.
        notes: gets what else was found on the way.
    """
    refs = itertools.chain.from_iterable(
        index_container(listed, spec, notes) if isinstance(listed, Container) else [listed]
        for listed in list_source(spec, notes)
    )
    yield from itertools.islice((ref for ref in refs if ref.problem is None), count)


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
    image = captions.image_of(files.read(ref.place), captions.read_caption(ref, spec))
    if ref.maps:
        image = dataclasses.replace(image, maps=read_maps(ref, spec))
    return dataclasses.replace(image, values=fields.values_of(ref, spec)) if spec.keep else image
