"""Mutations of a folder: each is a pure function of a seed and a number."""

import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.mutation_world import TARGETS, World, remove

_HOLE = "@@hole@@"
_DEEP = 100_000

TEXTS: tuple[str, ...] = (
    "../../x", "../../../outside/canary.json", "/outside/canary.json", "..", ".", "", " ", "~", "/",
    "a\0b", "a\x1b[31mred", "a\x9b31mred", "[/b]", "[bold]x", "a\u202egnp.exe", "a\nb",
    "x" * 300, "x" * 100_000, "{0}", "%s", "<script>alert(1)</script>", "C:\\x", "file:///etc",
    "s3://", "nan", "-1", "é☃", "nano", "train", "canny", "int32",
)  # fmt: skip
"""Texts where others were."""

RAW: tuple[bytes, ...] = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" + b"0" * 400, b"9" * 5000,
    b"18446744073709551616", b"9223372036854775808", b"-9223372036854775809", b"4294967296",
    b"2147483648", b"-1", b"0", b"1", b"0.5", b"-0.5", b"1e308", b"1e-320", b"-0", b"null",
    b"true", b"false", b"[]", b"{}", b"[[]]", b'[""]', b"[null]", b'{"a":1}', b'{"":{}}',
    b"[" * _DEEP + b"]" * _DEEP, b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
    b'"\xff\xfe"', b'"\x80"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\u0000"', b'"a', b"",
)  # fmt: skip
"""JSON, or nearly so, where a value was."""


class Mutation(NamedTuple):
    """What is done to which folder."""

    number: int
    target: str
    kind: str
    what: str  # for a person: the file and the change


class _Hand:
    """Changes one folder by the numbers of one generator."""

    def __init__(self, world: World, target: str, rng: random.Random) -> None:
        self.world, self.folder, self.rng = world, world.at(target), rng
        self.target = target
        self.said: list[str] = []

    def say(self, *words: object) -> None:
        self.said += [str(word) if len(str(word)) < 60 else f"{str(word)[:57]}…" for word in words]

    def files(self, *suffixes: str) -> list[Path]:
        found = [
            path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and (not suffixes or path.suffix in suffixes)
        ]
        # Bulk must not crowd out what decides: figures and pages are one file in ten.
        minor = [path for path in found if path.suffix in {".html", ".png", ".md"}]
        major = [path for path in found if path not in minor]
        if suffixes or not major or (minor and self.rng.random() < self._minor_share()):
            return minor if minor and not suffixes else found
        return major

    def _minor_share(self) -> float:
        return 0.5 if self.target == "evaluation" else 0.1

    def file(self, *suffixes: str) -> Path:
        path = self.rng.choice(self.files(*suffixes))
        self.say(path.relative_to(self.folder))
        return path

    def text(self) -> str:
        text = self.rng.choice(TEXTS)
        if text.startswith("/outside"):
            text = f"{self.world.root}{text}"
        return text

    def raw(self) -> bytes:
        """A value of hostile JSON."""
        if self.rng.random() < 0.5:
            return json.dumps(self.text()).encode()
        return self.rng.choice(RAW)


def _flip(hand: _Hand) -> None:
    path = hand.file()
    content = bytearray(path.read_bytes())
    if not content:
        return
    place = hand.rng.randrange(len(content))
    content[place] ^= 1 << hand.rng.randrange(8)
    hand.say("at", place)
    path.write_bytes(content)


def _scatter(hand: _Hand) -> None:
    path = hand.file()
    content = bytearray(path.read_bytes())
    for _ in range(hand.rng.randint(2, 20) if content else 0):
        content[hand.rng.randrange(len(content))] = hand.rng.randrange(256)
    path.write_bytes(content)


