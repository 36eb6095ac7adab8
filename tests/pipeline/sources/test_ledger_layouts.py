"""Random folders, tars and Parquet files: nothing is lost, whatever they hold.

found = planned + ignored, planned = rows + rejects, captions offered = used + unused; what was
found and offered is counted here on its own, from what the layout was made of.
"""

import io
import itertools
import json
import os
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import GenerateConfig
from pipeline.generate import generate
from pipeline.sources import (
    Container,
    Notes,
    index_container,
    iter_reads,
    list_source,
    resolve_source,
)
from schemas.errors import ConfigError, NothingKept, Rejected
from schemas.ledger import CaptionCounts, Unused

SIDECARS = (".txt", ".caption", ".json")
TABLES = ("metadata.jsonl", "metadata.csv")
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
STEMS = ("a", "b", "A", COMPOSED, DECOMPOSED, "photo", "photo.1", "photo.depth", ".h", "x.y z")
SUFFIXES = (
    *(".jpg", ".jpg", ".jpg", ".PNG", ".png", ".txt", ".txt", ".json", ".caption", ".TXT"),
    *(".jpg.txt", ".svg", ".pdf", "", ".what", ".jpg?w=80", ".cls"),
)
FOLDERS = ("", "", "", "in/", "in/deep/", ".hidden/", "other/")


def _picture():
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 99, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


PICTURE = _picture()
CONTENTS = (
    *(PICTURE, PICTURE, b"", b"  \n", b"a caption", b"caf\xe9", "w\u00f6rter".encode("utf-16")),
    *(b'{"caption": "one"}', b'{"text": ["one", "two", ""]}', b'{"caption": 7}', b"{", b"[]"),
)
NAMES = st.builds("".join, st.tuples(*map(st.sampled_from, (FOLDERS, STEMS, SUFFIXES))))
FILES = st.builds(
    lambda usual, others: dict.fromkeys(usual, PICTURE) | others,
    st.lists(st.sampled_from(("a.jpg", "b.jpg", "in/a.jpg", "photo.jpg")), max_size=3),
    st.dictionaries(NAMES, st.sampled_from(CONTENTS), max_size=14),
)
LINE_NAMES = st.one_of(
    st.sampled_from(("a.jpg", "A.JPG", "x/a.jpg", "in\\a.jpg", "b.jpg")),
    NAMES,
    NAMES.map(lambda name: "prefix/" + name),
    NAMES.map(lambda name: name.replace("/", "\\")),
    NAMES.map(str.upper),
    st.just("missing.jpg"),
)
VALUES = st.sampled_from(("text", "", ["x", "y"], 3, None))
LINES = st.lists(st.tuples(LINE_NAMES, VALUES), max_size=6)
TABLE_PATHS = st.sampled_from([f"{folder}{table}" for folder in ("", "in/") for table in TABLES])
TABLE_LINES = st.dictionaries(TABLE_PATHS, LINES)
CELLS = st.lists(
    st.tuples(st.sampled_from((PICTURE, b"", b"x", None)), st.sampled_from(("t", " ", None))),
    min_size=1,
    max_size=9,
)
MODES = st.sampled_from(("auto", "auto", "none", "sidecar", "metadata", "filename"))
LISTS = st.sampled_from(("first", "random", "join"))


def write_folder(folder, files, tables):
    """Write what can lie side by side; returns what was written: name -> content."""
    written = {}
    for name, content in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
        written[name] = content
    for name, lines in tables.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jsonl"):
            text = "".join(json.dumps({"file_name": n, "text": t}) + "\n" for n, t in lines)
        else:
            cells = [(n, t if isinstance(t, str) else "") for n, t in lines]
            text = "image;caption\n" + "".join(f'"{n}";"{t}"\n' for n, t in cells)
        path.write_text(text)
    return written


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_parquet(path, cells):
    images = [None if raw is None else {"bytes": raw, "path": None} for raw, _ in cells]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = pa.array([text for _, text in cells], pa.string())
    table = pa.table({"image": pa.array(images, kind), "TEXT": texts})
    pq.write_table(table, path, row_group_size=4)


def is_hidden(name):
    return any(part.startswith(".") for part in name.split("/"))


def is_sidecar(name):
    return os.path.splitext(name)[1].lower() in SIDECARS


def listed(spec):
    notes, refs = Notes(), []
    for found in list_source(spec, notes):
        is_container = isinstance(found, Container)
        refs += index_container(found, spec, notes) if is_container else [found]
    return notes, refs


def check_sums(spec, notes, refs):
    """The sums that must hold whatever the source is; what became of the captions."""
    assert len(refs) == notes.pictures
    assert notes.found == notes.pictures + notes.ignored.total
    assert notes.attached == sum(ref.captions for ref in refs)
    assert len({ref.key for ref in refs}) == len(refs)
    used, unused = 0, Counter()
    good = [ref for ref in refs if ref.problem is None]
    unused[Unused.PICTURE_REJECTED] += sum(ref.captions for ref in refs if ref.problem is not None)
    cells = 0
    for ref, fetch in iter_reads(good, spec):
        try:
            image = fetch()
        except Rejected:
            unused[Unused.PICTURE_REJECTED] += ref.captions
            continue
        if spec.kind == "parquet":
            cells += image.used + len(image.unused)
        else:
            assert image.used + len(image.unused) == ref.captions
        assert image.used == (image.caption_source in {"sidecar", "metadata", "column:TEXT"})
        assert image.used <= (image.caption is not None)
        used += image.used
        unused.update(image.unused)
    counts = CaptionCounts(used=used)
    assert used + unused.total() == notes.attached + cells
    ledger = notes.ledger(planned=len(refs), captions=counts)
    assert ledger.found == ledger.planned + notes.ignored.total
    return cells


