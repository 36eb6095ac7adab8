"""Inspecting a whole data set: every defect that was put in is found, and a clean set is clean."""

import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from pipeline.inspection import inspect_dataset, print_inspection, render_inspection
from pipeline.inspection.measure import is_blank, measure_image
from pipeline.inspection.records import histogram
from schemas.errors import ConfigError, Reason
from schemas.pixels import encode_bilevel_png
from schemas.terminal import Terminal
from tests.pipeline.handmade import (
    PHOTOGRAPHS,
    encoded,
    photograph,
    reject,
    row_of,
    without_map,
    write_dataset,
)
from tests.pipeline.test_preview import acting, parsed


def good_rows():
    return [row_of(photograph(name), f"{name}.jpg", f"{name} at dusk") for name in PHOTOGRAPHS[:4]]


def flags_of(inspection):
    return {flag.name: flag for flag in inspection.flags}


def inspected(folder, splits, rejects=(), **options):
    write_dataset(folder, splits, rejects, row_group_rows=5)
    return inspect_dataset(str(folder), **({"workers": 2} | options))


def names(flag):
    return [member.source for member in flag.examples]


@pytest.fixture(scope="module")
def defective(tmp_path_factory):
    """One data set with a row for every defect."""
    rows = good_rows()
    bright = ImageEnhance.Brightness(Image.fromarray(photograph("coffee"))).enhance(1.1)
    flat = np.full((128, 128, 3), 90, np.uint8)  # lit from one side, as blank scans are
    flat += np.linspace(0, 9, 128).astype(np.uint8)[:, None]
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(photograph("retina")).convert("L").convert("RGB"))
    blank = {"bytes": encode_bilevel_png(np.zeros((128, 128), np.uint8)), "path": None}
    rows += [
        rows[0] | {"key": "1" * 32, "source": "copy of astronaut.jpg"},
        row_of(np.asarray(bright), "brightened coffee.jpg"),
        row_of(flat, "flat.jpg", canny=blank, canny_edge_density=0.0),
        row_of(flat + 40, "another flat.jpg", canny=blank, canny_edge_density=0.0),
        row_of(noise, "noise.jpg", canny_edge_density=0.36),
        row_of(grey, "grey.jpg", "word " * 90),
        without_map(row_of(photograph("immunohistochemistry"), "<b>no map.jpg", None)),
        row_of(photograph("hubble_deep_field"), "small.jpg", original_width=60, original_height=60),
        row_of(photograph("page"), "broken.jpg", stored=b"\xff\xd8\xff not a picture"),
    ]
    held_out = [rows[1] | {"key": "2" * 32, "source": "coffee, held out.jpg"}]
    rejects = [reject("tiny.jpg", Reason.TOO_SMALL, "got 12x12, need 64")]
    folder = tmp_path_factory.mktemp("defective")
    return inspected(folder, {"train": rows, "validation": held_out}, rejects)


def test_a_clean_set_has_no_flags_and_says_so(tmp_path):
    found = inspected(tmp_path, {"train": good_rows()})
    assert found.flags == []
    assert (found.rows, found.measured, found.splits) == (4, 4, {"train": 4})
    assert "nothing stood out" in parsed(render_inspection(found))[1]


def test_exact_copies_are_found_by_source_and_by_stored_bytes(tmp_path):
    rows = good_rows()
    by_source = row_of(photograph("page"), "a.jpg", sha256=rows[0]["sha256"])
    by_stored = row_of(photograph("coffee"), "b.jpg", sha256="ab" * 32)
    found = inspected(tmp_path, {"train": [*rows, by_source, by_stored]})
    groups = [[member.source for member in group.members] for group in found.duplicates.exact]
    assert groups == [["astronaut.jpg", "a.jpg"], ["coffee.jpg", "b.jpg"]]
    assert found.duplicates.near == []


def test_copies_are_grouped_and_leakage_comes_first(defective):
    exact = [{member.source for member in group.members} for group in defective.duplicates.exact]
    near = [{member.source for member in group.members} for group in defective.duplicates.near]
    assert exact == [
        {"coffee.jpg", "coffee, held out.jpg"},
        {"astronaut.jpg", "copy of astronaut.jpg"},
    ]
    assert near == [{"coffee.jpg", "coffee, held out.jpg", "brightened coffee.jpg"}]
    assert defective.flags[0].name == "leakage"
    assert all(member.thumbnail for member in defective.duplicates.near[0].members)


def test_flat_pictures_do_not_clump_together(defective):
    flat = flags_of(defective)["flat_images"]
    assert names(flat) == ["flat.jpg", "another flat.jpg"]
    in_groups = {member.source for group in defective.duplicates.near for member in group.members}
    assert not in_groups & set(names(flat))


@pytest.mark.parametrize(
    ("flag", "sources"),
    [
        ("blank_canny", ["flat.jpg", "another flat.jpg"]),
        ("missing_canny", ["<b>no map.jpg"]),
        ("sparse_canny", ["flat.jpg", "another flat.jpg"]),
        ("dense_canny", ["noise.jpg"]),
        ("no_caption", ["<b>no map.jpg"]),
        ("caption_loops", ["grey.jpg"]),
        ("long_captions", ["grey.jpg"]),
        ("broken_images", ["broken.jpg"]),
        ("grey_images", ["grey.jpg"]),
        ("enlarged_images", ["small.jpg"]),
    ],
)
def test_a_defect_is_flagged_with_the_rows_that_have_it(defective, flag, sources):
    found = flags_of(defective)[flag]
    assert names(found) == sources
    assert found.count == len(sources)
    assert found.meaning
    assert found.advice


