"""Tables of captions beside pictures: Hugging Face's metadata.jsonl and what others write.

A line is tied to a picture where its meaning is clear: by the same path, or by one that differs in
its case, its Unicode form, its slashes, or the folders before it. Every line that is not used is
counted.
"""

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.sources import captions, files, names
from pipeline.sources.captions import Caption
from pipeline.sources.spec import Folder, Notes, Selection, SourceSpec
from schemas.columns import bounded, kind_of
from schemas.errors import ConfigError, Rejected
from schemas.ledger import Ignored, Unused
from schemas.records import Place, Problem, as_utf8

_NAME_FIELDS = (
    *("file_name", "filename", "file", "image", "img", "image_path", "img_path", "image_file"),
    *("path", "filepath", "file_path", "image_name", "name"),
)
_KOHYA_FIELDS = (*captions.COLUMNS, "tags")
_DELIMITERS = ",;\t|"
_MOST_TABLE_BYTES = 2 * 10**9
_MOST_NAME = 10_000  # characters


class _Line(NamedTuple):
    where: str  # for a person: its number and the name in it
    name: str  # of the file, as normalised
    value: Any  # the caption, as it stood there; None if there is none
    kept: Mapping[str, Any]  # what it says for columns that are kept


class _Wanted(NamedTuple):
    """What to take out of a line besides the file's name."""

    captions: Sequence[str]  # fields that may hold the caption, first one first
    keep: Sequence[str]  # fields that are kept as columns
    seen: dict[str, bool]  # gets the names of all fields -> whether it is CSV, which has only text

    def line(
        self, number: int, name: str, fields: Mapping[str, Any], *, is_text: bool = False
    ) -> _Line:
        """A line that has several fields."""
        kept: Mapping[str, Any] = {}
        if self.keep:
            self.seen.update(dict.fromkeys(fields, is_text))
            kept = _kept_in(fields, self.keep, is_text=is_text)
        return _line(number, name, _value_in(fields, self.captions), kept)

    def any_in(self, names: Collection[str]) -> bool:
        """Whether there is anything to take."""
        folded = {name.lower() for name in names}
        return any(field.lower() in folded for field in self.captions) or any(
            field in names for field in self.keep
        )


class CaptionTable:
    """Captions of one folder and those below, by the pictures' paths or addresses."""

    def __init__(self, folder: str) -> None:
        """Table without captions for a folder, by its path or address."""
        self.folder = folder
        self._lines: dict[str, tuple[str, Any, Mapping[str, Any]]] = {}

    def put(self, uri: str, where: str, value: Any, kept: Mapping[str, Any]) -> None:
        """Say what a picture's caption is, and what else is kept of it."""
        self._lines[uri] = (where, value, kept)

    def take(
        self, uri: str, choose: captions.Choose
    ) -> tuple[Caption | None, Mapping[str, Any]] | None:
        """Caption and other values of a picture; the table forgets them.

        Returns:
            None where no line names it. The caption is None where its line is about other things.
        """
        found = self._lines.pop(uri, None)
        if found is None:
            return None
        where, value, kept = found
        if value is None and kept:
            return None, kept
        return captions.clean(value, where=where, choose=choose), kept

    def left(self) -> Iterator[str]:
        """Lines that nobody took."""
        return (where for where, *_ in self._lines.values())


def load_tables(
    folder: Folder, selection: Selection, spec: SourceSpec, notes: Notes
) -> list[CaptionTable]:
    """The caption tables of a folder, those that win last.

    Raises:
        ConfigError: a table that cannot be read, or a line that cannot be tied to a file.
    """
    tables: list[CaptionTable] = []
    for name in tables_in(folder.names):
        uri = f"{folder.uri}/{name}"
        lines = _lines(folder, name, spec, notes.fields)
        if not lines:
            if selection.matches(names.join(folder.relative, name)):
                notes.found += 1
                notes.ignore(Ignored.TABLE_NOT_UNDERSTOOD, spec.relative(uri))
            continue
        tables.append(_matched(lines, folder, selection, spec.relative(uri), notes))
    tables.reverse()
    return tables