def check_captions(refs, notes, sidecars, lines):
    """Each caption file counts for each of its pictures, or once; each line counts once."""
    places = Counter()
    for ref in refs:
        own = [] if ref.caption_place is None else [ref.caption_place]
        for place in (*own, *(more.place for more in ref.more_captions)):
            places[place.uri, place.offset] += 1
    shared = sum(count - 1 for count in places.values())
    assert notes.attached + notes.unused.total == sidecars + lines + shared


def check_folder(folder, files, tables, options):
    written = write_folder(folder, files, tables)
    try:
        spec = spec_of(folder, options)
    except ConfigError as error:
        if "need images, tars or Parquet files" not in str(error):
            raise
        return  # there is no picture
    notes, refs = listed(spec)
    check_sums(spec, notes, refs)
    visible = [name for name in written if not is_hidden(name)]
    sidecars = sum(is_sidecar(name) for name in visible)
    hidden = {
        (Path(*parts[: index + 1]))
        for name in written
        for parts in [Path(name).parts]
        for index, part in enumerate(parts)
        if part.startswith(".") and not any(one.startswith(".") for one in parts[:index])
    }
    empty = [name for name, lines in tables.items() if not lines]
    takes_tables = options["caption"] in {"auto", "metadata"}
    not_understood = len(empty) if takes_tables else 0
    assert notes.found == len(visible) - sidecars + len(hidden) + not_understood
    lines = sum(map(len, tables.values())) if takes_tables else len(tables)
    check_captions(refs, notes, sidecars, lines)


def check_tar(folder, files, options):
    write_tar(folder / "a.tar", files)
    spec = spec_of(folder, options)
    notes, refs = listed(spec)
    check_sums(spec, notes, refs)
    sidecars = sum(is_sidecar(name) and not is_hidden(name) for name in files)
    assert notes.found == len(files) - sidecars
    check_captions(refs, notes, sidecars, 0)


def check_parquet(folder, cells, options):
    write_parquet(folder / "a.parquet", cells)
    spec = spec_of(folder, options)
    notes, refs = listed(spec)
    offered = sum(raw is not None and text is not None for raw, text in cells)
    assert check_sums(spec, notes, refs) == (offered if options["caption"] == "auto" else 0)
    assert (notes.found, notes.pictures) == (len(cells), len(cells))


def spec_of(source, options):
    config = GenerateConfig(source=str(source), output="out", conditions=("canny",), **options)
    return resolve_source(config)


def check_layout(files, tables, cells, mode, lists):
    options = {"caption": mode, "caption_list": lists}
    with tempfile.TemporaryDirectory() as scratch:
        places = [Path(scratch) / name for name in ("folder", "tar", "parquet")]
        for place in places:
            place.mkdir()
        check_folder(places[0], files, tables, options)
        check_tar(places[1], files, options | ({} if mode != "metadata" else {"caption": "auto"}))
        of_rows = mode if mode in {"auto", "none"} else "auto"
        check_parquet(places[2], cells, options | {"caption": of_rows})


LAYOUT = {"files": FILES, "tables": TABLE_LINES, "cells": CELLS, "mode": MODES, "lists": LISTS}
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=50, derandomize=True, **QUIET)
@given(**LAYOUT)
def test_every_file_member_row_and_caption_of_random_layouts_is_accounted_for(**layout):
    check_layout(**layout)


@pytest.mark.slow
@settings(max_examples=500, derandomize=True, **QUIET)
@given(**LAYOUT)
def test_five_hundred_random_layouts_are_accounted_for(**layout):
    check_layout(**layout)


def check_generated(source, output, **options):
    config = GenerateConfig(
        source=str(source),
        output=str(output),
        conditions=("canny",),
        **({"resolution": 16, "min_side": 8, "num_workers": 2, "validation": 0.3} | options),
    )
    try:
        manifest = generate(config)
    except NothingKept:
        assert not (output / "manifest.json").exists()
        return
    ledger = manifest.ledger
    assert ledger.found == ledger.planned + sum(one.count for one in ledger.ignored.values())
    assert ledger.planned == manifest.planned == manifest.rows + manifest.rejected_images
    captions = json.loads((output / "manifest.json").read_text())["ledger"]["captions"]
    unused = sum(one["count"] for one in captions["unused"].values())
    assert captions["offered"] == captions["used"] + unused
    stored = pq.ParquetDataset(output / "data").read(["text", "caption_source"]).to_pylist()
    assert captions["used"] == sum(row["caption_source"] is not None for row in stored)
    assert all((row["text"] is None) == (row["caption_source"] is None) for row in stored)
    again = generate(config)  # all shards are there: the same ledger from their records
    assert again.ledger == ledger


@pytest.mark.parametrize("number", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_the_ledger_of_a_real_run_balances(tmp_path, kind, number):
    source = tmp_path / "in"
    source.mkdir()
    names = ["".join(parts) for parts in itertools.product(("", "in/"), STEMS, SUFFIXES)]
    of = itertools.cycle(CONTENTS[number:] + CONTENTS[:number])
    files = dict(zip(names, of, strict=False))
    if kind == "folder":
        lines = [("a.jpg", "x"), ("a.jpg", "y"), ("in\\b.jpg", ["p", "q"]), ("none.jpg", "z")]
        write_folder(source, files | {"sure.jpg": PICTURE}, {"metadata.jsonl": lines})
    elif kind == "tar":
        write_tar(source / "a.tar", files | {"sure.jpg": PICTURE, "sure.txt": b"yes"})
    else:
        cells = [(PICTURE, "t"), (None, "t"), (b"x", "t"), (PICTURE, None)] * 5
        write_parquet(source / "a.parquet", cells)
    check_generated(source, tmp_path / "out", **({"limit": 7} if number == 1 else {}))
