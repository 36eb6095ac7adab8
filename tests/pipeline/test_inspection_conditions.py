"""What is wrong with maps of each kind: found where it was put, and nowhere else."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from annotators.conditions.soft_edges import SoftedgeSpec
from annotators.registry import record_of
from annotators.runtime import Runtime
from pipeline.inspection import inspect_dataset, print_inspection, render_inspection
from pipeline.inspection.findings import density_limits
from pipeline.inspection.measure import LEAK_LIMIT, leak
from schemas.pixels import encode_map_png
from schemas.terminal import Terminal
from tests.pipeline.every_kind import (
    CAPTIONED,
    EVERY_KIND,
    POSE,
    cell,
    person,
    pose_columns,
    row_of_every_kind,
    soft_edges,
)
from tests.pipeline.handmade import PHOTOGRAPHS, encoded, photograph, write_dataset
from tests.pipeline.test_inspection import flags_of, names
from tests.pipeline.test_preview import parsed

PIDINET = Path("/work/shared/weights/pidinet")
BLACK = np.zeros((128, 128), np.uint8)


def grey_of(rgb):
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def luminance_of(rgb):
    return np.asarray(Image.fromarray(rgb).resize((64, 64), Image.Resampling.BOX).convert("L"))


def rows_of(count=6, people=2):
    """Rows without a defect; every photograph is its own, so nothing is a copy."""
    return [
        row_of_every_kind(
            photograph(name), f"{name}.jpg", f"this is {name}", people=[person(14)] * people
        )
        for name in PHOTOGRAPHS[:count]
    ]


def inspected(folder, rows, annotators=EVERY_KIND, **changes):
    write_dataset(folder, {"train": rows}, annotators=annotators, **changes)
    return inspect_dataset(str(folder), workers=2)


def test_a_clean_set_with_maps_of_every_kind_has_no_flags(tmp_path):
    found = inspected(tmp_path, rows_of())
    assert found.flags == []
    assert [one.name for one in found.conditions] == list(EVERY_KIND)


@pytest.fixture(scope="module")
def defective(tmp_path_factory):
    """A row for every defect of a map."""
    rows = rows_of(4)
    leaking = soft_edges(photograph("retina"))
    leaking = np.maximum(leaking, grey_of(photograph("retina")) // 3)
    black16 = cell(encode_map_png(BLACK.astype(np.uint16)))
    weak = [person(3), person(14), person(0)]
    spot = row_of_every_kind(photograph("retina"), "leak.jpg", "an eye", people=[person(18)])
    rows += [
        spot | {"softedge": cell(encode_map_png(leaking)), "mlsd_edge_density": 0.0001},
        row_of_every_kind(
            photograph("immunohistochemistry"),
            "weak.jpg",
            "a piece of tissue",
            people=weak,
            depth=black16,
            depth_min=3.0,
            depth_max=3.0,
            depth_flat=True,
            softedge=cell(encode_map_png(BLACK)),
            softedge_edge_density=0.0,
        ),
        row_of_every_kind(
            photograph("hubble_deep_field"),
            "nobody.jpg",
            "a star and a star",
            caption_source="blip",
            depth_max=1.6,
            softedge_edge_density=0.4,
            depth=black16,
        ),
    ]
    folder = tmp_path_factory.mktemp("defective")
    return inspected(folder, rows, captioner=CAPTIONED)


DEFECTS = {  # flag -> rows that have it, count, of how many, threshold
    "leak_softedge": (["leak.jpg"], 1, 7, LEAK_LIMIT),
    "blank_softedge": (["weak.jpg"], 1, 7, 0.001),
    "sparse_softedge": (["weak.jpg"], 1, 7, 0.005),
    "dense_softedge": (["nobody.jpg"], 1, 7, 0.35),
    "sparse_mlsd": (["leak.jpg"], 1, 7, 0.002),
    "flat_depth": (["weak.jpg"], 1, 7, None),
    "blank_depth": (["nobody.jpg"], 1, 7, 0.001),
    "narrow_depth": (["nobody.jpg"], 1, 7, pytest.approx(0.5)),
    "missing_pose": (["nobody.jpg"], 1, 7, None),
    "few_joints_pose": (["weak.jpg"], 2, 12, 4),
    "repetitive_captions": (["nobody.jpg"], 1, 1, 0.4),
}


@pytest.mark.parametrize("flag", DEFECTS)
def test_a_defect_is_flagged_with_count_share_threshold_and_rows(defective, flag):
    sources, count, of, threshold = DEFECTS[flag]
    found = flags_of(defective)[flag]
    assert (names(found), found.count, found.of) == (sources, count, of)
    assert found.threshold == threshold
    assert found.share == count / of
    assert all(member.key and member.thumbnail for member in found.examples)


def test_nothing_else_is_flagged(defective):
    assert flags_of(defective).keys() == set(DEFECTS)


def test_people_and_joints_are_counted(defective):
    (pose,) = [one for one in defective.conditions if one.name == "pose"]
    people, joints = pose.stats["people"], pose.stats["joints_of_a_person"]
    assert (people.edges, people.counts, people.whole) == ((1, 2, 3, 4), (1, 4, 1), True)
    assert (joints.total, joints.smallest, joints.median, joints.largest) == (12, 0, 14, 18)
    assert pose.stats["visible_joints"].total == 6
    assert "keypoints" not in pose.stats


def test_bins_of_edge_density_are_cut_at_its_limits(defective):
    for condition in defective.conditions:
        if condition.density_limits is not None:
            assert set(condition.density_limits) <= set(condition.stats["edge_density"].edges)


def test_the_range_of_depth_is_counted(defective):
    (depth,) = [one for one in defective.conditions if one.name == "depth"]
    assert list(depth.stats) == ["min", "max", "range"]
    counted = depth.stats["range"]
    assert (counted.smallest, counted.median, counted.largest) == (0, 10, 10)


def test_page_terminal_and_json_show_it(defective, capsys, monkeypatch):
    text = parsed(render_inspection(defective))[1]
    monkeypatch.setenv("COLUMNS", "200")
    print_inspection(defective, Terminal())
    printed = capsys.readouterr().out
    for words in ("joints of a person", "visible joints", "range"):
        assert words in text
        assert words in printed
    for flag in defective.flags:
        assert flag.title in text
        assert flag.title in printed
    assert "mlsd under 0.2 % or over 20 %" in text
    assert '"share": 0.14' in defective.to_json()
    assert '"threshold": 0.75' in defective.to_json()


def test_captions_are_counted_by_source(defective):
    sources = {one.name: (one.rows, one.repetitive) for one in defective.captions.sources}
    assert sources == {"sidecar": (6, 0), "blip": (1, 1)}
    assert "captions from" in parsed(render_inspection(defective))[1]


def test_empty_poses_that_were_asked_for_are_no_defect(tmp_path):
    kept = POSE | {"parameters": POSE["parameters"] | {"keep_empty": True}}
    rows = rows_of()
    empty = pose_columns([person(0)], photograph("coffee"))
    nobody = {"pose_people": 0, "pose_visible_joints": 0, "pose_keypoints": []}
    black = cell(encode_map_png(np.zeros((128, 128, 3), np.uint8)))
    rows[1] |= empty | nobody | {"pose": black}
    found = inspected(tmp_path, rows, EVERY_KIND | {"pose": kept})
    assert {name: flag.severity for name, flag in flags_of(found).items()} == {"blank_pose": "look"}


def test_scribbles_may_be_denser_than_soft_edges():
    soft, scribble = (record_of(SoftedgeSpec(mode=mode)) for mode in ("soft", "scribble"))
    assert density_limits("softedge", soft) == (0.005, 0.35)
    assert density_limits("softedge", scribble) == (0.005, 0.5)
    assert density_limits("depth", EVERY_KIND["depth"]) is None


@pytest.mark.parametrize("name", [name for name in PHOTOGRAPHS if name != "hubble_deep_field"])
@pytest.mark.parametrize("fake", ["grey", "negative", "dim"])
def test_a_map_that_is_the_picture_itself_leaks(name, fake):
    rgb = photograph(name, 256)
    grey = grey_of(rgb)
    pixels = {"grey": grey, "negative": 255 - grey, "dim": grey // 3}[fake]
    assert leak(pixels, luminance_of(rgb)) > 0.98


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_edges_alone_do_not_leak(name):
    rgb = photograph(name, 256)
    assert leak(soft_edges(rgb), luminance_of(rgb)) < LEAK_LIMIT


def test_pictures_and_maps_of_one_tone_do_not_leak():
    rgb = photograph("coffee", 256)
    assert leak(np.full((256, 256), 40, np.uint8), luminance_of(rgb)) == 0
    assert leak(grey_of(rgb), np.full((64, 64), 90, np.uint8)) == 0


@pytest.mark.slow
@pytest.mark.skipif(not PIDINET.exists(), reason="needs PiDiNet's own weights")
def test_the_leak_tells_real_soft_edges_from_the_grey_picture():
    look = {
        mode: SoftedgeSpec(mode=mode).load(Runtime(weights=str(PIDINET)))
        for mode in ("soft", "safe")
    }
    for name in PHOTOGRAPHS:
        rgb = photograph(name, 512)
        luminance, grey = luminance_of(rgb), grey_of(rgb)
        (soft,), (safe,) = look["soft"]([rgb], [name]), look["safe"]([rgb], [name])
        assert leak(soft.pixels, luminance) < 0.6
        assert leak(safe.pixels, luminance) < 0.3
        assert leak(grey, luminance) > 0.9


def test_measuring_does_not_depend_on_the_format_of_the_image(tmp_path):
    rgb = photograph("coffee", 256)
    rows = [
        row_of_every_kind(rgb, "a.jpg", people=[person(9)]),
        row_of_every_kind(rgb, "b.png", people=[person(9)], stored=None)
        | {"image": {"bytes": encoded(rgb, "PNG"), "path": "x.png"}},
    ]
    for row in rows:
        row["softedge"] = cell(encode_map_png(grey_of(rgb)))
    found = inspected(tmp_path, rows)
    assert flags_of(found)["leak_softedge"].count == 2
