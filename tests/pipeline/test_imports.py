"""Condition images that the source brings along: paired, checked, cut as their pictures are."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from annotators.runtime import Runtime
from controlnet.evaluator.config import EvaluateConfig
from controlset import judge as judging
from controlset.cli import main
from controlset.judge import judge_of
from pipeline.add.add import add
from pipeline.config import AddConfig, GenerateConfig
from pipeline.generate import generate
from pipeline.images.geometry import plan_geometry
from pipeline.images.imported_maps import ImportedCondition, decode_map, fitted, mode_of
from pipeline.inspection import inspect_dataset
from pipeline.output.card import commands_of
from pipeline.sources.spec import Pairing, parse_pairings
from pipeline.verify.verify import verify_dataset
from schemas.dataset import open_dataset
from schemas.errors import ConfigError, Reason, Rejected
from schemas.pixels import decode_stored_map

SIZE = 64


def config_for(source, output, *imports, **changes):
    options = {"resolution": SIZE, "conditions": (), "num_workers": 1} | changes
    return GenerateConfig(
        source=str(source), output=str(output), import_condition=imports, **options
    )


def rows_of(output):
    files = sorted((output / "data").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return {row["source"]: row for row in rows}


def rejects_of(output):
    rejects = open_dataset(str(output)).rejects()
    return {row["source"]: (row["kind"], row["reason"], row["detail"]) for row in rejects}


def drawing(number, width=SIZE, height=SIZE):
    """Lines of two values; another drawing for every number."""
    return (np.random.default_rng(number).random((height, width)) < 0.1).astype(np.uint8) * 255


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photograph(number, width=SIZE, height=SIZE):
    return np.random.default_rng(100 + number).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """The layout of fill50k: source/, target/, prompt.json; maps as RGB pictures."""
    folder = tmp_path_factory.mktemp("fill50k")
    lines = []
    for number in range(6):
        save(np.repeat(drawing(number)[..., None], 3, axis=2), folder / f"source/{number}.png")
        save(photograph(number), folder / f"target/{number}.png")
        names = {"source": f"source/{number}.png", "target": f"target/{number}.png"}
        lines.append(names | {"prompt": f" circle number {number}"})
    (folder / "prompt.json").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def imported(tutorial, tmp_path_factory):
    output = tmp_path_factory.mktemp("imported") / "out"
    changes = {"conditions": ("grey",), "validation": 0.5}
    manifest = generate(config_for(tutorial, output, "circles=column:source", **changes))
    return output, manifest


def test_the_tutorials_layout_gives_its_own_maps_and_prompts(imported):
    output, manifest = imported
    assert (manifest.planned, manifest.rows) == (6, 6)
    ledger = manifest.ledger
    assert (ledger.found, {name: one.count for name, one in ledger.ignored.items()}) == (
        12,
        {"condition_image": 6},
    )
    assert (ledger.captions.used, ledger.captions.offered) == (6, 6)
    record = manifest.annotators["circles"]
    assert (record["hint_mode"], record["licence"]) == ("bilevel", "unknown (imported)")
    for number in range(6):
        row = rows_of(output)[f"target/{number}.png"]
        assert np.array_equal(decode_stored_map(row["circles"]["bytes"]), drawing(number))
        assert (row["text"], row["caption_source"]) == (f"circle number {number}", "metadata")
        with Image.open(io.BytesIO(row["circles"]["bytes"])) as stored:
            assert stored.mode == "1"


def test_a_template_finds_the_same_maps_and_takes_none_of_them_for_a_picture(tutorial, tmp_path):
    generate(config_for(tutorial, tmp_path / "out", "circles=source/{name}.png"))
    rows = rows_of(tmp_path / "out")
    assert sorted(rows) == [f"target/{number}.png" for number in range(6)]
    for number in range(6):
        found = decode_stored_map(rows[f"target/{number}.png"]["circles"]["bytes"])
        assert np.array_equal(found, drawing(number))


def test_pairs_that_nobody_asked_for_are_not_taken_for_photographs(tutorial, tmp_path):
    config = config_for(tutorial, tmp_path / "out", conditions=("canny",))
    advice = r"prompt.json: it pairs pictures.*--import-condition NAME=column:source"
    with pytest.raises(ConfigError, match=advice):
        generate(config)


def test_the_columns_of_diffusers_are_read_and_leave_one_image_column(tmp_path):
    def cell(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    (tmp_path / "in").mkdir()
    table = pa.table(
        {
            "image": [cell(photograph(number)) for number in range(3)],
            "conditioning_image": [cell(drawing(0)), None, cell(drawing(2))],
            "text": ["a", "b", "c"],
        }
    )
    pq.write_table(table, tmp_path / "in" / "train.parquet")
    generate(config_for(tmp_path / "in", tmp_path / "out", "lines=column:conditioning_image"))
    rows = rows_of(tmp_path / "out")
    assert [row["text"] for row in rows.values()] == ["a", "b", "c"]
    first, missing, last = (row["lines"] for row in rows.values())
    assert np.array_equal(decode_stored_map(first["bytes"]), drawing(0))
    assert np.array_equal(decode_stored_map(last["bytes"]), drawing(2))
    assert missing is None
    assert rejects_of(tmp_path / "out") == {
        "train.parquet#1": ("lines", "map_missing", "the cell is null")
    }


def test_a_picture_whose_map_cannot_be_used_stays_and_the_reject_says_why(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    for number in range(20):
        save(photograph(number), source / f"{number:02d}.jpg")
        save(drawing(number), source / "maps" / f"{number:02d}.png")
    (source / "maps" / "16.png").unlink()
    save(drawing(17, 64, 40), source / "maps" / "17.png")
    (source / "maps" / "18.png").write_bytes(b"<html>404</html>")
    save(photograph(0), source / "maps" / "19.png")
    manifest = generate(config_for(source, output, "lines=maps/{name}.png"))
    assert manifest.rows == 20
    rejects = rejects_of(output)
    assert {name: (kind, reason) for name, (kind, reason, _) in rejects.items()} == {
        "16.jpg": ("lines", Reason.MAP_MISSING),
        "17.jpg": ("lines", Reason.MAP_MISFIT),
        "18.jpg": ("lines", Reason.NOT_AN_IMAGE),
        "19.jpg": ("lines", Reason.BAD_MAP),
    }
    assert "need a map with the aspect of its picture, 64x64, got 64x40" in rejects["17.jpg"][2]
    assert rejects["16.jpg"][2] == "need the file maps/16.png"
    null = [name for name, row in rows_of(output).items() if row["lines"] is None]
    assert sorted(null) == sorted(rejects)


def write_tar(path, *members):
    """Members: (name, pixels, bytes, or the name of another one that it is a link to)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.LNKTYPE, content
                archive.addfile(info)
                continue
            raw = content if isinstance(content, bytes) else encoded(content)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))


