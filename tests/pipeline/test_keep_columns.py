"""Other columns of a source that rows keep: of Parquet, caption tables, JSON beside pictures."""

import csv
import io
import json
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from controlset.cli import main
from pipeline.add.add import add
from pipeline.config import AddConfig, GenerateConfig
from pipeline.generate import dry_run, generate
from pipeline.inspection import inspect_dataset
from pipeline.inspection.report import render_inspection
from pipeline.output.card import commands_of
from pipeline.verify.verify import verify_dataset
from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from schemas.manifest import Manifest

SIZE = 64


def config_for(source, output, *keep, **changes):
    options = {"resolution": SIZE, "conditions": ("grey",), "num_workers": 1} | changes
    return GenerateConfig(source=str(source), output=str(output), keep_columns=keep, **options)


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, **columns):
    count = len(next(iter(columns.values())))
    images = [{"bytes": picture(number), "path": None} for number in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, **columns}), path)


def write_folder(folder, count=3):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(number))


def write_tar(path, *fields):
    """A WebDataset of pictures, each with its JSON; None is a picture without."""
    with tarfile.open(path, "w") as archive:
        for number, one in enumerate(fields):
            raw = json.dumps(one).encode() if isinstance(one, dict) else one
            for suffix, content in (("png", picture(number)), ("json", raw)):
                if content is not None:
                    info = tarfile.TarInfo(f"{number}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def column(output, name):
    """Source -> value."""
    files = sorted((output / "data").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return {row["source"]: row[name] for row in rows}


def values(output, name):
    return [value for _, value in sorted(column(output, name).items())]


def counts(manifest, name):
    """Kept values, ones that do not fit, and examples of these."""
    assert manifest.ledger is not None
    found = manifest.ledger.columns[name]
    unusable = found.unusable
    return (found.kept, *((0,) if unusable is None else (unusable.count, *unusable.examples)))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    write_parquet(
        folder / "in" / "train.parquet",
        text=["a", "b", "c"],
        id=pa.array([2**60 + 1, 2, None], pa.int64()),
        aesthetic=pa.array([5.5, 6.25, 7.0], pa.float32()),
        safe=[True, None, False],
        site=pa.array(["x", "y", "x"]).dictionary_encode(),
        tags=pa.array([["p", "q"], [], None], pa.list_(pa.string())),
        when=pa.array([1, 2, 3], pa.timestamp("s")),
    )
    keep = ("id", "aesthetic", "safe", "site", "tags")
    manifest = generate(config_for(folder / "in", folder / "out", *keep))
    return folder, manifest


def test_columns_of_parquet_are_kept_with_their_types_and_values(kept):
    folder, manifest = kept
    kinds = {"aesthetic": "float32", "id": "int64", "safe": "bool", "site": "string"}
    assert manifest.columns == kinds | {"tags": "list:string"}
    assert values(folder / "out", "id") == [2**60 + 1, 2, None]
    assert values(folder / "out", "aesthetic") == [5.5, 6.25, 7.0]
    assert values(folder / "out", "safe") == [True, None, False]
    assert values(folder / "out", "site") == ["x", "y", "x"]
    assert values(folder / "out", "tags") == [["p", "q"], [], None]
    assert {name: counts(manifest, name) for name in manifest.columns} == {
        "aesthetic": (3, 0), "id": (2, 0), "safe": (2, 0), "site": (3, 0), "tags": (2, 0),
    }  # fmt: skip
    assert manifest.recipe["keep_columns"] == ["id", "aesthetic", "safe", "site", "tags"]


def test_every_command_knows_kept_columns(kept, tmp_path):
    folder, _ = kept
    output = folder / "out"
    report = verify_dataset(str(output), audit=1.0)
    assert report.ok, report
    assert open_dataset(str(output))[0].fields["id"] == 2**60 + 1
    facts = {one.name: one for one in inspect_dataset(str(output), workers=1).columns}
    assert (facts["id"].present, facts["id"].missing) == (2, 1)
    numbers = facts["aesthetic"].numbers
    assert numbers is not None
    assert (numbers.smallest, numbers.largest) == (5.5, 7.0)
    assert facts["tags"].numbers is None
    page = render_inspection(inspect_dataset(str(output), workers=1))
    assert '<td>aesthetic</td><td>float32</td><td class="n">3</td><td class="n">0</td>' in page
    assert '<td class="n">5.5</td><td class="n">6.25</td><td class="n">7</td>' in page
    card = (output / "README.md").read_text()
    assert "| `aesthetic` | float32 |  | Kept from the source" in card
    assert "| `tags` | list of string |" in card
    (command,) = commands_of(Manifest.from_json((output / "manifest.json").read_text(), where="x"))
    assert "--keep-columns id aesthetic safe site tags" in command
    loaded = datasets.load_dataset(str(output), split="train", cache_dir=str(tmp_path))
    assert loaded.features["tags"] == datasets.List(datasets.Value("string"))
    assert loaded.features["safe"] == datasets.Value("bool")
    assert loaded["id"][:2] == [2**60 + 1, 2]
    assert loaded["tags"][0] == ["p", "q"]


def test_the_command_line_shows_what_became_of_them(kept, tmp_path, capsys):
    folder, _ = kept
    words = ["generate", str(folder / "in"), "--output", str(tmp_path / "out"), "--resolution=64"]
    assert main([*words, "--conditions", "grey", "--keep-columns", "id", "tags"]) == 0
    assert "column id" in (shown := capsys.readouterr().out)
    assert "2 (values kept)" in shown
    assert main(["inspect", str(tmp_path / "out")]) in {0, 1}
    assert "2 values of int64, 1 missing" in capsys.readouterr().out


def test_conditions_are_added_beside_them_as_if_made_at_once(kept, tmp_path):
    folder, _ = kept
    keep = ("id", "tags")
    generate(config_for(folder / "in", tmp_path / "later", *keep))
    add(AddConfig(output=str(tmp_path / "later"), conditions=("canny",)))
    both = {"conditions": ("grey", "canny")}
    generate(config_for(folder / "in", tmp_path / "once", *keep, **both))
    shard = "data/train-00000-of-00001.parquet"
    assert (tmp_path / "later" / shard).read_bytes() == (tmp_path / "once" / shard).read_bytes()
    manifests = [(tmp_path / name / "manifest.json").read_text() for name in ("later", "once")]
    assert manifests[0] == manifests[1]
    assert verify_dataset(str(tmp_path / "later")).ok


def test_another_choice_of_columns_is_another_data_set(kept, tmp_path):
    folder, _ = kept
    generate(config_for(folder / "in", tmp_path / "out", "id"))
    before = (tmp_path / "out" / "data" / "train-00000-of-00001.parquet").stat().st_mtime_ns
    generate(config_for(folder / "in", tmp_path / "out", "id"))
    after = (tmp_path / "out" / "data" / "train-00000-of-00001.parquet").stat().st_mtime_ns
    assert before == after
    with pytest.raises(ConfigError, match=r"made with keep_columns=\['id'\] \(now \['safe'\]\)"):
        generate(config_for(folder / "in", tmp_path / "out", "safe"))


def test_a_later_file_with_another_type_or_without_the_column_is_counted(tmp_path):
    write_parquet(tmp_path / "in" / "a.parquet", score=pa.array([1, 2], pa.int32()))
    write_parquet(tmp_path / "in" / "b.parquet", score=["3", "high"])
    write_parquet(tmp_path / "in" / "c.parquet", other=[1])
    write_parquet(tmp_path / "in" / "d.parquet", score=[{"x": 1}])
    manifest = generate(config_for(tmp_path / "in", tmp_path / "out", "score"))
    assert manifest.columns == {"score": "int32"}
    assert values(tmp_path / "out", "score") == [1, 2, 3, None, None, None]
    assert counts(manifest, "score") == (
        3,
        2,
        "b.parquet#1: need int32, got 'high'",
        "d.parquet#0: need a value that is not nested, got struct<x: int64>",
    )


def test_fields_of_a_tars_json_are_kept_and_what_does_not_fit_is_null_and_counted(tmp_path):
    write_tar(
        tmp_path / "a.tar",
        {"caption": "one", "aesthetic": 5, "id": "a", "tags": ["x"]},
        {"caption": "two", "aesthetic": 6.5, "id": 7},
        {"caption": "three", "aesthetic": "high", "tags": [1, None]},
        None,
        b"{",
    )
    keep = ("aesthetic:float32", "id", "tags")
    manifest = generate(config_for(tmp_path / "a.tar", tmp_path / "out", *keep))
    assert manifest.columns == {"aesthetic": "float32", "id": "string", "tags": "list:string"}
    assert values(tmp_path / "out", "aesthetic") == [5.0, 6.5, None, None, None]
    assert values(tmp_path / "out", "id") == ["a", "7", None, None, None]
    assert values(tmp_path / "out", "tags") == [["x"], None, None, None, None]
    assert values(tmp_path / "out", "text") == ["one", "two", "three", None, None]
    broken = "a.tar/4.png: need a JSON file that can be read, got "
    *three, second = counts(manifest, "aesthetic")
    assert three == [2, 2, "a.tar/2.png: need float32, got 'high'"]
    assert str(second).startswith(broken)
    assert counts(manifest, "id")[:2] == (2, 1)
    assert verify_dataset(str(tmp_path / "out")).ok


@pytest.mark.parametrize("caption", ["auto", "none", "fixed", "filename"])
def test_they_are_kept_however_the_captions_are_had(tmp_path, caption):
    write_tar(tmp_path / "a.tar", {"caption": "one", "id": 1})
    options = {"caption": caption, "caption_text": "x" if caption == "fixed" else None}
    generate(config_for(tmp_path / "a.tar", tmp_path / "tar", "id", **options))
    assert values(tmp_path / "tar", "id") == [1]
    write_folder(tmp_path / "in", 2)
    (tmp_path / "in" / "0.json").write_text('{"id": 3, "caption": "a"}')
    lines = [{"file_name": f"{number}.png", "id": 4, "text": "t"} for number in range(2)]
    (tmp_path / "in" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    generate(config_for(tmp_path / "in", tmp_path / "out", "id", **options))
    assert values(tmp_path / "out", "id") == [3, 4]
    texts = {
        "auto": ["a", "t"], "none": [None, None], "fixed": ["x", "x"], "filename": ["0", "1"],
    }  # fmt: skip
    assert values(tmp_path / "out", "text") == texts[caption]


def table_of(folder, kind, lines):
    if kind == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(lines), folder / "metadata.parquet")
    else:
        with open(folder / "metadata.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, lines[0], delimiter=";")
            writer.writeheader()
            writer.writerows(lines)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("with_text", [True, False])
def test_columns_of_caption_tables_are_kept_with_or_without_captions_in_them(
    tmp_path, kind, with_text
):
    write_folder(tmp_path / "in")
    lines = [
        {"file_name": f"{number}.png", "id": f"00{number}", "score": 4.5 + number, "n": number}
        for number in range(3)
    ]
    lines = [line | ({"text": "t"} if with_text else {}) for line in lines]
    table_of(tmp_path / "in", kind, lines)
    manifest = generate(config_for(tmp_path / "in", tmp_path / "out", "id", "score", "n"))
    assert manifest.columns == {"id": "string", "n": "int64", "score": "float64"}
    assert values(tmp_path / "out", "id") == ["000", "001", "002"]
    assert values(tmp_path / "out", "score") == [4.5, 5.5, 6.5]
    assert values(tmp_path / "out", "n") == [0, 1, 2]
    assert values(tmp_path / "out", "text") == ["t" if with_text else None] * 3
    assert manifest.ledger is not None
    captions = manifest.ledger.captions
    assert captions is not None
    assert (captions.offered, captions.used) == ((3, 3) if with_text else (0, 0))


def test_the_nearest_table_wins_field_by_field(tmp_path):
    write_folder(tmp_path / "in" / "near", 1)
    far = {"file_name": "near/0.png", "id": 1, "score": 5.5}
    (tmp_path / "in" / "metadata.jsonl").write_text(json.dumps(far))
    near = {"file_name": "0.png", "id": 2}
    (tmp_path / "in" / "near" / "metadata.jsonl").write_text(json.dumps(near))
    generate(config_for(tmp_path / "in", tmp_path / "out", "id", "score"))
    assert column(tmp_path / "out", "id") == {"near/0.png": 2}
    assert column(tmp_path / "out", "score") == {"near/0.png": 5.5}


def test_a_value_that_changes_in_its_table_or_file_is_taken_again(tmp_path):
    write_folder(tmp_path / "in", 2)
    table = tmp_path / "in" / "metadata.jsonl"
    table.write_text('{"file_name": "0.png", "id": 1}')
    (tmp_path / "in" / "1.json").write_text('{"id": 2}')
    config = config_for(tmp_path / "in", tmp_path / "out", "id")
    generate(config)
    table.write_text('{"file_name": "0.png", "id": 8}')
    (tmp_path / "in" / "1.json").write_text('{"id": 19}')
    generate(config)
    assert values(tmp_path / "out", "id") == [8, 19]


def test_a_moved_source_keeps_its_shards(tmp_path):
    write_tar(tmp_path / "a.tar", {"id": 1})
    write_folder(tmp_path / "in", 1)
    (tmp_path / "in" / "0.json").write_text('{"id": 2}')
    from pipeline.generate import list_here, resolve
    from pipeline.plan import hash_of_references
    from schemas.records import ShardPlan

    def hashed(source):
        refs = tuple(list_here(resolve(config_for(source, tmp_path / "out", "id"))))
        assert all(ref.record is not None for ref in refs)
        return hash_of_references(ShardPlan(split="train", index=0, total=1, refs=refs))

    before = hashed(tmp_path / "in")
    (tmp_path / "in").rename(tmp_path / "moved")
    assert hashed(tmp_path / "moved") == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("score", r"--keep-columns score: need a column of .*train.parquet \(aesthetic, id, image"),
        ("when", r"--keep-columns when: need numbers, .* got timestamp\[ms\]; leave it out"),
        ("when:string", r"--keep-columns when: need numbers, .* got timestamp\[ms\]; leave it out"),
        ("image", r"--keep-columns image: need numbers, .* got struct<bytes"),
        ("text", r"column text: need one of this name, got one that only controlset writes and"),
    ],
)
def test_what_cannot_be_kept_of_parquet_is_refused_before_any_work(kept, tmp_path, asked, message):
    folder, _ = kept
    with pytest.raises(ConfigError, match=message) as error:
        generate(config_for(folder / "in", tmp_path / "out", asked))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("score", r"need a column of the JSON members of the first 256 pictures \(box, id, nil\)"),
        ("box", r"--keep-columns box: need numbers, .* got values of dict; name a type"),
        ("nil", r"--keep-columns nil: need numbers, .* got values of null alone; name a type"),
    ],
)
def test_what_cannot_be_kept_of_json_is_refused_with_what_is_there(tmp_path, asked, message):
    write_tar(tmp_path / "a.tar", {"id": 1, "box": {"x": 1}, "nil": None})
    with pytest.raises(ConfigError, match=message):
        generate(config_for(tmp_path / "a.tar", tmp_path / "out", asked))