def _truncate(hand: _Hand) -> None:
    path = hand.file()
    size = path.stat().st_size
    kept = hand.rng.choice([size - 1, size // 2, hand.rng.randrange(size + 1), 8, 4])
    hand.say("to", kept)
    os.truncate(path, max(0, min(size, kept)))


def _hole(hand: _Hand) -> None:
    path = hand.file()
    content = bytearray(path.read_bytes())
    start = hand.rng.randrange(len(content) + 1)
    length = hand.rng.choice([16, 512, 4096])
    content[start : start + length] = bytes(len(content[start : start + length]))
    hand.say("at", start, "of", length)
    path.write_bytes(content)


def _swap(hand: _Hand) -> None:
    first = hand.file()
    others = [one for one in hand.files(first.suffix) if one != first]
    same = [one for one in others if one.parent == first.parent]
    if not others:
        return _empty_file(first)
    second = hand.rng.choice(same if same and hand.rng.random() < 0.7 else others)
    hand.say("and", second.relative_to(hand.folder))
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    return None


def _copy_over(hand: _Hand) -> None:
    first = hand.file()
    others = [one for one in hand.files(first.suffix) if one != first]
    if not others:
        return _empty_file(first)
    second = hand.rng.choice(others)
    hand.say("over", second.relative_to(hand.folder))
    shutil.copyfile(first, second)
    return None


def _empty_file(path: Path) -> None:
    path.write_bytes(b"")


def _delete(hand: _Hand) -> None:
    hand.file().unlink()


def _delete_folder(hand: _Hand) -> None:
    folders = [path for path in sorted(hand.folder.rglob("*")) if path.is_dir()]
    folder = hand.rng.choice(folders)
    hand.say(folder.relative_to(hand.folder))
    shutil.rmtree(folder)


def _duplicate(hand: _Hand) -> None:
    path = hand.file()
    names = (f"a-{path.name}", f"z-{path.name}", f".{path.name}.tmp", path.name + "\x1b[31m", "x")
    name = hand.rng.choice(names)
    hand.say("as", repr(name))
    shutil.copyfile(path, path.with_name(name))


def _empty(hand: _Hand) -> None:
    _empty_file(hand.file())


def _append(hand: _Hand) -> None:
    path = hand.file()
    more = hand.rng.choice([b"\0", b"\n", b"x" * 100, path.read_bytes(), b"{}", b"\xff" * 9])
    hand.say(len(more), "bytes")
    path.write_bytes(path.read_bytes() + more)


def _link(hand: _Hand) -> None:
    path = hand.file()
    outside = hand.world.root / "outside" / f"canary{path.suffix}"
    aside = hand.world.root / "outside" / "moved"
    to = hand.rng.choice(["outside", "nowhere", "itself", "dev", "same"])
    hand.say("->", to)
    if to == "same":
        shutil.copyfile(path, aside)
    path.unlink()
    path.symlink_to(
        {
            "outside": outside, "nowhere": "nowhere", "itself": path.name,
            "dev": "/dev/zero", "same": aside,
        }[to]
    )  # fmt: skip


def _folder_for_file(hand: _Hand) -> None:
    path = hand.file()
    path.unlink()
    path.mkdir()
    if hand.rng.random() < 0.5:
        (path / "inside").write_text("x")


def _pipe(hand: _Hand) -> None:
    path = hand.file()
    path.unlink()
    os.mkfifo(path)


def _unreadable(hand: _Hand) -> None:
    """Of another picture's bytes: a valid file where another should be."""
    path = hand.file()
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + hand.rng.randbytes(200))


def _nodes(document: Any, path: tuple = ()) -> list[tuple]:
    """Paths of all nodes but the root."""
    found: list[tuple] = []
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for name, one in items:
        found.append((*path, name))
        if isinstance(one, dict | list):
            found += _nodes(one, (*path, name))
    return found


def changed_json(hand: _Hand, document: Any) -> bytes:
    """The document with one node changed, added, renamed or left out."""
    nodes = _nodes(document) if isinstance(document, dict | list) else []
    how = hand.rng.choice(["value"] * 6 + ["missing", "extra", "renamed", "root", "twice"])
    if not nodes or how == "root":
        raw = hand.raw()
        hand.say("root =", raw[:40])
        return raw
    where = hand.rng.choice(nodes)
    parent = document
    for name in where[:-1]:
        parent = parent[name]
    hand.say(".".join(map(str, where)), how)
    name = where[-1]
    if how == "missing":
        del parent[name]
    elif isinstance(parent, list) and how in {"extra", "renamed", "twice"}:
        parent.append(parent[name])
    elif how == "renamed":
        parent[hand.text()] = parent.pop(name)
    elif how == "extra":
        parent[hand.text()] = _HOLE
    elif how == "twice":
        again = json.dumps(parent[name])
        parent[name] = _HOLE
        raw = again.encode() + b"," + json.dumps(name).encode() + b":" + hand.raw()
        return json.dumps(document).encode().replace(f'"{_HOLE}"'.encode(), raw, 1)
    else:
        parent[name] = _HOLE
    text = json.dumps(document).encode()
    if _HOLE.encode() not in text:
        return text
    raw = hand.raw()
    hand.say("=", raw[:40])
    return text.replace(f'"{_HOLE}"'.encode(), raw, 1)


def _json(hand: _Hand) -> None:
    path = hand.file(".json", ".jsonl")
    if path.suffix == ".jsonl":
        lines = path.read_bytes().splitlines()
        number = hand.rng.randrange(len(lines))
        lines[number] = changed_json(hand, json.loads(lines[number]))
        path.write_bytes(b"\n".join(lines) + b"\n")
        return
    path.write_bytes(changed_json(hand, json.loads(path.read_bytes())))


def _safetensors(hand: _Hand) -> None:
    """Another header, or values that are none."""
    path = hand.file(".safetensors")
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    body = bytearray(content[8 + size :])
    if hand.rng.random() < 0.5:
        value = hand.rng.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"])
        places = [one["data_offsets"][0] for name, one in header.items() if name[0] != "_"]
        place = hand.rng.choice(places)
        body[place : place + 4] = value
        hand.say("value", value.hex())
        raw = json.dumps(header).encode()
    else:
        raw = changed_json(hand, header)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + body)