def tables_in(in_folder: Sequence[str]) -> list[str]:
    """Names that are caption tables, the preferred one first; the sidecar of a picture is none."""
    found = [name for name in in_folder if names.is_table(name)]
    if not found:
        return []
    stems = {names.split_suffix(name)[0] for name in in_folder if names.is_image(name)}
    found = [name for name in found if names.split_suffix(name)[0] not in stems]
    return sorted(found, key=lambda name: (names.TABLE_NAMES.index(name.lower()), name))


def _kept_in(line: Mapping[str, Any], keep: Sequence[str], *, is_text: bool) -> dict[str, Any]:
    """Values that a line of a table has for columns that are kept.

    Args:
        line: field -> value.
        keep: the columns; names are compared to the letter.
        is_text: it is one of CSV, where nothing is the same as null.
    """
    found = {name: line[name] for name in keep if line.get(name) is not None}
    return {name: bounded(value) for name, value in found.items() if not is_text or value.strip()}


# Lines ------------------------------------------------------------------------------------------


def _lines(folder: Folder, name: str, spec: SourceSpec, seen: dict[str, bool]) -> list[_Line]:
    """Lines of a table; none if it is some other table that happens to have this name."""
    found = folder.stat(name)
    uri = as_utf8(f"{folder.uri}/{name}")
    if isinstance(found, Problem):
        raise ConfigError(f"{uri}: cannot be read: {found.detail}")
    if found.size_bytes > _MOST_TABLE_BYTES:
        raise ConfigError(
            f"{uri}: need {_MOST_TABLE_BYTES:,} bytes or fewer, got {found.size_bytes:,}; "
            "split the table by folders"
        )
    fields = captions.COLUMNS if spec.caption_column is None else (spec.caption_column,)
    wanted = _Wanted(fields, spec.keep, seen)
    try:
        return list(_parsed(found.place, wanted, spec) or [])
    except Rejected as rejected:
        raise ConfigError(f"{uri}: {rejected.detail}; run again") from None
    except (UnicodeDecodeError, csv.Error) as error:
        got = f"one that {captions.reason_of(error)}" if isinstance(error, UnicodeError) else error
        kind = names.split_suffix(name)[1][1:].upper()
        raise ConfigError(
            f"{uri}: need a {kind} table in UTF-8, got {got}; correct it, "
            "or do without it: --caption sidecar or --caption none"
        ) from None


def _parsed(place: Place, wanted: _Wanted, spec: SourceSpec) -> Iterable[_Line] | None:
    suffix = names.split_suffix(place.uri)[1]
    if suffix == ".parquet":
        return _of_parquet(place, wanted)
    text = captions.decoded(files.read(place))
    if "\0" in text:
        raise csv.Error("zero bytes (UTF-16 without its mark?)")
    if suffix == ".jsonl":
        return _of_jsonl(text, as_utf8(place.uri), wanted)
    if suffix == ".json":
        return _of_json(
            text, wanted if spec.caption_column else wanted._replace(captions=_KOHYA_FIELDS)
        )
    return _of_csv(text, wanted)


def _of_jsonl(text: str, uri: str, wanted: _Wanted) -> Iterator[_Line]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            name = _name_in(value)
            if not isinstance(name, str):
                raise TypeError(f"file_name is {name!r:.40}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"{uri}, line {number}: need a JSON object with file_name, "
                f"got {line[:60]!r} ({type(error).__name__}: {error}); correct the line, "
                "or do without it: --caption sidecar or --caption none"
            ) from None
        yield wanted.line(number, name, value)


def _name_in(value: Any) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"it is of type {type(value).__name__}")
    by_name = {str(field).lower(): of for field, of in value.items()}
    for field in _NAME_FIELDS:
        if field in by_name:
            return by_name[field]
    raise KeyError("file_name")


def _value_in(value: Mapping[str, Any], fields: Sequence[str]) -> Any:
    by_name = {**{str(field).lower(): of for field, of in value.items()}, **value}
    there = [by_name[field] for field in fields if by_name.get(field) is not None]
    return next((value for value in there if value != ""), there[0] if there else None)


