"""From what the user typed to a SourceSpec; runs on the launcher, before any work."""

import dataclasses
import itertools
import os
import posixpath
import re
import string
from collections import defaultdict
from collections.abc import Iterator, Sequence

from pipeline.config import GenerateConfig
from pipeline.sources import files, names
from pipeline.sources.listing import head_of_file, list_source, named_split
from pipeline.sources.names import FirstBytes
from pipeline.sources.pairs import check_pairings
from pipeline.sources.spec import (
    Selection,
    SourceKind,
    SourceSpec,
    mixture,
    parse_pairings,
)
from schemas.errors import ConfigError, Rejected
from schemas.manifest import MANIFEST_NAME
from schemas.records import Place, as_utf8

_WILDCARD = re.compile(r"[*?\[]")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?\}")
_LETTERS = re.compile(r"\{[A-Za-z]\.\.[A-Za-z]")
_MOST_PATHS = 1_000_000  # of one brace list; the largest public sets have 250,000 tars
_MOST_DIGITS = 18
_MOST_STEMS = 20_000  # of tars and of Parquet files, in memory while the kind is looked for
_ALLOWED_CAPTIONS = {
    SourceKind.IMAGES: {"auto", "none", "sidecar", "metadata", "fixed", "filename", "folder"},
    SourceKind.TAR: {"auto", "none", "sidecar", "fixed", "filename", "folder"},
    SourceKind.PARQUET: {"auto", "none", "column", "fixed"},
}


def resolve_source(config: GenerateConfig) -> SourceSpec:
    """Find out what the source is.

    Args:
        config: `source` may be a folder, a file, a glob (`**` for any folders) or a brace list, on
            the local disk, in a bucket or on the web.

    Returns:
        What workers need. For a folder, the root is the folder; for a file, its folder; for a glob,
        the longest prefix without wildcard.

    Raises:
        ConfigError: nothing there, a part of a brace list missing, compressed tars, several splits
            and nobody said which, or a caption mode or column that the source cannot have.
    """
    selections = _selections(config.source)
    output = _absolute(config.output.removeprefix("file://"))
    selections = tuple(
        dataclasses.replace(_data_of_controlset(selection), output=output)
        for selection in selections
    )
    found = [_Names(selection) for selection in selections]
    spec = SourceSpec(
        root=_common_root([selection.base for selection in selections]),
        kind=_kind(config, found),
        selections=selections,
        chosen=config.source_format != "auto",
        split=config.source_split,
        caption=config.source_caption,
        caption_text=config.caption_text,
        caption_column=config.caption_column,
        caption_list=config.caption_list,
        seed=config.seed,
        image_column=config.image_column,
        pairings=parse_pairings(config.import_condition, config.conditions),
        keep=tuple(column.partition(":")[0] for column in config.keep_columns),
    )
    _check_options(spec)
    check_pairings(spec)
    _check_splits(spec, found)
    return spec


def root_of(source: str) -> str:
    """What names of images are relative to, for a source as the user wrote it.

    Raises:
        ConfigError: it is not there.
    """
    return _common_root([selection.base for selection in _selections(source)])


# Where ------------------------------------------------------------------------------------------


def _selections(source: str) -> tuple[Selection, ...]:
    source = source.removeprefix("file://")
    if not source:
        raise ConfigError("SOURCE: need a folder, file or glob, got ''")
    literal: dict[str, set[str]] = defaultdict(set)
    selections: list[Selection] = []
    paths = _expand(source)
    there = files.existing([path for path in paths if _may_be_a_file(path)])
    for path in paths:
        if path in there and (files.is_remote(path) or not os.path.isdir(path)):
            folder, name = posixpath.split(_absolute(path))
            literal[folder.rstrip("/") if not files.is_remote(path) else folder].add(name)
        elif path in there or (files.is_remote(path) and not _WILDCARD.search(path)):
            selections.append(Selection(base=_absolute(path)))
        elif _WILDCARD.search(path):
            selections.append(_glob(path))
        else:
            more = f" (one of {len(paths)} in {source!r})" if len(paths) > 1 else ""
            raise ConfigError(f"{as_utf8(path)}: need a path that exists, got none{more}")
    selections += [Selection(base=base, names=frozenset(literal[base])) for base in sorted(literal)]
    if len({files.is_remote(selection.base) for selection in selections}) > 1:
        raise ConfigError(f"{source}: need all parts local or all remote, got both")
    return tuple(selections)


def _expand(source: str) -> list[str]:
    # A name of a file may have braces in it.
    if "{" not in source or (not files.is_remote(source) and os.path.lexists(source)):
        return [source]
    import braceexpand

    if _ways(source) > _MOST_PATHS:
        raise ConfigError(
            f"{source[:200]}: need braces that stand for {_MOST_PATHS:,} paths or fewer, got more; "
            "use a glob"
        )
    try:
        return list(dict.fromkeys(braceexpand.braceexpand(source)))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source[:200]}: need balanced braces, got {error}") from None