def _parquet_footer(hand: _Hand) -> None:
    path = hand.file(".parquet")
    table = pq.ParquetFile(path).read(use_threads=False)
    metadata = dict(table.schema.metadata or {})
    if not metadata:
        metadata[b"huggingface"] = b"{}"
    name = hand.rng.choice(sorted(metadata))
    how = hand.rng.choice(["json", "json", "json", "missing", "raw"])
    hand.say(name, how)
    if how == "missing":
        metadata.pop(name, None)
    elif how == "raw" or not metadata[name].startswith(b"{"):
        metadata[name] = hand.raw()
    else:
        metadata[name] = changed_json(hand, json.loads(metadata[name]))
    _write_parquet(hand, path, table.replace_schema_metadata(metadata))


def _parquet_cell(hand: _Hand) -> None:
    """Another value in one cell, or in all of a column."""
    path = hand.file(".parquet")
    table = pq.ParquetFile(path).read(use_threads=False)
    if not table.num_rows:
        return
    row = hand.rng.randrange(table.num_rows)
    column = hand.rng.choice(["key", *table.column_names])
    if column not in table.column_names:
        column = table.column_names[0]
    kind = table.schema.field(column).type
    values = table.column(column).to_pylist()
    values[row] = _other(hand, kind, values, row)
    hand.say(column, row, "=", repr(values[row]))
    place = table.column_names.index(column)
    made = pa.array(values, kind)
    _write_parquet(hand, path, table.set_column(place, table.schema.field(column), made))


