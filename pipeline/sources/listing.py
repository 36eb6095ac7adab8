"""What is there: an ImageRef for each picture file, a Container for each tar or Parquet file."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.sources import captions, files, names, tables
from pipeline.sources.captions import Caption
from pipeline.sources.files import walk
from pipeline.sources.names import HEAD_BYTES, FirstBytes
from pipeline.sources.pairs import Pairs
from pipeline.sources.spec import (
    Container,
    Folder,
    Notes,
    Selection,
    SourceKind,
    SourceSpec,
    mixture,
)
from pipeline.sources.tables import CaptionTable
from schemas.errors import ConfigError, Reason, Rejected
from schemas.ledger import Ignored, Unused
from schemas.records import CaptionFile, ImageRef, Place, Problem, as_utf8, key_of


def list_source(spec: SourceSpec, notes: Notes | None = None) -> Iterator[ImageRef | Container]:
    """Everything in the source, each once, in the order of names.

    Args:
        spec: from `resolve_source`.
        notes: gets what was found and is not yielded; whole once the last one is.

    Yields:
        Images: an ImageRef for each file, with `ordinal` 0, so that a file more or less changes no
        other reference. Tars and Parquet: a Container for each file. An ImageRef with a `problem`
        for whatever has the right name and cannot be read.

    Raises:
        ConfigError: a metadata.jsonl with a line that cannot be used; or another kind of source
            or split among this one, and nobody said which is meant.
    """
    notes = Notes() if notes is None else notes
    listing = _Images(spec, notes) if spec.kind is SourceKind.IMAGES else _Containers(spec, notes)
    for number, selection in enumerate(spec.selections):
        for folder in walk(selection):
            relative = spec.relative(folder.uri)
            if folder.problem is not None:
                notes.found += 1
                notes.pictures += 1
                yield problem_ref(relative, folder.uri, folder.problem)
                continue
            if folder.seen or folder.ours:
                notes.found += 1
                reason = Ignored.DATA_SET if folder.ours else Ignored.FOLDER_SEEN
                notes.ignore(reason, relative)
                continue
            if selection.is_whole:
                notes.found += len(folder.hidden)
                for name in folder.hidden:
                    notes.ignore(Ignored.HIDDEN, names.join(relative, name))
            yield from listing.folder(folder, number)
    listing.finish()


def problem_ref(relative: str, uri: str, problem: Problem) -> ImageRef:
    """Reference for a thing that is not a picture, or whose pictures are not known."""
    return ImageRef(
        key=key_of(relative),
        source=as_utf8(relative),
        place=Place(uri=uri),
        problem=problem,
    )


def head_of_file(uri: str) -> bytes:
    """First bytes of a file; none if it cannot be read or is no regular file."""
    try:
        with files.open_checked(Place(uri=uri)) as opened:
            return opened.read(HEAD_BYTES)
    except Rejected:
        return b""


class _Listing:
    def __init__(self, spec: SourceSpec, notes: Notes) -> None:
        self._spec = spec
        self._notes = notes
        self._splits = Splits(spec)
        # Of one whole folder, everything is selected.
        self._is_all = len(spec.selections) == 1 and spec.selections[0].is_whole

    def _is_selected(self, number: int, folder: Folder, name: str) -> bool:
        """Whether a file is selected by this selection and by none before it."""
        if self._is_all:
            return True
        selection = self._spec.selections[number]
        uri = f"{folder.uri}/{name}"
        return selection.matches(names.join(folder.relative, name)) and not any(
            _selects(earlier, uri) for earlier in self._spec.selections[:number]
        )

    def _is_selected_anywhere(self, folder: Folder, name: str) -> bool:
        uri = f"{folder.uri}/{name}"
        return any(_selects(selection, uri) for selection in self._spec.selections)

    def _is_of_split(self, folder: Folder, name: str, number: int) -> bool:
        """Whether a file is of the split that is taken."""
        return self._splits.takes(f"{folder.uri}/{name}", self._spec.selections[number])

    def _ignore(self, folder: Folder, name: str, reason: Ignored) -> None:
        uri = f"{folder.uri}/{name}"
        kind = names.kind_of(name)
        # The first look has not seen it, in a very large source.
        if reason is Ignored.OTHER_KIND and kind is not None and not self._spec.chosen:
            raise mixture(self._spec.root, {str(self._spec.kind): "", kind: uri})
        self._notes.found += 1
        self._notes.ignore(reason, self._spec.relative(uri))

    def _planned(self, ref: ImageRef) -> ImageRef:
        self._notes.found += 1
        self._notes.pictures += 1
        self._notes.attached += ref.captions
        return ref

    def folder(self, folder: Folder, number: int) -> Iterator[ImageRef | Container]:
        """What one folder of a selection holds."""
        raise NotImplementedError

    def finish(self) -> None:
        """Count what can only be counted at the end."""


class _Images(_Listing):
    def __init__(self, spec: SourceSpec, notes: Notes) -> None:
        super().__init__(spec, notes)
        self._first_bytes = FirstBytes()
        self._pairs = Pairs(spec, notes)
        self._tables: list[CaptionTable] = []  # of the folders around; the nearest is last
        self._shared: dict[str, list[CaptionTable]] = {}  # by folder, for several selections
        self._number = 0
        self._takes_sidecars = spec.caption in {"auto", "sidecar"}
        self._takes_tables = spec.caption in {"auto", "metadata"}

    def folder(self, folder: Folder, number: int) -> Iterator[ImageRef]:
        """References to the pictures of one folder."""
        is_table = set(tables.tables_in(folder.names))
        pictures: list[str] = []
        sidecars: list[str] = []
        for name in folder.names:
            suffix = names.split_suffix(name)[1]
            if suffix in names.IMAGE_SUFFIXES:
                pictures.append(name)
            elif name in is_table or self._pairs.is_table(folder.uri, name):
                continue
            elif suffix in names.CAPTION_SUFFIXES:
                sidecars.append(name)
            elif self._is_picture(folder, name, number):
                pictures.append(name)
        if is_table or self._tables or self._number != number:
            self._update_tables(folder, number, is_table)
        # Rejected as NOT_A_FILE: what has a name of a picture is never passed over.
        pictures += [name for name in folder.folders if names.is_image(name)]
        selected = pictures
        if not self._is_all:
            selected = [name for name in pictures if self._is_selected_anywhere(folder, name)]
            pictures = [name for name in selected if self._is_selected(number, folder, name)]
        wants = self._takes_sidecars or self._spec.keep
        attached = captions.attach(selected, sidecars) if wants and sidecars else {}
        self._leave_sidecars(folder, number, sidecars, attached if self._takes_sidecars else {})
        of_split: bool | None = None  # the same for all pictures of a folder
        for name in sorted(pictures):
            ref = self._image(folder, name, attached.get(name, []))
            paired = self._pairs.paired(ref)
            if paired is not None and of_split is None:
                of_split = self._is_of_split(folder, name, number)
            if paired is None:
                reason = Ignored.CONDITION_IMAGE
            elif of_split:
                yield self._planned(paired)
                continue
            else:
                ref, reason = paired, Ignored.OTHER_SPLIT
            self._notes.found += 1
            self._notes.ignore(reason, ref.source)
            if ref.captions:
                self._notes.leave(Unused.PICTURE_NOT_TAKEN, ref.source, ref.captions)

    def finish(self) -> None:
        self._pairs.finish()
        for loaded in (self._tables, *self._shared.values()):
            self._leave_lines(loaded)

    def _is_picture(self, folder: Folder, name: str, number: int) -> bool:
        """Whether a file is one by its first bytes; if not, it is counted."""
        if not self._is_selected(number, folder, name):
            return False
        if names.kind_of(name) is not None:
            reason = Ignored.OTHER_KIND
        else:
            uri = f"{folder.uri}/{name}"
            reason = self._first_bytes.reason_against(name, lambda: head_of_file(uri))
        if reason is not None:
            self._ignore(folder, name, reason)
        return reason is None

    def _image(self, folder: Folder, name: str, sidecars: list[str]) -> ImageRef:
        uri = f"{folder.uri}/{name}"
        relative = self._spec.relative(uri)
        beside = [_caption_file(folder, sidecar) for sidecar in sidecars]
        files = captions.file_fields(beside if self._takes_sidecars else [])
        if self._spec.keep:
            files["record"] = next((sidecar.place for sidecar in beside if sidecar.is_json), None)
        found = folder.stat(name)
        if name in folder.folders:
            found = Problem(reason=Reason.NOT_A_FILE, detail="a folder with a picture's name")
        is_problem = isinstance(found, Problem)
        ref = ImageRef(
            key=key_of(relative),
            source=as_utf8(relative),
            place=Place(uri=uri) if is_problem else found.place,
            problem=found if is_problem else None,
            **files,
        )
        return self._with_line(ref, uri) if self._tables else ref

    # Captions -----------------------------------------------------------------------------------

    def _leave_sidecars(
        self, folder: Folder, number: int, sidecars: list[str], attached: dict[str, list[str]]
    ) -> None:
        """Count those that belong to no picture; the others go with theirs."""
        taken = {name for mine in attached.values() for name in mine}
        reason = Unused.WITHOUT_PICTURE if self._takes_sidecars else Unused.NOT_ASKED_FOR
        for name in sidecars:
            if name not in taken and self._is_selected(number, folder, name):
                self._notes.leave(reason, self._spec.relative(f"{folder.uri}/{name}"))

    def _update_tables(self, folder: Folder, number: int, found: set[str]) -> None:
        """Drop tables of folders that the walk has left; add this folder's."""
        if not self._takes_tables:
            for name in sorted(found):
                if self._is_selected(number, folder, name):
                    uri = f"{folder.uri}/{name}"
                    self._notes.leave(Unused.NOT_ASKED_FOR, self._spec.relative(uri))
            if not self._spec.keep:
                return
        while self._tables and not self._is_around(self._tables[-1], folder, number):
            table = self._tables.pop()
            if len(self._spec.selections) == 1:
                self._leave_lines([table])
        self._number = number
        if not found:
            return
        mine = self._shared.get(folder.uri)
        if mine is None:
            selection = self._spec.selections[number]
            mine = tables.load_tables(folder, selection, self._spec, self._notes)
            # Another selection may come by this folder again, for other files of it.
            if len(self._spec.selections) > 1:
                self._shared[folder.uri] = mine
        self._tables.extend(mine)

    def _is_around(self, table: CaptionTable, folder: Folder, number: int) -> bool:
        return self._number == number and f"{folder.uri}/".startswith(f"{table.folder}/")

    def _with_line(self, ref: ImageRef, uri: str) -> ImageRef:
        """The reference with the nearest table's caption of its picture, and all that is kept."""
        nearest: Caption | None = None
        kept: dict[str, Any] = {}
        choose = captions.chooser(self._spec, ref.key)
        for table in reversed(self._tables):
            found = table.take(uri, choose)
            if found is None:
                continue
            line, more = found
            kept = {**more, **kept}
            if line is None or not self._takes_tables:
                continue
            if nearest is not None:
                self._notes.leave(Unused.OTHER_PREFERRED, ref.source)
            elif line.text is None and line.problem is None:
                self._notes.leave(Unused.EMPTY, ref.source)
            else:
                nearest = line
        if kept:
            ref = dataclasses.replace(ref, fields=json.dumps(kept))
        return ref if nearest is None else captions.with_line(ref, nearest)

    def _leave_lines(self, loaded: list[CaptionTable]) -> None:
        for table in loaded:
            for where in table.left():
                self._notes.leave(Unused.PICTURE_NOT_TAKEN, where)


