"""Tar files: headers only, by seeking; nothing is ever extracted.

Samples are grouped as WebDataset does: the sample is the path up to the first dot of the base name.
A picture with a longer extension (`photo.depth.png`) is another field of a sample that has a plain
one (`photo.jpg`), unless it has a caption of its own (`photo.1.jpg` beside `photo.1.txt`).
"""

import dataclasses
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

from pipeline.sources import captions, files, names
from pipeline.sources.listing import problem_ref
from pipeline.sources.names import HEAD_BYTES, FirstBytes
from pipeline.sources.spec import Container, Notes, SourceSpec
from schemas.errors import Reason, Rejected
from schemas.ledger import Ignored, Unused
from schemas.records import CaptionFile, ImageRef, Place, Problem, as_utf8, key_of

_BLOCK = tarfile.BLOCKSIZE
_MAX_PADDING_BYTES = 2**20  # GNU tar pads to 10240 bytes, tapes to some 100 KiB
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
# What `TarInfo.fromtarfile` raises over damaged headers; the last ones come from PAX fields.
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, RecursionError)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    name: str
    offset: int
    size_bytes: int
    problem: Problem | None  # were it a picture
    is_folder: bool


def index_tar(container: Container, spec: SourceSpec, notes: Notes) -> Iterator[ImageRef]:
    """References to the pictures of a tar, in its order.

    Yields:
        One for each picture; where the tar is damaged, members before the damage, then one with
        BROKEN_CONTAINER for the tar itself.
    """
    group = as_utf8(container.relative)
    members: list[_Member] = []
    pictures: list[ImageRef] = []
    try:
        with files.open_checked(container.place) as opened:
            damage = _read_headers(opened, container.size_bytes, members)
            pictures = _Index(container, spec, notes).pictures(members, opened)
    except Rejected as rejected:
        damage = Problem(reason=rejected.reason, detail=rejected.detail)
    if damage is not None:
        ref = problem_ref(container.relative, container.uri, damage)
        pictures.append(dataclasses.replace(ref, group=group, ordinal=len(pictures)))
    notes.found += len(pictures)
    notes.pictures += len(pictures)
    for ref in pictures:
        notes.attached += ref.captions
        yield ref


# Headers ----------------------------------------------------------------------------------------


class _Headers:
    """As much of a TarFile as `TarInfo.fromtarfile` needs.

    TarFile itself ends silently at a damaged or cut header, which would lose members unseen.
    """

    encoding = "utf-8"
    errors = "surrogateescape"  # names that are not UTF-8 keep their bytes, and so their key

    def __init__(self, opened: BinaryIO, size_bytes: int) -> None:
        self.offset = 0
        self.pax_headers: dict[str, str] = {}
        self.fileobj = self
        self._opened = opened
        self._size_bytes = size_bytes

    def tell(self) -> int:
        return self._opened.tell()

    def read(self, size: int) -> bytes:
        """Never more than there is: a damaged length must not allocate gigabytes."""
        if size < 0:
            raise tarfile.ReadError(f"negative length {size} in a header")
        return self._opened.read(min(size, max(0, self._size_bytes - self.tell())))

    def next(self) -> tarfile.TarInfo:
        self._opened.seek(self.offset)
        return tarfile.TarInfo.fromtarfile(cast("tarfile.TarFile", self))


def _read_headers(opened: BinaryIO, size_bytes: int, members: list[_Member]) -> Problem | None:
    if size_bytes == 0:
        return _broken("an empty file, not a tar")
    headers = _Headers(opened, size_bytes)
    while True:
        start = headers.offset
        try:
            info = headers.next()
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return _after_the_end(opened, size_bytes)
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            return _stopped(start, "no end mark: it was cut, or its writer was stopped")
        except _DAMAGE as error:
            return _not_a_tar(opened, error) if start == 0 else _stopped(start, str(error))
        # It would be read again and again.
        if headers.offset <= start or info.size < 0:
            return _stopped(start, "a header with a negative length")
        members.append(_member(info, size_bytes))
        if info.isreg() and not info.issparse() and info.offset_data + info.size > size_bytes:
            return _stopped(start, f"member {as_utf8(info.name)} runs past the end of the file")


def _after_the_end(opened: BinaryIO, size_bytes: int) -> Problem | None:
    """Writers pad with zeros, a little; a second tar may follow, or a hole in a failed download."""
    after = opened.tell()
    left = max(0, size_bytes - after)
    if left > _MAX_PADDING_BYTES:
        return _broken(
            f"its end mark, at byte {after - _BLOCK}, has {left} bytes after it (a download with "
            "holes, or tars joined with cat?); members there are not known"
        )
    if opened.read(left).strip(b"\0"):
        return _broken(
            f"there is data after its end mark, at byte {after - _BLOCK} (tars joined with cat?); "
            "members there are not known"
        )
    return None