def test_what_harms_comes_before_what_deserves_a_look(defective):
    severities = [flag.severity for flag in defective.flags]
    assert severities == sorted(severities)
    assert {"fix", "look"} == set(severities)


def test_rejects_are_counted_with_examples(defective):
    (facts,) = defective.rejects
    assert (facts.reason, facts.count) == ("too_small", 1)
    assert facts.examples == [("tiny.jpg", "got 12x12, need 64")]


def test_json_holds_every_member_and_no_picture(defective):
    document = json.loads(defective.to_json())
    assert document["rows"] == 14
    (near,) = document["duplicates"]["near"]
    assert {member["split"] for member in near["members"]} == {"train", "validation"}
    assert "thumbnail" not in defective.to_json()


def test_the_page_is_safe_complete_and_fetches_nothing(defective):
    page = render_inspection(defective)
    tags, text = parsed(page)
    for flag in defective.flags:
        assert flag.title in text
        assert flag.advice in text
    assert "<b>no map.jpg" in text
    assert not {tag for tag, _ in tags} & {"b.jpg", "script", "link", "iframe"}
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in tags if tag == "img")
    assert "in more than one split" in text


def test_names_and_captions_do_not_turn_the_direction_of_the_page(tmp_path):
    rows = good_rows()
    rows[0] |= {"source": "\u202egpj.exe\x1b\x9b.jpg", "text": "\u2067word \x07" * 90}
    rows += [rows[0] | {"key": "1" * 32}]
    page = render_inspection(inspected(tmp_path, {"train": rows}))
    assert not acting(page)
    assert r"\u202egpj.exe\x1b\x9b.jpg" in page
    assert r"\u2067word \x07" in page


def test_the_terminal_shows_names_literally(tmp_path, capsys):
    rows = good_rows()
    rows[0] |= {"source": "[bold red]x[/] \x1b[31m.jpg", "text": None}
    found = inspected(tmp_path, {"train": rows})
    print_inspection(found, Terminal())
    printed = capsys.readouterr().out
    assert r"[bold red]x[/] \x1b[31m.jpg" in printed
    assert "\x1b" not in printed


def test_the_number_of_workers_changes_nothing(tmp_path, defective):
    rows = [
        row_of(photograph(name, 64), f"{n}-{name}.jpg") for n in range(5) for name in PHOTOGRAPHS
    ]
    one = inspected(tmp_path, {"train": rows}, workers=1)
    many = inspect_dataset(str(tmp_path), workers=4)
    assert one == many


def test_a_sample_is_spread_evenly_and_counts_stay_those_of_all_rows(tmp_path):
    rows = [
        row_of(photograph(name, 64), f"{n}-{name}.jpg") for n in range(3) for name in PHOTOGRAPHS
    ]
    progress = []
    write_dataset(tmp_path, {"train": rows}, row_group_rows=4)
    found = inspect_dataset(
        str(tmp_path), sample=7, workers=2, on_progress=lambda *two: progress.append(two)
    )
    assert (found.measured, found.rows, found.captions.present) == (7, 21, 21)
    assert found.conditions[0].present == 21
    assert progress[-1] == (7, 7)
    assert "pixels of 7 rows" in parsed(render_inspection(found))[1]


def test_an_empty_set_is_inspected_too(tmp_path):
    rejects = [reject(f"{n}.jpg", Reason.CORRUPT) for n in range(3)]
    found = inspected(tmp_path, {"train": []}, rejects)
    assert [flag.name for flag in found.flags] == ["many_rejects"]
    assert "0 rows" in parsed(render_inspection(found))[1]
    print_inspection(found, Terminal())


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"need a complete data set, found no manifest\.json"):
        inspect_dataset(str(tmp_path), workers=1)


def test_a_map_is_blank_below_a_thousandth_or_when_all_is_alike():
    edges = np.zeros((100, 100), np.uint8)
    edges.flat[:9] = 255
    assert is_blank(edges)
    edges.flat[:10] = 255
    assert not is_blank(edges)
    assert is_blank(np.full((8, 8), 128, np.uint8))
    assert is_blank(np.tile(np.array([200, 10, 90], np.uint8), (8, 8, 1)))
    shallow = np.arange(64, dtype=np.uint16).reshape(8, 8)  # a quarter of an 8-bit grey level
    assert is_blank(shallow)
    assert not is_blank(shallow * 100)


def test_reduced_decoding_measures_what_full_decoding_does():
    rgb = photograph("coffee", 512)
    jpeg, png = measure_image(encoded(rgb, quality=95)), measure_image(encoded(rgb, "PNG"))
    assert int(jpeg["phash"] ^ png["phash"]).bit_count() <= 2
    assert jpeg["spread"] == pytest.approx(png["spread"], abs=2)
    assert jpeg["deviation"] == pytest.approx(png["deviation"], abs=2)


def test_a_histogram_counts_everything_even_beyond_its_edges():
    found = histogram(np.array([-5, 0.5, 99, np.nan]), (0, 1, 2))
    assert (found.counts, found.smallest, found.largest) == ((2, 1), -5, 99)
