"""`add --import-condition`: maps of one's own as another column of a set that exists."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from controlset.cli import main
from pipeline.add.add import add
from pipeline.config import AddConfig, GenerateConfig
from pipeline.generate import generate
from pipeline.output.card import commands_of
from pipeline.verify.verify import verify_dataset
from schemas.dataset import open_dataset
from schemas.errors import ConfigError, Reason

SIZE = 64


def config_for(source, output, *imports, **changes):
    options = {"resolution": SIZE, "conditions": ("grey",), "num_workers": 1} | changes
    return GenerateConfig(
        source=str(source), output=str(output), import_condition=imports, **options
    )


def addition(output, *imports, **changes):
    return AddConfig(output=str(output), import_condition=imports, num_workers=1, **changes)


def rows_of(output):
    files = sorted((output / "data").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return {row["source"]: row for row in rows}


def save(pixels, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def photograph(number, width=SIZE, height=SIZE):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def drawing(number, width=SIZE, height=SIZE):
    return (np.random.default_rng(number).random((height, width)) < 0.1).astype(np.uint8) * 255


SIZES = ((64, 64), (200, 137), (901, 600), (1031, 517), (333, 1001), (70, 64))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """JPEGs that are decoded in full, at a half and at a quarter, one of them turned; and a PNG."""
    folder = tmp_path_factory.mktemp("own") / "in"
    turned = Image.Exif()
    turned[274] = 6
    for number, (width, height) in enumerate(SIZES):
        path = folder / "x" / f"{number}.jpg"
        exif = {"exif": turned} if number == 3 else {}
        save(photograph(number, width, height), path, **exif)
        shape = (height, width) if exif else (width, height)
        save(drawing(number, *shape), folder / "maps" / "x" / f"{number}.png")
    save(photograph(9, 515, 260), folder / "9.png")
    save(drawing(9, 515, 260), folder / "maps" / "9.png")
    return folder


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch", "bucket"])
def test_maps_that_come_later_are_those_of_one_run(photographs, tmp_path, fit):
    later, once = tmp_path / "later", tmp_path / "once"
    # The maps lie in the source: who does not say so takes them for pictures.
    glob = str(photographs / "{x/*.jpg,9.png}")
    generate(config_for(glob, later, fit=fit))
    before = rows_of(later)
    add(addition(later, "lines=maps/{stem}.png"))
    generate(config_for(glob, once, "lines=maps/{stem}.png", fit=fit))
    assert len(before) == 7
    added, expected = rows_of(later), rows_of(once)
    assert {name: row["lines"] for name, row in added.items()} == {
        name: row["lines"] for name, row in expected.items()
    }
    assert all(row["lines"] is not None for row in added.values())
    assert {name: before[name] | {"lines": row["lines"]} for name, row in added.items()} == added
    assert verify_dataset(str(later), audit=1.0).ok
    manifest = open_dataset(str(later)).manifest
    assert manifest.annotators["lines"] == open_dataset(str(once)).manifest.annotators["lines"]
    *_, command = commands_of(manifest)
    assert command == "controlset add DIR --import-condition 'lines=maps/{stem}.png'"


@pytest.fixture
def dataset(tmp_path):
    for number in range(20):
        save(photograph(number), tmp_path / "in" / f"{number:02d}.png")
        save(drawing(number), tmp_path / "maps" / f"{number:02d}.png")
    generate(config_for(tmp_path / "in", tmp_path / "out"))
    return tmp_path / "out"


def test_a_row_whose_map_cannot_be_used_stays_and_the_reject_says_why(dataset, tmp_path):
    maps = tmp_path / "maps"
    (maps / "16.png").unlink()
    save(drawing(17, 64, 40), maps / "17.png")
    (maps / "18.png").write_bytes(b"<html>404</html>")
    save(photograph(0), maps / "19.png")
    manifest = add(addition(dataset, "lines=../maps/{name}.png"))
    assert (manifest.rows, manifest.rejected_images) == (20, 0)
    rejects = {row["source"]: row for row in open_dataset(str(dataset)).rejects()}
    # Which row is looked at first follows from the keys: its map settles what all are like.
    assert {name: (row["kind"], row["stage"], row["reason"]) for name, row in rejects.items()} == {
        "16.png": ("lines", "import", Reason.MAP_MISSING),
        "17.png": ("lines", "import", Reason.MAP_MISFIT),
        "18.png": ("lines", "import", Reason.NOT_AN_IMAGE),
    } | ({} if "19.png" not in rejects else {"19.png": ("lines", "import", Reason.BAD_MAP)})
    null = [name for name, row in rows_of(dataset).items() if row["lines"] is None]
    assert sorted(null) == sorted(rejects)
    assert verify_dataset(str(dataset), audit=1.0).ok
    again = add(addition(dataset, "lines=../maps/{name}.png"))
    assert again == manifest


def test_drawn_and_own_conditions_are_added_together(dataset, tmp_path):
    add(addition(dataset, f"lines={tmp_path}/maps/{{stem}}.png", conditions=("canny",)))
    assert open_dataset(str(dataset)).conditions == ["grey", "canny", "lines"]
    assert verify_dataset(str(dataset), audit=1.0).ok


def test_without_its_source_a_set_needs_the_whole_path(dataset, tmp_path):
    (tmp_path / "in").rename(tmp_path / "gone")
    message = r"lines=../maps/\{name\}.png: need the set's source, .*; give the template with its w"
    with pytest.raises(ConfigError, match=message):
        add(addition(dataset, "lines=../maps/{name}.png"))
    add(addition(dataset, f"lines={tmp_path}/maps/{{name}}.png"))
    assert all(row["lines"] is not None for row in rows_of(dataset).values())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("lines=column:source", r"need a template of files for a set that exists"),
        ("lines=nowhere/{name}.png", r"found none that can be read \(map_missing: need the file"),
        ("grey=../maps/{name}.png", r"holds grey of an annotator \(now ../maps/\{name\}.png\)"),
        ("width=../maps/{name}.png", r"need a name of its own, got width"),
        ("crop_x=../maps/{name}.png", r"column crop_x: need one of this name"),
        ("lines=../maps/all.png", r"need a template with \{name\}"),
    ],
)
def test_what_cannot_be_added_is_refused_and_the_set_stays(dataset, asked, message):
    before = (dataset / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match=message) as error:
        add(addition(dataset, asked))
    assert "\n" not in str(error.value)
    assert (dataset / "manifest.json").read_bytes() == before


def test_the_same_condition_from_another_place_is_refused(dataset, tmp_path):
    add(addition(dataset, "lines=../maps/{name}.png"))
    with pytest.raises(ConfigError, match=r"holds lines of ../maps/\{name\}.png \(now ../maps/\{s"):
        add(addition(dataset, "lines=../maps/{stem}.png"))


def test_one_file_for_all_rows_of_a_parquet_file_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    images = []
    for number in range(2):
        save(photograph(number), tmp_path / "a.png")
        images.append({"bytes": (tmp_path / "a.png").read_bytes(), "path": None})
    pq.write_table(pa.table({"image": images}), tmp_path / "in" / "train.parquet")
    generate(config_for(tmp_path / "in", tmp_path / "out"))
    message = r"need another file for each picture, got \.\./train.png for train.parquet#0 and"
    with pytest.raises(ConfigError, match=message):
        add(addition(tmp_path / "out", "lines=../{name}.png"))


def test_the_command_line_adds_own_maps(dataset, capsys):
    words = ["add", str(dataset), "--import-condition", "lines=../maps/{name}.png"]
    assert main([*words, "--dry-run"]) == 0
    assert '"imported": "../maps/{name}.png"' in capsys.readouterr().out
    assert main(words) == 0
    document = json.loads((dataset / "manifest.json").read_text())
    assert list(document["annotators"]) == ["grey", "lines"]