def _caption_file(folder: Folder, name: str) -> CaptionFile:
    found = folder.stat(name)
    # What cannot be read now is read again later, and then said of this image.
    place = Place(uri=f"{folder.uri}/{name}") if isinstance(found, Problem) else found.place
    return CaptionFile(place=place, is_json=names.split_suffix(name)[1] == ".json")


class _Containers(_Listing):
    def folder(self, folder: Folder, number: int) -> Iterator[ImageRef | Container]:
        """Tars or Parquet files of one folder."""
        tars = {names.tar_stem(name) for name in folder.names if names.is_tar(name)}
        for name in folder.names:
            if not self._is_selected(number, folder, name):
                continue
            kind = names.kind_of(name)
            if kind == self._spec.kind:
                if not self._is_of_split(folder, name, number):
                    self._ignore(folder, name, Ignored.OTHER_SPLIT)
                    continue
                found = self._found(folder, name)
                yield self._planned(found) if isinstance(found, ImageRef) else found
                continue
            # img2dataset writes a Parquet file of addresses and captions beside each tar.
            is_metadata = kind == "parquet" and names.split_suffix(name)[0] in tars
            other = kind is not None and not is_metadata and not names.is_table(name)
            self._ignore(folder, name, Ignored.OTHER_KIND if other else Ignored.NOT_A_PICTURE)

    def _found(self, folder: Folder, name: str) -> ImageRef | Container:
        uri = f"{folder.uri}/{name}"
        found = folder.stat(name)
        if names.is_compressed_tar(name):
            found = Problem(
                reason=Reason.BROKEN_CONTAINER,
                detail="a compressed tar cannot be read in parallel; decompress it",
            )
        relative = self._spec.relative(uri)
        if isinstance(found, Problem):
            return problem_ref(relative, uri, found)
        return Container(
            uri=uri,
            relative=relative,
            size_bytes=found.size_bytes,
            modified_s=found.modified_s,
        )