def test_columns_of_a_table_are_named_where_another_one_is_asked_for(tmp_path):
    write_folder(tmp_path / "in", 1)
    (tmp_path / "in" / "metadata.jsonl").write_text('{"file_name": "0.png", "id": 1, "text": "t"}')
    message = r"need a column of the JSON files or caption tables .*\(file_name, id, text\)"
    with pytest.raises(ConfigError, match=message):
        generate(config_for(tmp_path / "in", tmp_path / "out", "score"))


def test_names_of_conditions_and_their_statistics_are_taken(tmp_path):
    write_parquet(tmp_path / "in" / "a.parquet", grey=[1], canny_low=[1], depth=[1])
    for name, what in (("grey", "grey"), ("canny_low", "canny")):
        config = config_for(tmp_path / "in", tmp_path / "out", name, conditions=("grey", "canny"))
        with pytest.raises(ConfigError, match=rf"column {name}: .* the condition {what}; leave"):
            generate(config)
    generate(config_for(tmp_path / "in", tmp_path / "out", "canny_low"))
    with pytest.raises(ConfigError, match=r"column canny_low: .* kept from the source"):
        add(AddConfig(output=str(tmp_path / "out"), conditions=("canny",)))


def test_an_imported_conditions_name_is_no_column_of_ours(tmp_path):
    write_folder(tmp_path / "in", 1)
    write_folder(tmp_path / "in" / "maps", 1)
    for name in ("pad_left", "crop_x", "latent_moments", "canny_low"):
        config = config_for(
            tmp_path / "in",
            tmp_path / "out",
            conditions=("canny",),
            import_condition=(f"{name}=maps/{{name}}.png",),
        )
        with pytest.raises(ConfigError, match=rf"column {name}: need one of this name"):
            generate(config)


