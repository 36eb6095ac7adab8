"""Captions beside pictures: sidecar files and tar members, and what a caption may look like."""

import dataclasses
import json
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.sources import files, names
from pipeline.sources.spec import SourceSpec
from schemas.errors import Reason, Rejected
from schemas.ledger import Unused
from schemas.records import CaptionFile, ImageRef, Problem, unit_interval

COLUMNS = ("text", "caption", "prompt", "captions", "sentences")
"""Where a caption may stand in Parquet and caption tables, in any case, first one first."""

_SIDECAR_FIELDS = ("caption", "text", "prompt", "captions", "sentences")
ITEM_FIELDS = ("raw", "caption", "text")  # of a list's items that are no strings, as COCO's are
_MAX_SIDECAR_BYTES = 16 * 2**20  # a caption is not longer; the file is something else

MAX_CAPTION_BYTES = 65_536
"""Of UTF-8; what is longer is no caption."""

MAX_CAPTIONS = 1000
"""Of one picture in one list."""

Choose = Callable[[Sequence[str]], str]
"""What `--caption-list` makes of several texts."""


class Caption(NamedTuple):
    """A text, or why there is none."""

    text: str | None = None  # stripped; None if there is none
    problem: Problem | None = None  # BAD_CAPTION: there is something, but no text
    was_list: bool = False  # chosen from several, or joined


def bad(detail: str) -> Problem:
    """There is a caption, but it cannot be used."""
    return Problem(reason=Reason.BAD_CAPTION, detail=detail)


def chooser(spec: SourceSpec, key: str) -> Choose:
    """What to do with a list: a function of the options, the seed and the picture's key."""
    if spec.caption_list == "join":
        return ", ".join
    if spec.caption_list == "random":
        draw = unit_interval(f"caption:{spec.seed}:{key}")
        return lambda texts: texts[int(draw * len(texts))]
    return lambda texts: texts[0]


def clean(value: Any, *, where: str, choose: Choose) -> Caption:
    """A caption from a value of JSON, CSV or Arrow.

    Args:
        value: a string, a list of strings (or of COCO's objects), or None.
        where: what to call the value in the problem.
        choose: for lists that hold more than one text.

    Returns:
        Stripped text or None if empty; and BAD_CAPTION if the value is something else, or longer
        than `MAX_CAPTION_BYTES`.
    """
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_CAPTIONS:
        return Caption(problem=bad(f"{where}: a list of more than {MAX_CAPTIONS} captions"))
    texts: list[str] = []
    for item in items:
        if isinstance(item, dict):
            item = next((item[field] for field in ITEM_FIELDS if field in item), item)
        if item is None:
            continue
        if not isinstance(item, str):
            return Caption(problem=bad(f"{where}: need a string, got {type(item).__name__}"))
        try:
            # Characters first: of a huge text, bytes would be made for nothing.
            too_long = len(item) > MAX_CAPTION_BYTES or len(item.encode()) > MAX_CAPTION_BYTES
        except UnicodeEncodeError:  # JSON may spell half a surrogate pair; Parquet cannot store it
            return Caption(problem=bad(f"{where}: not valid Unicode"))
        if too_long:
            detail = f"{where}: longer than {MAX_CAPTION_BYTES} bytes of UTF-8"
            return Caption(problem=bad(detail))
        if item.strip():
            texts.append(item.strip())
    if len(texts) > 1:
        return Caption(text=choose(texts), was_list=True)
    return Caption(text=texts[0] if texts else None)


def cut(value: Any) -> Any:
    """A value that takes no more memory than shows that it is too long for a caption."""
    if isinstance(value, str):
        return value[: MAX_CAPTION_BYTES + 1]
    if isinstance(value, dict):
        return {name: cut(of) for name, of in value.items()}
    return [cut(item) for item in value[: MAX_CAPTIONS + 1]] if isinstance(value, list) else value


def decoded(raw: bytes) -> str:
    """Text in UTF-8, or in UTF-16 if it starts with that mark.

    Raises:
        UnicodeDecodeError: it is neither; `reason_of` names what it is.
    """
    # Windows' editors save "Unicode" so.
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    return raw.decode("utf-8-sig")