def _not_a_tar(opened: BinaryIO, error: BaseException) -> Problem:
    opened.seek(0)
    head = opened.read(8)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return _broken(f"its content is {kind}, not a plain tar; decompress it")
    return _broken(f"not a tar: {error}; it starts with {head!r}")


def _stopped(at: int, why: str) -> Problem:
    return _broken(f"stopped at byte {at}: {why}; later members are not known")


def _broken(detail: str) -> Problem:
    return Problem(reason=Reason.BROKEN_CONTAINER, detail=detail)


def _member(info: tarfile.TarInfo, size_bytes: int) -> _Member:
    return _Member(
        name=info.name,
        offset=info.offset_data,
        size_bytes=info.size,
        problem=_member_problem(info, size_bytes),
        is_folder=info.isdir(),
    )


def _member_problem(info: tarfile.TarInfo, size_bytes: int) -> Problem | None:
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return Problem(
            reason=Reason.UNSAFE_NAME,
            detail="an absolute name or one with `..`; nothing was extracted",
        )
    if info.islnk() or info.issym():
        kind = "symbolic" if info.issym() else "hard"
        detail = f"a {kind} link to {as_utf8(info.linkname)}"
        return Problem(reason=Reason.NOT_A_FILE, detail=detail)
    if not info.isreg():
        detail = "a folder" if info.isdir() else f"a member of type {info.type!r}"
        return Problem(reason=Reason.NOT_A_FILE, detail=detail)
    if info.issparse():
        return _broken("a sparse member; its bytes do not lie in one piece")
    if info.offset_data + info.size > size_bytes:
        there = max(0, size_bytes - info.offset_data)
        return Problem(
            reason=Reason.TRUNCATED,
            detail=f"the tar ends after {there} of the member's {info.size} bytes",
        )
    return None


# Samples ----------------------------------------------------------------------------------------