@pytest.mark.parametrize(
    "asked", ["", "a b", "../x", "_x", "1x", "x" * 65, "a:evil", "a:list:list:int8", "é", "a\n"]
)
def test_a_hostile_name_or_type_is_refused_in_one_line(asked):
    with pytest.raises(ConfigError, match=r"^--keep-columns: need names of letters") as error:
        config_for("in", "out", asked)
    assert "\n" not in str(error.value).replace(repr(asked), "")


def test_a_column_is_asked_for_once():
    with pytest.raises(ConfigError, match=r"--keep-columns: need each column once, got 'id id'"):
        config_for("in", "out", "id", "id:string")


def test_a_dry_run_tells_the_types(kept, tmp_path):
    folder, _ = kept
    shown = dry_run(config_for(folder / "in", tmp_path / "out", "tags", "id:string"))
    assert "column id: string\ncolumn tags: list:string" in shown


@pytest.mark.parametrize(
    "columns",
    [{"../x": "int64"}, {"x": "evil"}, {"key": "string"}, {"pad_left": "int32"}, {"x": 7}, ["x"]],
)
def test_a_strangers_manifest_cannot_name_columns_that_we_would_not(kept, columns):
    folder, _ = kept
    document = json.loads((folder / "out" / "manifest.json").read_text())
    del document["ledger"]
    with pytest.raises(ConfigError, match="manifest"):
        Manifest.from_json(json.dumps(document | {"columns": columns}), where="manifest.json")


def test_verify_finds_a_footer_whose_columns_are_not_the_manifests(kept, tmp_path):
    import shutil

    folder, _ = kept
    copy = shutil.copytree(folder / "out", tmp_path / "copy")
    document = json.loads((copy / "manifest.json").read_text())
    del document["columns"]["site"], document["ledger"]
    for shard in document["shards"]:
        del shard["columns"]
    (copy / "manifest.json").write_text(json.dumps(document))
    shutil.rmtree(copy / ".controlset")
    report = verify_dataset(str(copy))
    found = [finding for check in report.checks for finding in check.findings]
    assert any("need the manifest's recipe in the footer" in finding for finding in found)


def test_a_long_list_neither_breaks_the_reader_nor_the_row_groups(tmp_path):
    write_parquet(
        tmp_path / "in" / "a.parquet", vector=[[0.5] * 4096] * 4, flags=[[True] * 999] * 4
    )
    generate(config_for(tmp_path / "in", tmp_path / "out", "vector", "flags"))
    assert values(tmp_path / "out", "vector") == [[0.5] * 4096] * 4
    assert verify_dataset(str(tmp_path / "out")).ok