def _of_csv(text: str, wanted: _Wanted) -> Iterator[_Line] | None:
    first = text.lstrip("\r\n").split("\n", 1)[0]
    for delimiter in sorted(_DELIMITERS, key=first.count, reverse=True):
        header = next(csv.reader([first], delimiter=delimiter), [])
        plain = [field.strip().lower() for field in header]
        name = next((field for field in _NAME_FIELDS if field in plain), None)
        if name is not None and wanted.any_in({field.strip() for field in header}):
            return _csv_rows(text, delimiter, header, plain.index(name), wanted)
    return None


def _csv_rows(
    text: str, delimiter: str, header: list[str], name_column: int, wanted: _Wanted
) -> Iterator[_Line]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    keys = [field.strip() for field in header]
    has_header = False
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if not has_header:
            has_header = True
            continue
        name = row[name_column].strip() if name_column < len(row) else ""
        if not name:
            raise csv.Error(f"no file name in line {rows.line_num}")
        yield wanted.line(rows.line_num, name, dict(zip(keys, row, strict=False)), is_text=True)


def _of_json(text: str, wanted: _Wanted) -> Iterator[_Line] | None:
    """Kohya's {path: {caption, tags}}, {path: caption}, or a list of objects with file names."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise csv.Error(f"no JSON ({error})") from None
    if isinstance(value, dict) and value:
        if all(isinstance(of, str | list) for of in value.values()):
            return (_line(n, name, of, {}) for n, (name, of) in enumerate(value.items(), start=1))
        if all(isinstance(of, dict) for of in value.values()):
            return (wanted.line(n, name, of) for n, (name, of) in enumerate(value.items(), start=1))
    if isinstance(value, list) and value and all(isinstance(of, dict) for of in value):
        try:
            named = [(_name_in(of), of) for of in value]
        except KeyError:
            return None
        if all(isinstance(name, str) for name, _ in named):
            return (wanted.line(n, name, of) for n, (name, of) in enumerate(named, start=1))
    return None


def _of_parquet(place: Place, wanted: _Wanted) -> Iterator[_Line] | None:
    from pipeline.sources.parquet import read_columns, read_schema

    schema = read_schema(place)
    by_name = {name.lower(): name for name in schema.names}
    name = next((by_name[field] for field in _NAME_FIELDS if field in by_name), None)
    fields = (field.lower() for field in wanted.captions)
    caption = next((by_name[field] for field in fields if field in by_name), None)
    fit = {field.name for field in schema if kind_of(field.type) is not None}
    kept = [column for column in wanted.keep if column in fit and schema.names.count(column) == 1]
    if name is None or name == caption or not (caption or kept):
        return None
    if wanted.keep:
        wanted.seen.update(dict.fromkeys(fit, False))
    rows = read_columns(place, list(dict.fromkeys([name, *([caption] if caption else []), *kept])))
    return (
        _line(
            number,
            str(row[name]),
            row[caption] if caption else None,
            _kept_in(row, kept, is_text=False),
        )
        for number, row in enumerate(rows, start=1)
    )


def _line(number: int, name: str, value: Any, kept: Mapping[str, Any]) -> _Line:
    name, value = name[:_MOST_NAME], captions.cut(value)  # a longer one is no file's
    path = "/".join(part for part in name.replace("\\", "/").split("/") if part not in {"", "."})
    return _Line(f"line {number}: {name}", path, value, kept)


# Which picture ----------------------------------------------------------------------------------


class _Match(NamedTuple):
    nearness: tuple[int, int]  # smaller is nearer
    picture: str  # relative to the folder of the table
    dropped: str  # folders of the line that the picture does not have


_EXACT = (0, 0)


def _matched(
    lines: Sequence[_Line], folder: Folder, selection: Selection, relative: str, notes: Notes
) -> CaptionTable:
    """The table of those lines that mean a picture; the others are counted."""
    table = CaptionTable(folder.uri)
    found = _clear(lines, _matches(lines, folder, selection), folder)
    chosen: dict[str, int] = {}  # picture -> the line that counts
    for number, match in sorted(  # of two that are as near, the last one
        ((number, match) for number, match in enumerate(found) if isinstance(match, _Match)),
        key=lambda numbered: (numbered[1].nearness, -numbered[0]),
    ):
        if chosen.setdefault(match.picture, number) != number:
            notes.leave(Unused.LINE_REPEATED, f"{relative}, {lines[number].where}")
    for number, match in enumerate(found):
        where = f"{relative}, {lines[number].where}"
        if not isinstance(match, _Match):
            notes.leave(match, where)
        elif chosen[match.picture] == number:
            line = lines[number]
            table.put(f"{folder.uri}/{match.picture}", where, line.value, line.kept)
    return table


def _clear(
    lines: Sequence[_Line], matches: Sequence[Sequence[_Match]], folder: Folder
) -> list[_Match | Unused]:
    """For each line the one picture that it means, or why there is none."""
    clear: list[_Match | Unused] = []
    for found in matches:
        best = min((match.nearness for match in found), default=_EXACT)
        nearest = [match for match in found if match.nearness == best]
        if len(nearest) == 1:
            clear.append(nearest[0])
        else:
            clear.append(Unused.LINE_AMBIGUOUS if nearest else Unused.LINE_UNMATCHED)
    # `train/1.jpg` and `val/1.jpg` beside one 1.jpg: the folders must be this one's, or all alike.
    here = f"/{captions.folded(as_utf8(folder.uri))}"
    dropped = {match.dropped for match in clear if isinstance(match, _Match)} - {""}
    foreign = {folders for folders in dropped if not here.endswith(f"/{captions.folded(folders)}")}
    if len(foreign) > 1 or (foreign and len(dropped) > 1):
        for number, match in enumerate(clear):
            if isinstance(match, _Match) and match.dropped in foreign:
                clear[number] = Unused.LINE_AMBIGUOUS
    return clear


def _matches(lines: Sequence[_Line], folder: Folder, selection: Selection) -> list[list[_Match]]:
    """For each line, the pictures that it may mean."""
    wanted: dict[str, set[int]] = {}
    for number, line in enumerate(lines):
        for ending in _endings(line.name):
            wanted.setdefault(ending, set()).add(number)
    matches: list[list[_Match]] = [[] for _ in lines]

    def look_at(picture: str) -> None:
        for number in set().union(*(wanted.get(ending, ()) for ending in _endings(picture))):
            match = _match(lines[number].name, picture)
            if match is not None:
                matches[number].append(match)

    for name in folder.names:
        if names.may_be_image(name):
            look_at(name)
    exact = all(any(match.nearness == _EXACT for match in found) for found in matches)
    if not exact and selection.names is None and selection.depth != 1:
        for picture in files.file_names(Selection(base=folder.uri)):
            if "/" in picture and names.may_be_image(picture):
                look_at(picture)
    return matches


def _endings(path: str) -> set[str]:
    """What the base names of two paths that may mean the same picture have in common."""
    base = path.rpartition("/")[2]
    stem, suffix = names.split_suffix(base)
    return {
        captions.folded(name) for name in (base, stem if suffix in names.IMAGE_SUFFIXES else base)
    }


def _match(line: str, picture: str) -> _Match | None:
    """How near they are, if they can mean the same: to the letter, but for case, but for suffix."""
    if line == picture:
        return _Match(_EXACT, picture, "")
    stem = names.split_suffix(picture)[0]
    same = captions.folded
    for level, (of_line, of_picture) in enumerate(
        [(line, picture), (same(line), same(picture)), (same(line), same(stem))], start=1
    ):
        if of_line == of_picture:
            return _Match((3 * level, 0), picture, "")
        if of_line.endswith("/" + of_picture):
            dropped = of_line.removesuffix("/" + of_picture)
            return _Match((3 * level + 1, -picture.count("/")), picture, dropped)
        if of_picture.endswith("/" + of_line):
            return _Match((3 * level + 2, 0), picture, "")
    return None