def _ways(source: str) -> int:
    """Paths that braces stand for, or more where they are nested: counted before any is made."""
    ways = 1
    for first, last, step in _RANGE.findall(source):
        digits = max(map(len, (first, last, step)))
        if digits > _MOST_DIGITS:
            return _MOST_PATHS + 1
        ways *= abs(int(last) - int(first)) // (int(step or 1) or 1) + 1
    ways *= min(_MOST_PATHS + 1, len(string.ascii_letters) ** len(_LETTERS.findall(source)))
    alternatives = re.sub(r"\\.", "", source).split("{")[1:]
    for alternative in alternatives:
        ways *= alternative.count(",") + 1
        if ways > _MOST_PATHS:
            break
    return ways


def _may_be_a_file(path: str) -> bool:
    """A remote folder cannot be asked for; a file's name has a suffix that we read."""
    return not files.is_remote(path) or (
        not _WILDCARD.search(path) and names.kind_of(path) is not None
    )


def _glob(path: str) -> Selection:
    start = _WILDCARD.search(path)
    assert start is not None
    base, _, _ = path[: start.start()].rpartition("/")
    pattern = path[len(base) + 1 :] if "/" in path[: start.start()] else path
    if not files.is_remote(path) and not base:
        base = "/" if path.startswith("/") else "."
    return Selection(base=_absolute(base), pattern=pattern)


def _absolute(path: str) -> str:
    if files.is_remote(path):
        scheme, _, rest = path.partition("://")
        return f"{scheme}://{rest.rstrip('/')}"
    return os.path.abspath(path).rstrip("/")


def _common_root(bases: list[str]) -> str:
    common = bases[0].split("/")
    for base in bases[1:]:
        parts = base.split("/")
        same = next(
            (n for n, (a, b) in enumerate(zip(common, parts, strict=False)) if a != b),
            min(len(common), len(parts)),
        )
        common = common[:same]
    return "/".join(common)


def _data_of_controlset(selection: Selection) -> Selection:
    """Of a folder that controlset wrote, only the data files."""
    if selection.pattern is not None or selection.names is not None:
        return selection
    manifest = f"{selection.base}/{MANIFEST_NAME}"
    if manifest not in files.existing([manifest]):
        return selection
    try:
        is_ours = b'"controlset"' in files.read(Place(uri=manifest))[:4096]
    except Rejected:
        return selection
    return Selection(base=selection.base, pattern="data/*.parquet") if is_ours else selection


# What -------------------------------------------------------------------------------------------