def _selects(selection: Selection, uri: str) -> bool:
    prefix = f"{selection.base}/"
    return uri.startswith(prefix) and selection.matches(uri[len(prefix) :])


# Splits by names of files, which nobody joins unsaid ----------------------------------------------

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NAME = re.compile(rf"({'|'.join(_SPLITS)})(?:20\d\d)?", re.IGNORECASE)  # COCO has train2017
_FOLDERS = 2  # of a path: images/train and data/train are as usual as train


def named_split(relative: str, kind: SourceKind) -> str | None:
    """The split that a file's name tells.

    Args:
        relative: its path from the root of the source.
        kind: of pictures only the folders tell (`train.jpg` shows a train); of tars and Parquet
            also the file's name up to its first `-`, `_` or `.`.

    Returns:
        "train", "validation", "test", or None.
    """
    *folders, name = relative.split("/")
    parts = folders[:_FOLDERS]
    if kind is not SourceKind.IMAGES:
        parts = [re.split("[-_.]", name, maxsplit=1)[0], *parts]
    for part in parts:
        found = _NAME.fullmatch(part)
        if found is not None:
            return _SPLITS[found[1].lower()]
    return None


class Splits:
    """Sees to it that one split is taken, or all of them because somebody said so."""

    def __init__(self, spec: SourceSpec) -> None:
        """Those of one source; `spec.split` is --source-split."""
        self._spec = spec
        self._seen: dict[Selection, dict[str, str]] = {}  # split -> a file of it

    def takes(self, uri: str, selection: Selection) -> bool:
        """Whether a file of a selection is to be read; being named in a brace list chooses one.

        Raises:
            ConfigError: it is of another split than a file before it, and nobody chose.
        """
        choice = self._spec.split
        if choice == "all" or (choice == "auto" and selection.names is not None):
            return True
        relative = self._spec.relative(uri)
        split = named_split(relative, self._spec.kind)
        if choice != "auto":
            return split == choice
        seen = self._seen.setdefault(selection, {})
        if split is not None and split not in seen:
            seen[split] = relative
            if len(seen) > 1:
                raise _several(self._spec.root, seen)
        return True


def _several(root: str, seen: Mapping[str, str]) -> ConfigError:
    got = " and ".join(f"{split} ({as_utf8(name)})" for split, name in sorted(seen.items()))
    choices = " or ".join(f"--source-split {split}" for split in sorted(seen))
    return ConfigError(
        f"{as_utf8(root)}: need one split, got {got}; choose with {choices}, or join them with "
        "--source-split all"
    )