def test_a_sample_of_a_tar_brings_its_own_map(tmp_path):
    source, output = tmp_path / "in" / "00000.tar", tmp_path / "out"
    pictures = [(f"x/{number}.png", photograph(number)) for number in range(6)]
    lines = {
        "x/0.scribble.png": drawing(0),
        "x/1.scribble.png": drawing(1),
        "x/2.scribble.png": drawing(2, 64, 40),
        "x/3.scribble.png": b"<html>404</html>",
        "x/4.scribble.png": "x/0.scribble.png",
    }
    captions = [("x/0.txt", b"zero")]
    write_tar(source, *pictures, *lines.items(), *captions, ("x/9.scribble.png", drawing(9)))
    manifest = generate(config_for(source.parent, output, "lines={key}.scribble.png"))
    ledger = manifest.ledger
    assert ledger is not None
    assert (manifest.rows, ledger.found) == (6, 12)
    assert {name: one.count for name, one in ledger.ignored.items()} == {"condition_image": 6}
    rows = rows_of(output)
    for number in range(2):
        found = decode_stored_map(rows[f"00000.tar/x/{number}.png"]["lines"]["bytes"])
        assert np.array_equal(found, drawing(number))
    assert rows["00000.tar/x/0.png"]["text"] == "zero"
    rejects = rejects_of(output)
    assert {name: (kind, reason) for name, (kind, reason, _) in rejects.items()} == {
        "00000.tar/x/2.png": ("lines", Reason.MAP_MISFIT),
        "00000.tar/x/3.png": ("lines", Reason.NOT_AN_IMAGE),
        "00000.tar/x/4.png": ("lines", Reason.MAP_MISSING),
        "00000.tar/x/5.png": ("lines", Reason.MAP_MISSING),
    }
    assert rejects["00000.tar/x/5.png"][2] == "need a whole member x/5.scribble.png in its tar"
    assert [name for name, row in rows.items() if row["lines"] is None] == sorted(rejects)
    assert verify_dataset(str(output), audit=1.0).ok