def reason_of(error: UnicodeDecodeError) -> str:
    """What a text is that is not UTF-8, without its bytes."""
    raw = bytes(error.object)
    if error.encoding.startswith("utf-16"):
        return "is UTF-16 by its first bytes, but cut or damaged"
    return f"is not UTF-8: byte {error.start} is {raw[error.start]:#x}"


def parse_sidecar(
    raw: bytes, *, is_json: bool, choose: Choose, fields: Sequence[str] = _SIDECAR_FIELDS
) -> Caption:
    """Caption from the bytes of a sidecar file or tar member.

    Args:
        raw: UTF-8, with or without a byte order mark, or UTF-16 with one.
        is_json: an object; else plain text.
        choose: for lists.
        fields: of the object, first one that is there and says something.
    """
    try:
        text = decoded(raw)
    except UnicodeDecodeError as error:
        return Caption(problem=bad(f"caption file {reason_of(error)}"))
    if "\0" in text:
        return Caption(problem=bad("caption file holds zero bytes: UTF-16 without its mark?"))
    if not is_json:
        return clean(text, where="caption file", choose=choose)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Caption(problem=bad(f"caption file is not JSON: {error}"))
    if not isinstance(value, dict):
        return Caption(problem=bad(f"caption file: need a JSON object, got {type(value).__name__}"))
    return field_of(value, fields, choose)


def field_of(value: Mapping[str, Any], fields: Sequence[str], choose: Choose) -> Caption:
    """Caption of the first field, in any case, that is there and says something."""
    # Folding every name costs time; the usual field is there to the letter.
    if not all(field in value for field in fields[:1]):
        value = {**{str(name).lower(): of for name, of in value.items()}, **value}
    first: Caption | None = None
    for field in fields:
        if value.get(field) is None:
            continue
        caption = clean(value[field], where=f"field {field}", choose=choose)
        if caption.text is not None:
            return caption
        first = first or caption
    return first or Caption()


# Beside a picture -------------------------------------------------------------------------------


