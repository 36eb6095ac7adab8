"""`--fit pad`: a border is no part of the picture, so no map shows it."""

import dataclasses
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from annotators.border import SEAM_PX, inside_borders, with_border
from annotators.protocol import Annotation
from annotators.runtime import Runtime
from controlnet.evaluator.config import EvaluateConfig
from controlset import judge as judging
from controlset.judge import judge_of
from pipeline.add.add import add
from pipeline.config import AddConfig, GenerateConfig
from pipeline.generate import generate
from pipeline.inspection import inspect_dataset
from pipeline.verify.verify import verify_dataset
from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from schemas.pixels import decode_stored_map, decode_stored_rgb
from schemas.triple import Border, border_of

LOUDEST = [(255, 0, 0), (0, 0, 255), (0, 255, 0), (0, 0, 0), (255, 255, 0)]


def config_for(source, output, **changes):
    options = {
        "resolution": 64,
        "fit": "pad",
        "min_side": 1,
        "validation": 0.4,
        "num_workers": 1,
    } | changes
    return GenerateConfig(
        source=str(source), output=str(output), **{"conditions": ("canny",)} | options
    )


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Pictures of one loud colour, wide, high and square, with borders of odd and even width."""
    folder = tmp_path_factory.mktemp("flat")
    for number, color in enumerate(LOUDEST):
        for width, height in ((96, 48), (48, 96), (101, 60), (60, 103), (64, 64)):
            picture = Image.new("RGB", (width, height), color)
            picture.save(folder / f"{number}-{width}x{height}.png")
    return folder


@pytest.fixture(scope="module")
def padded(flat, tmp_path_factory):
    output = tmp_path_factory.mktemp("padded") / "out"
    generate(config_for(flat, output, conditions=("canny", "grey"), pad_color="102030"))
    return output


def rows_of(output):
    files = sorted((output / "data").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize(
    ("image_format", "pad_color"), [("jpeg", "white"), ("jpeg", "00ff00"), ("webp", "black")]
)
def test_a_flat_picture_has_no_edge_whatever_its_border(flat, tmp_path, image_format, pad_color):
    generate(config_for(flat, tmp_path / "out", image_format=image_format, pad_color=pad_color))
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 25
    for row in rows:
        assert not decode_stored_map(row["canny"]["bytes"]).any(), row["source"]
        assert row["canny_edge_density"] == 0


def test_the_border_has_the_colour_that_was_asked_for_and_its_width_stands_in_the_row(padded):
    widths = {}
    for row in rows_of(padded):
        rgb = decode_stored_rgb(row["image"]["bytes"]).astype(int)
        size = row["source"].partition("-")[2]
        widths[size] = tuple(row[f"pad_{side}"] for side in ("left", "top", "right", "bottom"))
        if row["pad_top"]:
            assert np.abs(rgb[: row["pad_top"] - 2] - (0x10, 0x20, 0x30)).max() < 12
    assert widths == {
        "96x48.png": (0, 16, 0, 16),
        "48x96.png": (16, 0, 16, 0),
        "101x60.png": (0, 13, 0, 13),
        "60x103.png": (13, 0, 14, 0),
        "64x64.png": (0, 0, 0, 0),
    }


def test_a_map_that_shows_the_picture_shows_its_border_too(padded):
    row = next(row for row in rows_of(padded) if row["source"] == "0-96x48.png")
    rgb = decode_stored_rgb(row["image"]["bytes"])
    shown = decode_stored_map(row["grey"]["bytes"])
    luminance = np.asarray(Image.fromarray(rgb).convert("L"), int)
    assert np.abs(shown - luminance).max() <= 1


def test_edges_inside_are_those_of_the_picture_alone(tmp_path):
    (tmp_path / "in").mkdir()
    rgb = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "in" / "a.png")
    generate(config_for(tmp_path / "in", tmp_path / "padded", image_format="png"))
    (row,) = rows_of(tmp_path / "padded")
    found = decode_stored_map(row["canny"]["bytes"])
    from annotators.conditions.canny import canny

    top = row["pad_top"] + SEAM_PX
    wanted = canny(rgb[SEAM_PX:-SEAM_PX], low=100, high=200)
    assert np.array_equal(found[top : 64 - top], wanted)
    assert wanted.any()
    assert not found[:top].any()
    assert not found[64 - top :].any()


def test_a_picture_that_fits_has_the_map_that_it_has_without_padding(tmp_path):
    (tmp_path / "in").mkdir()
    rgb = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "in" / "a.png")
    maps = []
    for fit in ("pad", "crop"):
        generate(config_for(tmp_path / "in", tmp_path / fit, fit=fit))
        maps.append(rows_of(tmp_path / fit)[0]["canny"]["bytes"])
    assert maps[0] == maps[1]


def test_an_audit_finds_the_same_maps_again(padded):
    report = verify_dataset(str(padded), audit=1.0)
    assert report.ok, report


def test_a_condition_that_is_added_later_is_the_one_of_a_single_run(flat, padded, tmp_path):
    color = {"pad_color": "#102030"}
    generate(config_for(flat, tmp_path / "later", **color))
    add(AddConfig(output=str(tmp_path / "later"), conditions=("grey",)))
    maps = [[row["grey"] for row in rows_of(place)] for place in (tmp_path / "later", padded)]
    assert maps[0] == maps[1]


def test_an_inspection_tells_how_many_are_padded_and_how_much(padded):
    flags = {flag.name: flag for flag in inspect_dataset(str(padded), workers=1).flags}
    flag = flags["padded_images"]
    assert (flag.count, flag.of) == (20, 25)
    assert "at most 50" in flag.meaning
    assert border_of({"pad_top": 16, "pad_bottom": 16}).share(64, 64) == 0.5


def test_a_set_that_was_not_padded_has_no_columns_for_it(flat, tmp_path):
    manifest = generate(config_for(flat, tmp_path / "out", fit="crop"))
    assert "pad_color" not in manifest.recipe
    assert not [name for name in open_dataset(str(tmp_path / "out")).schema.names if "pad" in name]
    assert open_dataset(str(tmp_path / "out")).borders() == {}


def test_a_judge_does_not_see_the_border_either(padded):
    """The seam of a sample would count against every model that learned to paint the border."""
    rows = rows_of(padded)
    pictures = [decode_stored_rgb(row["image"]["bytes"]) for row in rows]
    keys = [row["key"] for row in rows]
    config = EvaluateConfig(
        run=("run",), data=str(padded), output="out", condition="canny", device="cpu"
    )
    dataset = open_dataset(str(padded))
    record = dataset.manifest.annotators["canny"]
    annotator, _ = judging.judging_annotator(config, "canny", record, dataset.borders())
    for seen in annotator.annotate(pictures, keys):
        assert not seen.pixels.any()
    judge = judge_of(str(padded), "grey", Runtime())
    maps = [decode_stored_map(row["grey"]["bytes"]) for row in rows]
    assert min(judge.score(pictures, maps, keys)) == pytest.approx(1)


@dataclasses.dataclass(frozen=True)
class _People:
    name: ClassVar[str] = "people"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[str] = "rgb"
    stats: ClassVar[dict] = {"keypoints": "people", "people": "int32"}
    licence: ClassVar[str] = "none"

    def load(self, runtime):
        raise NotImplementedError


def test_joints_are_moved_to_their_place_in_the_padded_image():
    def look(images, keys):
        assert [image.shape for image in images] == [(96 - 2 * SEAM_PX, 128, 3)]
        nose = {"name": "nose", "x": 5.0, "y": 7.0, "score": 1.0}
        person = {"body": [nose], "left_hand": [], "right_hand": [], "face": []}
        stats = {"keypoints": [person], "people": 1}
        return [Annotation(pixels=np.full(images[0].shape, 9, np.uint8), stats=stats)]

    image, border = np.zeros((128, 128, 3), np.uint8), Border(left=0, top=20, right=0, bottom=12)
    (one,) = inside_borders(_People(), look, [image], ["a"], [border])
    (person,) = one.stats["keypoints"]
    assert (person["body"][0]["x"], person["body"][0]["y"]) == (5.0, 27.0 + SEAM_PX)
    assert one.pixels.shape == image.shape
    assert not one.pixels[: 20 + SEAM_PX].any()
    assert one.pixels[20 + SEAM_PX : 116 - SEAM_PX].all()


def test_where_there_is_no_picture_a_map_of_normals_has_no_normal():
    from annotators.conditions.normal import NormalSpec
    from controlnet.evaluator.metrics.normal import angles_deg

    image, border = np.zeros((8, 8, 3), np.uint8), Border(left=2, top=0, right=0, bottom=0)
    inner = Annotation(pixels=np.full((8, 4, 3), (128, 128, 255), np.uint8), stats={"mean_z": 1.0})
    whole = with_border(NormalSpec(), inner, image, border).pixels
    assert len(angles_deg(whole, whole)) == 8 * 4


def test_a_sliver_of_a_picture_is_never_cut_to_nothing():
    image = np.zeros((64, 64, 3), np.uint8)
    for inside in (1, 2, 3, 5):
        border = Border(left=30, top=0, right=34 - inside, bottom=0)

        def look(images, keys):
            assert min(images[0].shape[:2]) >= 1
            return [Annotation(pixels=images[0][..., 0] + 255, stats={})]

        spec = dataclasses.replace(_People())
        (one,) = inside_borders(spec, look, [image], ["a"], [border])
        assert one.pixels.any()
        assert one.pixels.shape == (64, 64)


@pytest.mark.parametrize("color", ["grren", "12345", "#12345g", ""])
def test_a_colour_that_is_none_is_refused(color):
    with pytest.raises(ConfigError, match=r"--pad-color: need white, black, grey or six hex"):
        config_for("in", "out", pad_color=color)


def test_a_colour_without_a_border_is_refused():
    with pytest.raises(ConfigError, match=r"--pad-color: need --fit pad, got 'crop'"):
        config_for("in", "out", fit="crop", pad_color="black")


def test_one_colour_is_one_recipe_however_it_is_written():
    spellings = ("grey", "#808080", "808080", "GREY")
    recipes = [config_for("in", "out", pad_color=color).recipe() for color in spellings]
    assert {recipe["pad_color"] for recipe in recipes} == {"grey"}