@pytest.mark.parametrize(
    ("template", "picture", "own"),
    [
        ("{stem}.scribble.png", "a/0.png", "a/0.scribble.png"),
        ("{key}.scribble.png", "a/0.image.png", "a/0.scribble.png"),
        ("maps/{name}.png", "./0.png", "./maps/0.png"),
        ("{folder}/maps/{name}.png", "a/0.png", "a/maps/0.png"),
    ],
)
def test_a_template_names_a_member_of_the_same_tar(tmp_path, template, picture, own):
    for number in range(2):  # the same names in each tar
        members = (picture, photograph(number)), (own, drawing(number))
        write_tar(tmp_path / "in" / f"{number}.tar", *members)
    generate(config_for(tmp_path / "in", tmp_path / "out", f"lines={template}"))
    found = [
        decode_stored_map(row["lines"]["bytes"])
        for _, row in sorted(rows_of(tmp_path / "out").items())
    ]
    assert np.array_equal(found, [drawing(0), drawing(1)])


def test_forms_that_a_source_cannot_have_are_refused(tmp_path):
    write_tar(tmp_path / "tars" / "0.tar", ("0.png", photograph(0)))
    image = {"bytes": encoded(photograph(0)), "path": None}
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.table({"image": [image]}), tmp_path / "parquet" / "a.parquet")
    for source, form, message in (
        (
            "tars",
            "column:source",
            r"need lines=\{key\}.png, a member of the same tar, got a source",
        ),
        ("parquet", "{key}.png", r"need lines=column:COLUMN, got a source of parquet"),
        (
            "tars",
            "{key}.scribble.png",
            r"none that can be read \(map_missing: need a whole member 0",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            generate(config_for(tmp_path / source, tmp_path / "out", f"lines={form}"))
        assert not (tmp_path / "out").exists()


def write_splits(folder):
    for number, split in enumerate(("train", "train", "val", "val")):
        save(photograph(number), folder / "images" / split / f"{number}.png")
        save(drawing(number), folder / "maps" / split / f"{number}.png")


@pytest.mark.parametrize(
    ("source", "split", "numbers"),
    [
        ("images", "train", {0, 1}),
        ("images", "validation", {2, 3}),
        ("images", "all", {0, 1, 2, 3}),
        ("images/train", "auto", {0, 1}),
    ],
)
def test_maps_go_with_the_split_of_their_pictures(tmp_path, source, split, numbers):
    write_splits(tmp_path)
    inside = "train/" if source.endswith("train") else ""
    template = f"lines={'../' * source.count('/')}../maps/{inside}{{stem}}.png"
    generate(config_for(tmp_path / source, tmp_path / "out", template, source_split=split))
    rows = rows_of(tmp_path / "out")
    assert {int(name.rpartition("/")[2].removesuffix(".png")) for name in rows} == numbers
    for name, row in rows.items():
        number = int(name.rpartition("/")[2].removesuffix(".png"))
        assert np.array_equal(decode_stored_map(row["lines"]["bytes"]), drawing(number))


def test_maps_inside_the_source_are_no_pictures_of_any_split(tmp_path):
    for number, split in enumerate(("train", "val")):
        save(photograph(number), tmp_path / "in" / split / f"{number}.png")
        save(drawing(number), tmp_path / "in" / split / "maps" / f"{number}.png")
    template = "lines={folder}/maps/{name}.png"
    with pytest.raises(ConfigError, match=r"need one split, got train .* and validation"):
        generate(config_for(tmp_path / "in", tmp_path / "out", template))
    config = config_for(tmp_path / "in", tmp_path / "out", template, source_split="train")
    manifest = generate(config)
    assert manifest.ledger is not None
    ignored = {name: one.count for name, one in manifest.ledger.ignored.items()}
    assert ignored == {"condition_image": 2, "other_split": 1}
    (row,) = rows_of(tmp_path / "out").values()
    assert np.array_equal(decode_stored_map(row["lines"]["bytes"]), drawing(0))


@pytest.mark.parametrize(
    ("glob", "template"),
    [
        ("target/*.png", "../source/{name}.png"),
        ("*/*.png", "source/{name}.png"),
        ("**/*.png", "source/{stem}.png"),
        ("target/{0..3}.png", "../source/{name}.png"),
    ],
)
def test_maps_are_found_for_pictures_of_a_glob(tmp_path, glob, template):
    for number in range(4):
        folder = "" if template == "source/{stem}.png" else "target"
        save(photograph(number), tmp_path / "in" / folder / f"{number}.png")
        save(drawing(number), tmp_path / "in" / "source" / f"{number}.png")
    generate(config_for(tmp_path / "in" / glob, tmp_path / "out", f"lines={template}"))
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 4
    for name, row in rows.items():
        number = int(name.rpartition("/")[2].removesuffix(".png"))
        assert np.array_equal(decode_stored_map(row["lines"]["bytes"]), drawing(number))


def test_tars_of_one_split_bring_their_maps(tmp_path):
    for number, split in enumerate(("train", "test")):
        members = ("0.png", photograph(number)), ("0.lines.png", drawing(number))
        write_tar(tmp_path / "in" / f"{split}-0.tar", *members)
    template = "lines={key}.lines.png"
    generate(config_for(tmp_path / "in", tmp_path / "out", template, source_split="test"))
    (row,) = rows_of(tmp_path / "out").values()
    assert np.array_equal(decode_stored_map(row["lines"]["bytes"]), drawing(1))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch", "bucket"])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_map_is_cut_and_resized_exactly_where_its_picture_is(fit, scale):
    """One white square on black, in the picture and in its map: both land on the same pixels."""
    from pipeline.images.geometry import apply_geometry

    width, height = 300, 190
    picture = np.zeros((height, width, 3), np.uint8)
    picture[60:120, 130:180] = 255
    lines = np.zeros((height * scale, width * scale), bool)
    lines[60 * scale : 120 * scale, 130 * scale : 180 * scale] = True
    geometry = plan_geometry(width, height, resolution=128, fit=fit)
    shown = apply_geometry(picture, geometry, (0, 0, 0))[..., 0]
    for mode in ("bilevel", "grey", "grey16", "rgb"):
        condition = ImportedCondition(name="lines", where="x", hint_mode=mode)
        found = fitted(lines, geometry, (width, height), condition)
        assert found.shape[:2] == shown.shape
        grey = found[..., 0] if mode == "rgb" else found
        full = 65535 if mode == "grey16" else 255
        assert np.array_equal(grey[shown == 255], np.full((shown == 255).sum(), full))
        assert not grey[shown == 0].any()
        if mode == "bilevel":
            assert set(np.unique(grey)) == {0, 255}


def test_classes_are_never_mixed():
    colors = np.array([(120, 120, 120), (180, 120, 120), (6, 230, 230)], np.uint8)
    labels = colors[np.random.default_rng(0).integers(0, 3, (90, 90))]
    geometry = plan_geometry(90, 90, resolution=64, fit="crop")
    condition = ImportedCondition(name="segmentation", where="x", hint_mode="rgb")
    found = fitted(labels, geometry, (90, 90), condition)
    assert {tuple(one) for one in found.reshape(-1, 3)} == {tuple(one) for one in colors}


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_sixteen_bits_stay_sixteen_bits(tmp_path):
    depth = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) * 16
    assert np.array_equal(decode_map(encoded(depth), max_pixels=10**6), depth)
    save(depth, tmp_path / "in" / "depth" / "a.png")
    save(photograph(0), tmp_path / "in" / "a.jpg")
    generate(config_for(tmp_path / "in", tmp_path / "out", "depth=depth/{stem}.png"))
    (row,) = rows_of(tmp_path / "out").values()
    assert np.array_equal(decode_stored_map(row["depth"]["bytes"]), depth)


def test_the_mode_is_the_narrowest_that_holds_the_pixels():
    grey = photograph(0)[..., 0]
    modes = [
        mode_of(decode_map(encoded(pixels), max_pixels=10**6))
        for pixels in (drawing(0), grey, grey.astype(np.uint16) * 200, photograph(0))
    ]
    assert modes == ["bilevel", "grey", "grey16", "rgb"]
    with pytest.raises(Rejected, match="too_many_pixels"):
        decode_map(encoded(grey), max_pixels=100)


def test_other_commands_know_an_imported_condition(imported, tmp_path):
    output, manifest = imported
    report = verify_dataset(str(output), audit=1.0)
    assert report.ok, report
    facts = {one.name: one for one in inspect_dataset(str(output), workers=1).conditions}
    assert (facts["circles"].present, facts["circles"].missing) == (6, 0)
    assert "imported = column:source" in (output / "README.md").read_text()
    (command,) = commands_of(manifest)
    assert "--conditions grey " in command
    assert "--import-condition circles=column:source" in command
    assert judge_of(str(output), "circles", Runtime()) is None


def test_an_imported_condition_is_judged_by_whoever_is_named(imported):
    output, _ = imported
    config = {"run": ("run",), "data": str(output), "output": "out", "device": "cpu"}
    record = open_dataset(str(output)).manifest.annotators["circles"]
    with pytest.raises(ConfigError, match=r"judges circles, whose maps were imported; say .*judge"):
        judging.judging_annotator(EvaluateConfig(**config), "circles", record, {})
    config = EvaluateConfig(**config, judge=("canny", "canny-thresholds=50,100"))
    annotator, drew = judging.judging_annotator(config, "circles", record, {})
    assert (annotator.record["name"], drew) == ("canny", False)


def test_a_condition_can_be_added_to_a_set_with_imported_ones(tutorial, tmp_path, imported):
    generate(config_for(tutorial, tmp_path / "out", "circles=column:source"))
    add(AddConfig(output=str(tmp_path / "out"), conditions=("grey",)))
    later, once = rows_of(tmp_path / "out"), rows_of(imported[0])
    assert {name: (row["circles"], row["grey"]) for name, row in later.items()} == {
        name: (row["circles"], row["grey"]) for name, row in once.items()
    }


def test_a_map_that_changes_is_taken_again(tmp_path):
    save(photograph(0), tmp_path / "in" / "a.jpg")
    save(drawing(0), tmp_path / "in" / "maps" / "a.png")
    config = config_for(tmp_path / "in", tmp_path / "out", "lines=maps/{stem}.png")
    generate(config)
    save(drawing(1), tmp_path / "in" / "maps" / "a.png")
    generate(config)
    (row,) = rows_of(tmp_path / "out").values()
    assert np.array_equal(decode_stored_map(row["lines"]["bytes"]), drawing(1))


def test_the_command_line_needs_no_drawn_condition(tutorial, tmp_path, capsys):
    words = ["generate", str(tutorial), "--output", str(tmp_path / "out"), "--resolution", "64"]
    assert main([*words, "--import-condition", "circles=column:source"]) == 0
    assert open_dataset(str(tmp_path / "out")).conditions == ["circles"]


@pytest.mark.parametrize(
    ("template", "relative", "path"),
    [
        ("source/{name}.png", "target/0.jpg", "source/0.png"),
        ("{folder}/{name}_c.png", "a.jpg", "a_c.png"),
        ("{key}.c.png", "x/a.image.jpg", "x/a.c.png"),
        ("{key}_c.png", "a.jpg", "a_c.png"),
        ("{folder}/{name}_c.png", "x/y/a.b.jpg", "x/y/a.b_c.png"),
        ("../maps/{stem}.png", "x/a.jpg", "../maps/x/a.png"),
    ],
)
def test_a_template_names_a_file_and_knows_it_again(template, relative, path):
    pairing = Pairing(condition="lines", where=template)
    assert pairing.path_of(relative) == path
    assert pairing.is_map(path)
    assert not pairing.is_map(relative)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("scribble", r"need NAME=TEMPLATE or NAME=column:COLUMN"),
        ("Scribble=a/{name}.png", r"need NAME=TEMPLATE"),
        ("scribble=maps/all.png", r"need a template with \{name\}"),
        ("scribble=maps/{file}.png", r"need a template with \{name\}"),
        ("canny=maps/{name}.png", r"need a name of its own, got canny, which is taken"),
        ("width=maps/{name}.png", r"got width, which is taken"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(asked, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_pairings([asked], ["canny"])
    assert "\n" not in str(error.value)


def test_a_template_that_finds_nothing_is_refused_before_any_work(tmp_path):
    save(photograph(0), tmp_path / "in" / "a.jpg")
    config = config_for(tmp_path / "in", tmp_path / "out", "lines=maps/{name}.png")
    with pytest.raises(ConfigError, match=r"found none that can be read \(map_missing: need the f"):
        generate(config)
    assert not (tmp_path / "out").exists()
    config = config_for(tmp_path / "in", tmp_path / "out", "lines=column:source")
    with pytest.raises(ConfigError, match=r"need a field source in prompt.json or metadata.jsonl"):
        generate(config)