class _Names:
    """Names of a selection, listed once: the first ones stay for whoever looks at them again."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.most = files.first_look(selection)
        self._first: list[str] = []
        self._rest = files.file_names(selection)

    def __iter__(self) -> Iterator[str]:
        """All names; of those behind the first look, what nobody took yet."""
        yield from self._first
        for name in self._rest:
            if len(self._first) < self.most:
                self._first.append(name)
            yield name

    @property
    def first(self) -> list[str]:
        """The names of the first look; fewer than `most` where there are no others."""
        return list(itertools.islice(self, self.most))


def _kind(config: GenerateConfig, found: Sequence[_Names]) -> SourceKind:
    """Kind of the source, from its names; of a very large one, from the first ones.

    A kind that was asked for is looked for among all names, however many others come first.

    Raises:
        ConfigError: nothing that is read, or more than one kind and nobody said which.
    """
    wanted = None if config.source_format == "auto" else SourceKind(config.source_format)
    seen = _Seen()
    for of_selection in found:
        selection, empty = of_selection.selection, True
        for number, name in enumerate(of_selection, start=1):
            kind = seen.look_at(name, f"{selection.base}/{name}")
            empty = empty and kind is None
            if wanted is None and not empty and number >= of_selection.most:
                break
            if wanted is not None and kind == wanted and wanted in seen.kinds:
                break
        if empty and len(found) > 1:
            raise _nothing(f"{selection.base}/{selection.pattern or ''}", wanted, {})
    kinds = seen.kinds
    if wanted is None and len({str(kind or SourceKind.TAR) for kind in kinds}) > 1:
        raise mixture(
            config.source, {str(kind or SourceKind.TAR): of for kind, of in kinds.items()}
        )
    for kind in kinds if wanted is None else {wanted}.intersection(kinds):
        if kind is not None:
            return kind
    raise _nothing(config.source, wanted, kinds)


class _Seen:
    """Which kinds of sources there are among names."""

    def __init__(self) -> None:
        self._found: dict[SourceKind | None, str] = {}  # None: compressed tars
        # Without their suffixes; as many as fit. With more, a Parquet file may be taken for one
        # without a tar, and the listing says what it is.
        self._tars: set[str] = set()
        self._alone: dict[str, str] = {}  # Parquet files without a tar -> name
        self._table = ""
        self._by_content = ""
        self._first_bytes = FirstBytes()

    def look_at(self, name: str, uri: str) -> str | None:
        """Kind of a name that is one of a source."""
        kind = names.kind_of(name)
        if kind == "parquet":
            if names.is_table(name):
                self._table = self._table or name
            else:
                self._add_parquet(names.split_suffix(name)[0], name)
        elif kind == "tar":
            self._add_tar(names.tar_stem(name))
            self._found.setdefault(None if names.is_compressed_tar(name) else SourceKind.TAR, name)
        elif kind == "images":
            self._found.setdefault(SourceKind.IMAGES, name)
        elif not self._found and not self._alone and self._is_picture(name, uri):
            return "images"
        return kind

    def _add_parquet(self, stem: str, name: str) -> None:
        # img2dataset writes metadata in Parquet beside its tars.
        if stem not in self._tars and len(self._alone) < _MOST_STEMS:
            self._alone[stem] = name

    def _add_tar(self, stem: str) -> None:
        self._alone.pop(stem, None)
        if len(self._tars) < _MOST_STEMS:
            self._tars.add(stem)

    def _is_picture(self, name: str, uri: str) -> bool:
        if self._first_bytes.reason_against(name, lambda: head_of_file(uri)) is not None:
            return False
        self._by_content = self._by_content or name
        return True

    @property
    def kinds(self) -> dict[SourceKind | None, str]:
        """Kind -> one of its files."""
        kinds = dict(self._found)
        if self._alone:
            kinds[SourceKind.PARQUET] = self._alone[min(self._alone)]
        if not kinds and self._by_content:
            kinds[SourceKind.IMAGES] = self._by_content
        if not kinds and self._table:
            kinds[SourceKind.PARQUET] = self._table
        return kinds


def _nothing(
    source: str, wanted: SourceKind | None, found: dict[SourceKind | None, str]
) -> ConfigError:
    source = as_utf8(source)
    if None in found and wanted in {None, SourceKind.TAR}:
        return ConfigError(
            f"{source}: need tars that are not compressed, got {as_utf8(found[None])}; "
            "decompress them (members are read by seeking)"
        )
    if source.lower().endswith(".zip"):
        return ConfigError(
            f"{source}: need images, tars or Parquet files, got a zip archive; unpack it "
            f"(`unzip {posixpath.basename(source)} -d FOLDER`) and give the folder"
        )
    if not files.is_remote(source) and os.path.isfile(os.path.join(source, "state.json")):
        return ConfigError(
            f"{source}: need images, tars or Parquet files, got Arrow files of `save_to_disk`; "
            "write Parquet with datasets.load_from_disk(FOLDER).to_parquet(FILE) and give that"
        )
    need = f"{wanted} files" if wanted is not None else "images, tars or Parquet files"
    got = ", ".join(f"{kind} ({as_utf8(name)})" for kind, name in found.items() if kind)
    return ConfigError(
        f"{source}: need {need}, got {got or 'none'}; check the path"
        + (" and --source-format" if wanted is not None else "")
        + (" (folders are read recursively, a glob only as it says: **/*.jpg)")
    )


def _check_splits(spec: SourceSpec, found: Sequence[_Names]) -> None:
    """Refuse at the start what the listing would refuse, as far as the first names tell it."""
    if spec.split == "all":
        return
    splits: set[str | None] = set()
    several, whole = False, True
    for of_selection in found:
        first = of_selection.first
        whole = whole and len(first) < of_selection.most
        seen = {
            named_split(spec.relative(f"{of_selection.selection.base}/{name}"), spec.kind)
            for name in first
            if names.kind_of(name) == spec.kind
        }
        several = several or len(seen - {None}) > 1
        splits |= seen
    if spec.split == "auto":
        if several:
            for _ in list_source(spec):  # some of the names may be no part of the source
                pass
    elif whole and spec.split not in splits:
        there = ", ".join(sorted(split for split in splits if split)) or "no split by its names"
        raise ConfigError(
            f"{as_utf8(spec.root)}: need files of split {spec.split}, got {there}; "
            "correct --source-split, or leave it out"
        )


def _check_options(spec: SourceSpec) -> None:
    if spec.caption not in _ALLOWED_CAPTIONS[spec.kind]:
        allowed = ", ".join(sorted(_ALLOWED_CAPTIONS[spec.kind]))
        raise ConfigError(
            f"--caption: need one of {allowed} with a source of {spec.kind}, got {spec.caption}"
        )
    if spec.image_column is not None and spec.kind is not SourceKind.PARQUET:
        raise ConfigError(
            f"--image-column: need a Parquet source, got {spec.kind}; leave the option out"
        )
    if spec.caption_text is not None:
        try:
            spec.caption_text.encode()
        except UnicodeEncodeError:
            raise ConfigError("--caption-text: need valid UTF-8, got other bytes") from None
    if spec.kind is SourceKind.PARQUET:
        from pipeline.sources.columns import check_columns  # which brings Arrow

        check_columns(spec)
