"""What is there: an ImageRef for each picture file, a Container for each tar or Parquet file."""

from collections.abc import Iterator

from pipeline.sources import captions, files, names
from pipeline.sources.folder import FileStat, Folder
from pipeline.sources.spec import Container, Selection, SourceKind, SourceSpec
from schemas.errors import Reason
from schemas.records import ImageRef, Place, Problem, key_of, printable


def list_source(spec: SourceSpec) -> Iterator[ImageRef | Container]:
    """Everything in the source, each once, in the order of names.

    Args:
        spec: from `resolve_source`.

    Yields:
        Images: an ImageRef for each file, with `ordinal` 0, so that a file more or less changes no
        other reference. Tars and Parquet: a Container for each file. An ImageRef with a `problem`
        for whatever has the right name and cannot be read.

    Raises:
        ConfigError: a metadata.jsonl with a line that cannot be used.
    """
    for number, selection in enumerate(spec.selections):
        tables: list[captions.MetadataTable] = []
        for folder in files.walk(selection):
            if folder.problem is not None:
                yield problem_ref(spec.relative(folder.uri), folder.uri, folder.problem)
            elif spec.kind is SourceKind.IMAGES:
                yield from _images(folder, number, spec, tables)
            else:
                yield from _containers(folder, number, spec)


def problem_ref(relative: str, uri: str, problem: Problem) -> ImageRef:
    """Reference for a thing that is not a picture, or whose pictures are not known."""
    return ImageRef(
        key=key_of(relative),
        source=printable(relative),
        place=Place(uri=uri),
        problem=problem,
    )


def _images(
    folder: Folder, number: int, spec: SourceSpec, tables: list[captions.MetadataTable]
) -> Iterator[ImageRef]:
    _update_tables(tables, folder, spec)
    beside = captions.sidecars(folder.names) if spec.caption in {"auto", "sidecar"} else {}
    wanted = [name for name in (*folder.names, *folder.folders) if names.is_image(name)]
    folders = set(folder.folders)
    for name in sorted(wanted):
        inside = names.join(folder.relative, name)
        if not _is_listed_here(spec, number, inside):
            continue
        uri = f"{folder.uri}/{name}"
        if name in folders:
            problem = Problem(reason=Reason.NOT_A_FILE, detail="a folder with a picture's name")
            yield problem_ref(spec.relative(uri), uri, problem)
            continue
        found = folder.stat(name)
        if isinstance(found, Problem):
            yield problem_ref(spec.relative(uri), uri, found)
            continue
        sidecar = captions.find_sidecar(beside, names.split_suffix(name)[0])
        yield _image(found, inside, folder, sidecar, spec, tables)


def _image(
    found: FileStat,
    inside: str,
    folder: Folder,
    sidecar: str | None,
    spec: SourceSpec,
    tables: list[captions.MetadataTable],
) -> ImageRef:
    relative = spec.relative(found.uri)
    in_table = next((c for t in reversed(tables) if (c := t.get(inside)) is not None), None)
    place = in_table if isinstance(in_table, Place) else None
    is_json = place is not None
    if sidecar is not None:
        caption_file = folder.stat(sidecar)
        # What cannot be read now is read again later, and then said of this image.
        place = (
            Place(uri=f"{folder.uri}/{sidecar}")
            if isinstance(caption_file, Problem)
            else caption_file.place
        )
        is_json = names.split_suffix(sidecar)[1] == ".json"
    return ImageRef(
        key=key_of(relative),
        source=printable(relative),
        place=found.place,
        caption=in_table if isinstance(in_table, str) else None,
        caption_place=place,
        caption_is_json=is_json,
    )


def _update_tables(tables: list[captions.MetadataTable], folder: Folder, spec: SourceSpec) -> None:
    """Drop tables of folders that the walk has left; add this folder's. The nearest is last."""
    if spec.caption not in {"auto", "metadata"}:
        return
    while tables and tables[-1].folder:
        if f"{folder.relative}/".startswith(f"{tables[-1].folder}/"):
            break
        tables.pop()
    table = captions.load_metadata(folder, spec)
    if table is not None:
        tables.append(table)


def _containers(folder: Folder, number: int, spec: SourceSpec) -> Iterator[ImageRef | Container]:
    tar = spec.kind is SourceKind.TAR
    suffixes = names.TAR_SUFFIXES if tar else names.PARQUET_SUFFIXES
    for name in folder.names:
        compressed = tar and names.is_compressed_tar(name)
        if not compressed and names.split_suffix(name)[1] not in suffixes:
            continue
        if not _is_listed_here(spec, number, names.join(folder.relative, name)):
            continue
        uri = f"{folder.uri}/{name}"
        found = folder.stat(name)
        if compressed:
            found = Problem(
                reason=Reason.BROKEN_CONTAINER,
                detail="a compressed tar cannot be read in parallel; decompress it",
            )
        relative = spec.relative(uri)
        if isinstance(found, Problem):
            yield problem_ref(relative, uri, found)
        else:
            yield Container(
                uri=uri,
                relative=relative,
                size_bytes=found.size_bytes,
                modified_s=found.modified_s,
            )


def _is_listed_here(spec: SourceSpec, number: int, inside: str) -> bool:
    """Whether a path is selected by this selection and by none before it."""
    selection = spec.selections[number]
    if not selection.matches(inside):
        return False
    uri = f"{selection.base}/{inside}"
    return not any(_claims(earlier, uri) for earlier in spec.selections[:number])


def _claims(selection: Selection, uri: str) -> bool:
    prefix = f"{selection.base}/"
    return uri.startswith(prefix) and selection.matches(uri[len(prefix) :])