def attach(
    pictures: Iterable[str], sidecars: Iterable[str], *, samples: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    """Which caption files belong to which picture, by their names.

    `a.jpg.txt` is a.jpg's; else `a.txt`, then `a.caption`, then `a.json`. Where no name fits to the
    letter, one that differs in its case or its Unicode form (macOS takes letters apart) does, if
    there is no second one.

    Args:
        pictures: names in one folder, or in one tar.
        sidecars: likewise.
        samples: picture -> its WebDataset sample, whose caption is its own as well.

    Returns:
        Picture -> its caption files, first one first; every picture is in it.
    """
    found: dict[tuple[str, str], str] = {}
    for name in sidecars:
        stem, suffix = posixpath.splitext(name)
        found.setdefault((stem, suffix.lower()), name)
    attached: dict[str, list[str]] = {}
    taken: set[str] = set()
    for picture in pictures:
        stems = dict.fromkeys((picture, names.split_suffix(picture)[0]))
        mine = list(_of_stems(stems, found))
        if not mine and samples is not None:
            mine = list(_of_stems([samples[picture]], found))
        attached[picture] = mine
        taken.update(mine)
    left = {place: name for place, name in found.items() if name not in taken}
    if left:
        _attach_alike(attached, left)
    return attached


def _of_stems(stems: Iterable[str], found: Mapping[tuple[str, str], str]) -> Iterator[str]:
    for stem in stems:
        for suffix in names.CAPTION_SUFFIXES:
            if (stem, suffix) in found:
                yield found[stem, suffix]


def _attach_alike(attached: dict[str, list[str]], left: Mapping[tuple[str, str], str]) -> None:
    alike: dict[tuple[str, str], list[str]] = {}
    for (stem, suffix), name in left.items():
        alike.setdefault((folded(stem), suffix), []).append(name)
    clear = {place: found[0] for place, found in alike.items() if len(found) == 1}
    for picture, mine in attached.items():
        if not mine:
            stems = dict.fromkeys(map(folded, (picture, names.split_suffix(picture)[0])))
            mine.extend(_of_stems(stems, clear))


def folded(name: str) -> str:
    """A name without what file systems make of it: case and Unicode form."""
    name = name if name.isascii() else unicodedata.normalize("NFC", name)
    return name.casefold()


def file_fields(sidecars: Sequence[CaptionFile]) -> dict[str, Any]:
    """Fields of a reference that has these caption files, first one first."""
    if not sidecars:
        return {}
    first, *more = sidecars
    return {
        "caption_place": first.place,
        "caption_is_json": first.is_json,
        "more_captions": tuple(more),
    }


def with_line(ref: ImageRef, line: Caption) -> ImageRef:
    """The reference with what a caption table says of it."""
    return dataclasses.replace(
        ref,
        caption=line.text,
        caption_problem=line.problem,
        caption_was_list=line.was_list,
    )


# Reading ----------------------------------------------------------------------------------------


class ReadCaption(NamedTuple):
    """What became of the captions of one picture: fields of its `RawImage`."""

    caption: str | None
    caption_source: str | None
    caption_problem: Problem | None = None
    unused: tuple[Unused, ...] = ()
    used: int = 0
    was_list: bool = False


def read_caption(ref: ImageRef, spec: SourceSpec) -> ReadCaption:
    """Caption of a file or tar member; never raises Rejected, because the image stays.

    Returns:
        Caption, where it comes from, and NO_CAPTION or BAD_CAPTION.
    """
    if spec.caption == "none":
        return ReadCaption(None, None)
    if spec.caption == "fixed":
        return ReadCaption(spec.caption_text, "fixed")
    if spec.caption in {"filename", "folder"}:
        text = _name_as_caption(ref, of_folder=spec.caption == "folder")
        problem = None if text else _none_in(f"{spec.caption} {ref.source!r}")
        return ReadCaption(text, spec.caption if text else None, problem)
    unused: list[Unused] = []
    problem = None
    for caption, source in _offers(ref, spec):
        if caption.text is not None:
            # Those behind it are not even read.
            rest = ref.captions - len(unused) - 1
            unused += [Unused.OTHER_PREFERRED] * rest
            return ReadCaption(
                caption.text, source, unused=tuple(unused), used=1, was_list=caption.was_list
            )
        unused.append(Unused.EMPTY if caption.problem is None else Unused.UNUSABLE)
        problem = problem or caption.problem
    if problem is None and spec.caption != "auto":
        problem = _none_in(f"its {spec.caption}")
    return ReadCaption(None, None, problem, tuple(unused))


def _none_in(place: str) -> Problem:
    return Problem(reason=Reason.NO_CAPTION, detail=f"no caption in {place}")


def _offers(ref: ImageRef, spec: SourceSpec) -> Iterator[tuple[Caption, str]]:
    choose = chooser(spec, ref.key)
    fields = _SIDECAR_FIELDS if spec.caption_column is None else (spec.caption_column,)
    if ref.caption_place is not None:
        own = CaptionFile(place=ref.caption_place, is_json=ref.caption_is_json)
        for sidecar in (own, *ref.more_captions):
            yield _read_sidecar(sidecar, fields, choose), "sidecar"
    if ref.caption is not None or ref.caption_problem is not None:
        in_table = Caption(ref.caption, ref.caption_problem, ref.caption_was_list)
        yield in_table, "metadata"


def _read_sidecar(sidecar: CaptionFile, fields: Sequence[str], choose: Choose) -> Caption:
    place = sidecar.place
    size_bytes = place.expected_bytes
    if size_bytes is not None and size_bytes > _MAX_SIDECAR_BYTES:
        detail = f"caption file has {size_bytes} bytes, more than {_MAX_SIDECAR_BYTES}"
        return Caption(problem=bad(detail))
    try:
        raw = files.read(place)
    except Rejected as rejected:
        return Caption(problem=bad(f"caption file: {rejected.detail}"))
    return parse_sidecar(raw, is_json=sidecar.is_json, choose=choose, fields=fields)


def _name_as_caption(ref: ImageRef, *, of_folder: bool) -> str | None:
    """`a_red_car.jpg` -> `a red car`; of a folder as kohya names it, `10_cat dog` -> `cat dog`."""
    folder, base = posixpath.split(ref.source)
    if not of_folder:
        text = names.split_suffix(base)[0]
    elif folder == ref.group:  # "" or the tar
        return None
    else:
        text = re.sub(r"^\d+_", "", posixpath.basename(folder))
    return " ".join(text.replace("_", " ").split()) or None