def _other(hand: _Hand, kind: pa.DataType, values: list, row: int) -> Any:
    if hand.rng.random() < 0.15:
        return None
    if hand.rng.random() < 0.2:
        return values[hand.rng.randrange(len(values))]
    if pa.types.is_string(kind):
        return hand.text()
    if pa.types.is_integer(kind):
        return hand.rng.choice([-1, 0, 1, 7, 63, 65, 2**31 - 1, -(2**31)])
    if pa.types.is_floating(kind):
        return hand.rng.choice([float("nan"), float("inf"), -1.0, 1e30, 0.0])
    if pa.types.is_binary(kind):
        return hand.rng.choice([b"", b"x", b"\xff" * 2048, b"\x00\x7e" * 1024])
    if pa.types.is_struct(kind):
        old = (values[row] or values[0] or {}).get("bytes") or b""
        other = bytearray(old or b"x")
        other[hand.rng.randrange(len(other))] ^= 255
        cells = [b"", None, bytes(other), old[: len(old) // 2], *PICTURES.values()]
        return {"bytes": hand.rng.choice(cells), "path": hand.text()}
    return None


def _write_parquet(hand: _Hand, path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, row_group_size=100, compression="NONE", use_dictionary=False)


def _parquet_columns(hand: _Hand) -> None:
    """A column less, twice, of another type, or in another place; or fewer rows."""
    path = hand.file(".parquet")
    table = pq.ParquetFile(path).read(use_threads=False)
    name = hand.rng.choice(table.column_names)
    how = hand.rng.choice(["less", "type", "renamed", "order", "rows", "none", "twice"])
    hand.say(name, how)
    metadata, place = table.schema.metadata, table.column_names.index(name)
    if how == "less":
        table = table.drop_columns([name])
    elif how == "type":
        table = table.set_column(place, name, pa.array([1.5] * table.num_rows))
    elif how == "renamed":
        names = list(table.column_names)
        names[place] = hand.text().replace("\0", "") or "x"
        table = table.rename_columns(names)
    elif how == "order":
        table = table.select(table.column_names[::-1])
    elif how == "rows":
        table = table.slice(1)
    elif how == "none":
        table = table.slice(0, 0)
    else:
        table = pa.concat_tables([table, table])
    _write_parquet(hand, path, table.replace_schema_metadata(metadata))


def _resealed(hand: _Hand) -> None:
    """As above, with sizes and hashes made good wherever the old ones stood: another valid set."""
    before = {path: path.read_bytes() for path in hand.folder.rglob("*") if path.is_file()}
    change = hand.rng.choice([_parquet_cell, _parquet_cell, _parquet_footer, _parquet_columns])
    change(hand)
    for path, old in before.items():
        new = path.read_bytes()
        if new == old:
            continue
        digests = [hashlib.sha256(one).hexdigest().encode() for one in (old, new)]
        sizes = [str(len(one)).encode() for one in (old, new)]
        for document in hand.files(".json"):
            text = document.read_bytes()
            if digests[0] in text:
                document.write_bytes(text.replace(*digests).replace(*sizes))


def _safetensors_resealed(hand: _Hand) -> None:
    before = {path: path.read_bytes() for path in hand.folder.rglob("*") if path.is_file()}
    _safetensors(hand)
    for path, old in before.items():
        new = path.read_bytes()
        for document in hand.files(".json") if new != old else ():
            digests = [hashlib.sha256(one).hexdigest().encode() for one in (old, new)]
            document.write_bytes(document.read_bytes().replace(*digests))


def _planted(hand: _Hand) -> None:
    """An interrupted addition that was never begun, whose paths leave the folder."""
    staging = hand.folder / ".controlset" / "adding"
    staging.mkdir(parents=True)
    document = json.loads((hand.folder / "manifest.json").read_bytes())
    shard = hand.rng.choice(document["shards"])
    path = hand.rng.choice(["../../x", "../../x", hand.text(), f"{hand.world.root}/outside/x"])
    hand.say(path)
    source = Path(os.path.normpath(staging / "x" if "\0" in path else staging / path))
    inside = source.is_relative_to(hand.folder) and len(source.name) < 200
    if inside and not source.exists():  # what would be moved out
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("payload")
    if hand.rng.random() < 0.5:
        shard["data"]["path"] = path
    else:
        shard["name"] = path
    (staging / "manifest.json").write_text(json.dumps(document))


def _pictures() -> dict[str, bytes]:
    """Pictures that no cell of ours holds."""
    import io

    from PIL import Image

    made = {}
    for name, size in (("grey", (64, 64)), ("small", (63, 64)), ("large", (3000, 3000))):
        buffer = io.BytesIO()
        Image.new("L", size, 7).save(buffer, "PNG")
        made[name] = buffer.getvalue()
    buffer = io.BytesIO()
    Image.new("P", (64, 64)).save(buffer, "PNG")
    made["without palette"] = buffer.getvalue().replace(b"PLTE", b"PLTX")
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 60_000, 60_000)
    made["bomb"] = header + b"\x08\x02\0\0\0\0\0\0\0"
    made["eps"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n"
    made["svg"] = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>'
    return made


PICTURES = _pictures()

_ANY: Mapping[str, Callable[[_Hand], None]] = {
    "bit flipped": _flip,
    "bytes scattered": _scatter,
    "truncated": _truncate,
    "zero hole": _hole,
    "two files swapped": _swap,
    "one file over another": _copy_over,
    "deleted": _delete,
    "folder deleted": _delete_folder,
    "duplicated": _duplicate,
    "emptied": _empty,
    "bytes appended": _append,
    "link": _link,
    "folder for file": _folder_for_file,
    "pipe for file": _pipe,
    "foreign bytes": _unreadable,
    "JSON changed": _json,
}
_PARQUET: Mapping[str, Callable[[_Hand], None]] = {
    "Parquet footer": _parquet_footer,
    "Parquet cell": _parquet_cell,
    "Parquet columns": _parquet_columns,
}
_OF: Mapping[str, Mapping[str, Callable[[_Hand], None]]] = {
    "set": {**_PARQUET, "resealed": _resealed, "planted": _planted},
    "run": {"safetensors": _safetensors, "safetensors resealed": _safetensors_resealed},
    "evaluation": _PARQUET,
}
_OFTEN = {
    "JSON changed": 5,
    "bit flipped": 2,
    "resealed": 4,
    "Parquet cell": 2,
    "Parquet footer": 2,
}
_SHARES = (6, 3, 3)  # of sets, runs, evaluations

ANOTHER = frozenset({"resealed", "safetensors resealed"})
"""Kinds whose result may be another valid folder: other values are no fault of a reader."""


def drawn(seed: int, number: int) -> tuple[str, str, random.Random]:
    """Target and kind of a mutation, and the numbers that the rest is drawn from."""
    rng = random.Random(f"{seed}/{number}")
    (target,) = rng.choices(TARGETS, _SHARES)
    kinds = list(_kinds_of(target))
    (kind,) = rng.choices(kinds, [_OFTEN.get(name, 1) for name in kinds])
    return target, kind, rng


def _kinds_of(target: str) -> Mapping[str, Callable[[_Hand], None]]:
    return {**_ANY, **_OF[target]}


def mutate(world: World, seed: int, number: int) -> Mutation:
    """Change one of the three folders, which are as they were made."""
    target, kind, rng = drawn(seed, number)
    hand = _Hand(world, target, rng)
    _kinds_of(target)[kind](hand)
    return Mutation(number, target, kind, " ".join(hand.said))


def undo(world: World, target: str) -> None:
    """The target, and what a link may have led to."""
    world.restore(target)
    remove(world.root / "outside" / "moved")
