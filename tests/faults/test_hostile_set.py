"""Data sets from a stranger: every attacking file is made here, none is followed."""

import contextlib
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlnet.trainer.index import scan
from controlset.cli import main
from pipeline.add.add import add
from pipeline.config import AddConfig
from pipeline.generate import generate
from pipeline.inspection import inspect_dataset
from pipeline.verify.verify import verify_dataset
from schemas.dataset import check_shards, open_dataset
from schemas.errors import ConfigError
from tests.faults.conftest import config_for, contents
from tests.pipeline.handmade import encoded, photograph, rewritten, row_of, write_dataset

NAME = "train-00000-of-00001"
OTHERS = "validation-00000-of-00001"
SHARD = f"data/{NAME}.parquet"


def rows(first, count):
    return [
        row_of(photograph("chelsea", 16 * n + 48), f"{n}.png") for n in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Four rows to train on and two to judge by; equally many bytes of neither."""
    folder = tmp_path_factory.mktemp("hostile") / "set"
    write_dataset(folder, {"train": rows(0, 4), "validation": rows(4, 2)})
    return folder


@pytest.fixture
def hostile(original, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").write_text("mine")
    return shutil.copytree(original, tmp_path / "home" / "set")


def stage(hostile, change, name=SHARD):
    """An addition past its point of no return, as `add` leaves one; `change` edits its manifest."""
    adding = hostile / ".controlset" / "adding"
    (adding / "data").mkdir(parents=True)
    document = json.loads((hostile / "manifest.json").read_text())
    (adding / "payload").write_text("owned")
    change(document)
    (adding / "manifest.json").write_text(json.dumps(document))


def everything(folder):
    """Path -> what every file of the attacked home holds; folders count."""
    return contents(folder), sorted(str(path) for path in folder.rglob("*"))


READERS = {
    "verify": lambda path: main(["verify", path]),
    "inspect": lambda path: main(["inspect", path]),
    "open": lambda path: list(open_dataset(path)),
    "scan": lambda path: scan(path, split="train", condition="canny", wants_latents=False),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_never_takes_the_steps_of_an_addition(hostile, reader, capsys):
    stage(hostile, lambda document: None)
    before = everything(hostile.parent)
    READERS[reader](str(hostile))
    assert everything(hostile.parent) == before
    if reader in {"verify", "inspect"}:
        said = capsys.readouterr().err
        assert (
            f"an addition of columns waits to be finished; run `controlset add {hostile}`" in said
        )


PATHS = {
    "out": "../../precious",
    "absolute": "/tmp/precious",
    "through": "data/../../precious",
    "backslash": "data\\..\\precious.parquet",
    "drive": "C:/precious.parquet",
    "nul": f"data/{NAME}\0.parquet",
    "newline": f"data/{NAME}\n.parquet",
    "other folder": f".controlset/{NAME}.parquet",
    "another name": f"data/{OTHERS}.parquet",
    "no suffix": f"data/{NAME}",
    "number": 7,
    "null": None,
}


@pytest.mark.parametrize("path", PATHS)
def test_a_manifest_names_no_file_but_its_shards(hostile, path, capsys):
    def change(document):
        document["shards"][0]["data"]["path"] = PATHS[path]

    stage(hostile, change)
    rewritten(hostile, change)
    before = everything(hostile.parent)
    for reader in ("open", "scan"):
        with pytest.raises(ConfigError, match=r"manifest\.json: need a document of co"):
            READERS[reader](str(hostile))
    assert main(["add", str(hostile)]) == 2
    assert main(["verify", str(hostile)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert everything(hostile.parent) == before


def wrong(*path):
    """A change of the manifest: the value at `path[:-1]` becomes the last one."""

    def change(document):
        place = document
        for name in path[:-2]:
            place = place[name]
        place[path[-2]] = path[-1]

    return change


FIELDS = {
    "name with a path": wrong("shards", 0, "name", "../train-00000-of-00001"),
    "another split": wrong("shards", 0, "split", "validation"),
    "number past the total": wrong("shards", 0, "name", "train-00001-of-00001"),
    "negative rows": wrong("shards", 0, "data", "rows", -4),
    "rows of text": wrong("shards", 0, "data", "rows", "4"),
    "rows that are true": wrong("shards", 0, "data", "rows", True),
    "endless rows": wrong("shards", 0, "data", "rows", 10**30),
    "sha256 that is none": wrong("shards", 0, "data", "sha256", "../" * 20),
    "planned too many": wrong("shards", 0, "planned", 9),
    "a reason too many": wrong("shards", 0, "reasons", {"corrupt": 1}),
    "a total that is no sum": wrong("rows", 7),
    "reasons that are no sum": wrong("reasons", {"corrupt": 1}),
    "no shard": wrong("shards", []),
    "shards that are a number": wrong("shards", 3),
    "another format": wrong("format", "something"),
    "another schema": wrong("schema_version", "1"),
    "condition that is a path": wrong("annotators", {"../canny": {}}),
    "condition that is a column": lambda document: document.update(
        annotators={"image": document["annotators"]["canny"]}
    ),
    "statistic of no type": wrong("annotators", "canny", "stats", "low", "exec"),
    "statistics of text": wrong("annotators", "canny", "stats", "low"),
    "mode that is none": wrong("annotators", "canny", "hint_mode", "eps"),
    "weights without a hash": wrong("annotators", "canny", "weights", [{"source": "x"}]),
    "recipe of text": wrong("recipe", "resolution", "512"),
    "recipe that is a list": wrong("recipe", []),
    "captioner without a name": wrong("captioner", {"parameters": {}}),
    "latents of no size": wrong("latents", {"base": "x", "channels": 0}),
    "software of numbers": wrong("software", {"numpy": 2}),
    "source of nothing": wrong("source", None),
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_manifest_of_wrong_types_names_or_sums_is_refused_in_one_line(hostile, field, capsys):
    path = hostile / "manifest.json"
    document = json.loads(path.read_text())
    FIELDS[field](document)
    path.write_text(json.dumps(document))
    assert main(["verify", str(hostile)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: need " in line


RAW = {
    "empty": b"",
    "half": b'{"format": "controlset", "sha',
    "bytes above 0x7f": b'{"format": "\xff\xfe\x80"}',
    "a byte inside": None,
    "deep": b"[" * 100_000,
    "a number": b"7" * 5000,
    "not a number": b'{"schema_version": NaN}',
}


@pytest.mark.parametrize("raw", RAW)
def test_a_manifest_that_is_no_json_is_refused_in_one_line(hostile, raw, capsys):
    path = hostile / "manifest.json"
    whole = path.read_bytes()
    path.write_bytes(RAW[raw] or whole.replace(b"photos", b"ph\x93tos"))
    assert main(["verify", str(hostile)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: need " in line


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", [SHARD, "data", "manifest.json"])
def test_a_link_out_of_the_folder_is_not_followed(hostile, name, reader, capsys):
    outside = hostile.parent / "elsewhere"
    (hostile / name).rename(outside)
    (hostile / name).symlink_to(outside)
    if reader == "verify" and name != "manifest.json":
        assert main(["verify", str(hostile)]) == 1
        assert "need a file inside the data set's folder, got a link to" in capsys.readouterr().out
    elif reader in {"verify", "inspect"}:
        assert READERS[reader](str(hostile)) == 2
        assert "need a file inside the data set's folder, got a" in capsys.readouterr().err
    else:
        with pytest.raises(ConfigError, match="need a file inside the data set's folder, got a l"):
            READERS[reader](str(hostile))


def cached(folder, entry):
    """A data set as huggingface_hub keeps it: links to blobs."""
    snapshot = entry / "snapshots" / ("a" * 40)
    (entry / "blobs").mkdir(parents=True)
    for number, path in enumerate(path for path in sorted(folder.rglob("*")) if path.is_file()):
        blob = shutil.copy(path, entry / "blobs" / f"{number:040x}")
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_set_in_the_hugging_face_cache_is_read_through_its_links(photographs, tmp_path, capsys):
    rows = generate(config_for(photographs, tmp_path / "set")).rows
    snapshot = cached(tmp_path / "set", tmp_path / "datasets--somebody--set")
    before = everything(snapshot.parent.parent)
    assert main(["verify", str(snapshot)]) == 0, capsys.readouterr().out
    assert main(["inspect", str(snapshot)]) == 0
    assert len(list(open_dataset(str(snapshot)))) == rows
    check_shards(str(snapshot), open_dataset(str(snapshot)).manifest.shards)
    READERS["scan"](str(snapshot))
    with pytest.raises(ConfigError, match=r"got a link to .*/blobs/0.*; copy the set without"):
        add(AddConfig(output=str(snapshot), conditions=("grey",)))
    assert everything(snapshot.parent.parent) == before


@pytest.mark.parametrize("entry", ["datasets--somebody--set", "photos"])
def test_a_link_of_a_cache_leads_to_its_own_blobs_or_nowhere(original, tmp_path, entry):
    snapshot = cached(original, tmp_path / entry)
    if entry != "photos":
        other = cached(original, tmp_path / "datasets--somebody--other")
        (snapshot / SHARD).unlink()
        (snapshot / SHARD).symlink_to(other / SHARD)
    with pytest.raises(ConfigError, match="need a file inside the data set's folder, got a link"):
        list(open_dataset(str(snapshot)))


def test_a_pipe_in_the_place_of_a_shard_hangs_nobody(hostile):
    (hostile / SHARD).unlink()
    os.mkfifo(hostile / SHARD)
    assert not verify_dataset(str(hostile)).ok
    with pytest.raises(ConfigError, match="need a file, got something else"):
        list(open_dataset(str(hostile)))


@pytest.mark.parametrize("folder", ["data", "rejects", ".controlset", ".controlset/adding"])
def test_who_writes_deletes_nothing_behind_a_link(hostile, folder, tmp_path):
    outside = tmp_path / "outside"
    for name in (f"{NAME}.parquet", f"{NAME}.json", f".tmp-{'0' * 32}", "data/mine"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text("mine")
    shutil.rmtree(hostile / folder, ignore_errors=True)
    (hostile / folder).parent.mkdir(exist_ok=True)
    (hostile / folder).symlink_to(outside)
    before = everything(outside)
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(ConfigError, match="need a file inside the data set's folder"):
        add(AddConfig(output=str(hostile), conditions=("grey",)))
    with pytest.raises(ConfigError):
        generate(config_for(source, hostile, overwrite=True))
    assert everything(outside) == before


def damaged(hostile, change, **options):
    """Write the first shard again; manifest and size agree with it."""
    path = hostile / SHARD
    table = change(pq.read_table(path))
    pq.write_table(table, path, **{"compression": "NONE", "use_dictionary": False} | options)

    def as_it_lies(document):
        document["shards"][0]["data"]["size_bytes"] = path.stat().st_size

    rewritten(hostile, as_it_lies)


@pytest.mark.parametrize("key", ["../../precious", "a" * 31, "A" * 32, "a" * 32 + "\n", None])
def test_a_key_is_never_a_path(hostile, key):
    def change(table):
        keys = [key, *table["key"].to_pylist()[1:]]
        return table.set_column(0, table.schema.field(0), pa.array(keys, pa.string()))

    damaged(hostile, change)
    data = open_dataset(str(hostile), split="train")
    for read in (lambda: data.row(0), lambda: data[1], lambda: list(data.batches(["key"]))):
        with pytest.raises(ConfigError, match="need keys of 32 hex digits, got"):
            read()
    with pytest.raises(ConfigError, match="need keys of 32 hex digits, got"):
        READERS["scan"](str(hostile))
    assert not verify_dataset(str(hostile)).ok


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sha256", "../../precious"),
        ("sha256", None),
        ("source", None),
        ("width", None),
        ("height", 0),
        ("original_width", -1),
        ("original_height", 2**31 - 1),
        ("crop_x", -1),
        ("crop_y", None),
        ("image", None),
        ("image", {"bytes": None, "path": "x.png"}),
        ("canny", {"bytes": None, "path": "x.png"}),
    ],
)
def test_a_row_that_nobody_could_have_written_is_refused_in_one_line(hostile, column, value):
    def change(table):
        place = table.schema.get_field_index(column)
        values = [value, *table[column].to_pylist()[1:]]
        made = pa.array(values, table.schema.field(place).type)
        return table.set_column(place, table.schema.field(place), made)

    damaged(hostile, change)
    for read in (lambda: open_dataset(str(hostile))[0], lambda: list(open_dataset(str(hostile)))):
        with pytest.raises(ConfigError, match=f"{NAME}.parquet: need .*{column}.*, got"):
            read()
    with contextlib.suppress(ConfigError):  # it does not look at all of them
        inspect_dataset(str(hostile), workers=1)
    assert not verify_dataset(str(hostile)).ok


def test_a_shard_that_links_to_itself_is_refused_in_one_line(hostile):
    (hostile / SHARD).unlink()
    (hostile / SHARD).symlink_to(f"{NAME}.parquet")
    with pytest.raises(ConfigError, match="need a file, got something else"):
        open_dataset(str(hostile))[0]
    assert not verify_dataset(str(hostile)).ok


@pytest.mark.parametrize("through", ["link", "glob"])
def test_a_run_never_reads_what_it_wrote(tmp_path, through):
    pictures = [encoded(photograph("coffee", 64 + n)) for n in range(9)]
    source = tmp_path / "se"
    source.mkdir()
    pq.write_table(pa.table({"image": pa.array(pictures, pa.binary())}), source / "nine.parquet")
    given = str(source)
    if through == "link":
        (tmp_path / "sel").symlink_to(source)
        output = tmp_path / "sel" / "out"
    else:
        given, output = f"{source}/**/*.parquet", source / "out"
    config = config_for(given, output, min_side=16)
    with pytest.raises(ConfigError, match="need an output outside the source"):
        generate(config)
    shutil.rmtree(source / "out", ignore_errors=True)
    for _ in range(2):  # into a folder that a link in the source leads to
        if not (source / "linked").is_symlink():
            (source / "linked").symlink_to(tmp_path / "away")
        manifest = generate(config_for(given, tmp_path / "away", min_side=16))
        assert manifest.rows == 9


def test_a_flipped_bit_or_swapped_shards_are_not_learned_from(hostile, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shards = open_dataset(str(hostile)).manifest.shards
    before = everything(hostile)
    check_shards(str(hostile), shards)
    with monkeypatch.context() as patch:  # remembered: nothing is hashed again
        patch.setattr("hashlib.file_digest", None)
        check_shards(str(hostile), shards)
    assert everything(hostile) == before
    raw = bytearray((hostile / SHARD).read_bytes())
    raw[len(raw) // 2] ^= 1
    (hostile / SHARD).write_bytes(raw)
    with pytest.raises(ConfigError, match=f"{SHARD}: need a whole shard, got sha256"):
        check_shards(str(hostile), shards)
    (hostile / SHARD).write_bytes(raw[:-1])
    with pytest.raises(ConfigError, match=f"{SHARD}: need a whole shard, got bytes"):
        check_shards(str(hostile), shards)


def test_equal_shards_that_change_places_are_refused(photographs, tmp_path):
    output = tmp_path / "set"
    generate(config_for(photographs, output))
    first, other = sorted(output.glob("data/train-*.parquet"))[:2]
    first.write_bytes(other.read_bytes())
    with pytest.raises(ConfigError, match="need the shard of this name, got 'train-00001-of"):
        list(open_dataset(str(output)))


def test_a_flipped_bit_is_seen_by_whoever_reads_the_row(photographs, tmp_path):
    output = tmp_path / "set"
    generate(config_for(photographs, output))
    data = open_dataset(str(output))
    path = output / data.shards[0].data.path
    raw = bytearray(path.read_bytes())
    raw[raw.index(data.row(0)["image"]["bytes"]) + 500] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"need a whole shard, got .*CRC"):
        open_dataset(str(output)).row(0)


@pytest.mark.parametrize("name", ["manifest.json", "README.md", SHARD, ".controlset/run.json"])
def test_a_report_never_replaces_a_file_of_a_set(hostile, name, capsys):
    before = everything(hostile)
    (hostile / ".controlset").mkdir(exist_ok=True)
    assert main(["inspect", str(hostile), "--html", str(hostile / name)]) == 2
    assert "need a file that is no part of a data set" in capsys.readouterr().err
    assert everything(hostile)[0] == before[0]


@pytest.mark.parametrize("name", ["data", "data/a.png", "rejects/x/a.webp", ".controlset"])
def test_a_drawing_never_replaces_a_file_of_a_set(hostile, name, capsys):
    before = everything(hostile)
    given = ["--run", str(hostile), "--hint", str(hostile / SHARD), "--output", str(hostile / name)]
    assert main(["sample", *given]) == 2
    assert "--output: need a place that is no part of a data set" in capsys.readouterr().err
    assert everything(hostile) == before
