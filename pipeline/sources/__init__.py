"""Where raw images come from: folders, tars and Parquet, on disk, in a bucket or on the web."""

from pipeline.sources.listing import list_source
from pipeline.sources.read import all_refs, first_refs, index_container, iter_reads
from pipeline.sources.resolve import resolve_source
from pipeline.sources.spec import (
    Container,
    Notes,
    RawImage,
    Selection,
    SourceKind,
    SourceSpec,
    joined,
)

__all__ = [
    "Container",
    "Notes",
    "RawImage",
    "Selection",
    "SourceKind",
    "SourceSpec",
    "all_refs",
    "first_refs",
    "index_container",
    "iter_reads",
    "joined",
    "list_source",
    "resolve_source",
]