class _Index:
    """Sorts the members of one tar into pictures, captions and the rest."""

    def __init__(self, container: Container, spec: SourceSpec, notes: Notes) -> None:
        self._container = container
        self._group = as_utf8(container.relative)
        self._place = container.place
        self._takes_captions = spec.caption in {"auto", "sidecar"}
        self._keeps = bool(spec.keep)
        self._pairings = spec.pairings
        self._notes = notes
        self._first_bytes = FirstBytes()

    def pictures(self, members: Sequence[_Member], opened: BinaryIO) -> list[ImageRef]:
        """References to the pictures, in the order of the tar; all other members are counted."""
        pictures: list[tuple[_Member, str]] = []
        sidecars: dict[str, _Member] = {}
        maps: dict[str, _Member] = {}
        for member in members:
            name = _clean(member.name)
            suffix = names.split_suffix(name)[1]
            if names.is_hidden(name):
                if not member.is_folder:
                    self._ignore(Ignored.HIDDEN, name)
            # Before suffixes are looked at: a condition image has a name like a picture.
            elif not member.is_folder and any(pairing.is_map(name) for pairing in self._pairings):
                self._ignore(Ignored.CONDITION_IMAGE, name)
                maps.setdefault(name, member)
            elif suffix in names.IMAGE_SUFFIXES:
                pictures.append((member, name))
            elif member.is_folder:
                continue
            elif suffix in names.CAPTION_SUFFIXES:
                self._sort_in(sidecars, member, name)
            else:
                reason = self._reason_against(member, name, opened)
                if reason is None:
                    pictures.append((member, name))
                else:
                    self._ignore(reason, name)
        pictures = self._without_fields(pictures, sidecars)
        taken = dict.fromkeys(name for _, name in pictures)
        samples = {name: _sample(name)[0] for name in taken}
        attached = captions.attach(taken, sidecars, samples=samples)
        self._leave_sidecars(sidecars, attached)
        seen: Counter[str] = Counter()
        refs: list[ImageRef] = []
        for member, name in pictures:
            seen[name] += 1
            mine = attached[name] if self._takes_captions else []
            files = captions.file_fields(
                [self._caption_file(sidecars, sidecar) for sidecar in mine]
            )
            if self._pairings:
                files["maps"] = tuple(self._maps(maps, name))
            if self._keeps:
                files["record"] = self._record(sidecars, attached[name])
            refs.append(self._picture(member, name, seen[name], len(refs), files))
        return refs

    def _picture(
        self,
        member: _Member,
        name: str,
        occurrence: int,
        ordinal: int,
        files: Mapping[str, Any],
    ) -> ImageRef:
        full = f"{self._container.relative}/{name}"
        problem = member.problem
        # Readers of tars take the first or the last one: which is meant cannot be known.
        if occurrence > 1 and problem is None:
            problem = Problem(
                reason=Reason.DUPLICATE_NAME,
                detail=f"the tar has this name {occurrence} times so far; the first one is taken",
            )
        return ImageRef(
            # \0 stands in no name, so no other member gets this key.
            key=key_of(full if occurrence == 1 else f"{full}\0{occurrence}"),
            source=as_utf8(full),
            place=_range(self._place, member),
            problem=problem,
            group=self._group,
            ordinal=ordinal,
            **files,
        )

    def _sort_in(self, sidecars: dict[str, _Member], member: _Member, name: str) -> None:
        if not self._takes_captions:
            # It may still hold columns that are kept.
            self._leave(Unused.NOT_ASKED_FOR, name)
            sidecars.setdefault(name, member)
        elif member.problem is not None:
            self._leave(Unused.UNUSABLE, name)
        elif sidecars.setdefault(name, member) is not member:
            self._leave(Unused.OTHER_PREFERRED, name)

    def _reason_against(self, member: _Member, name: str, opened: BinaryIO) -> Ignored | None:
        def head() -> bytes:
            if member.problem is not None:
                return b""
            opened.seek(member.offset)
            return opened.read(min(HEAD_BYTES, member.size_bytes))

        if names.kind_of(name) is not None:  # a tar in a tar
            return Ignored.NOT_A_PICTURE
        return self._first_bytes.reason_against(name, head)

    def _without_fields(
        self, pictures: list[tuple[_Member, str]], sidecars: Iterable[str]
    ) -> list[tuple[_Member, str]]:
        have_plain = {_sample(name)[0] for _, name in pictures if _is_plain(name)}
        fields = [name for _, name in pictures if not _is_plain(name)]
        own = captions.attach(fields, sidecars) if fields else {}
        shadowed = {name for name in fields if _sample(name)[0] in have_plain and not own[name]}
        for _, name in pictures:
            if name in shadowed:
                self._ignore(Ignored.PICTURE_SHADOWED, name)
        return [(member, name) for member, name in pictures if name not in shadowed]

    def _leave_sidecars(
        self, sidecars: Mapping[str, _Member], attached: Mapping[str, Sequence[str]]
    ) -> None:
        if self._takes_captions:
            taken = {name for mine in attached.values() for name in mine}
            for name in sidecars:
                if name not in taken:
                    self._leave(Unused.WITHOUT_PICTURE, name)

    def _caption_file(self, sidecars: Mapping[str, _Member], name: str) -> CaptionFile:
        is_json = names.split_suffix(name)[1] == ".json"
        return CaptionFile(place=_range(self._place, sidecars[name]), is_json=is_json)

    def _maps(self, maps: Mapping[str, _Member], name: str) -> Iterator[tuple[str, Place | None]]:
        """Where a picture's condition images lie; None: its tar has none that is whole."""
        for pairing in self._pairings:
            member = maps.get(pairing.path_of(name))
            place = None
            if member is not None and member.problem is None:
                place = _range(self._place, member)
            yield pairing.condition, place

    def _record(self, sidecars: Mapping[str, _Member], attached: Sequence[str]) -> Place | None:
        files = (self._caption_file(sidecars, name) for name in attached)
        return next((file.place for file in files if file.is_json), None)

    def _ignore(self, reason: Ignored, name: str) -> None:
        self._notes.found += 1
        self._notes.ignore(reason, f"{self._container.relative}/{name}")

    def _leave(self, reason: Unused, name: str) -> None:
        self._notes.leave(reason, f"{self._container.relative}/{name}")


def _range(place: Place, member: _Member) -> Place:
    return dataclasses.replace(place, offset=member.offset, size_bytes=member.size_bytes)


def _clean(name: str) -> str:
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _sample(name: str) -> tuple[str, str]:
    """WebDataset's (sample, extension): split at the first dot of the base name."""
    folder, base = posixpath.split(name)
    stem, _, extension = base.partition(".")
    return names.join(folder, stem), extension


def _is_plain(name: str) -> bool:
    return f".{_sample(name)[1].lower()}" in names.IMAGE_SUFFIXES
