"""The dataset card: read by `datasets` as the hub would, literal whatever the names are."""

import os
import subprocess
import sys

import datasets
import pytest
import yaml

from annotators.registry import kind_of, ours, record_of
from pipeline.output.card import _in_card, commands_of, render_card
from pipeline.output.pages import markdown_cell
from schemas.errors import Reason
from tests.pipeline.every_kind import CAPTIONED, EVERY_KIND, person, row_of_every_kind
from tests.pipeline.handmade import (
    PHOTOGRAPHS,
    RECIPE,
    manifest_of,
    photograph,
    reject,
    row_of,
    schema_of,
    write_dataset,
)

LOADS = """
import sys, datasets
from huggingface_hub import DatasetCard
folder = sys.argv[1]
card = DatasetCard.load(folder + "/README.md")
sets = datasets.load_dataset(folder)
print({name: len(rows) for name, rows in sets.items()})
print(sets["train"][0]["image"].size, sets["train"][0]["canny"].mode)
declared = datasets.DatasetInfo._from_yaml_dict(card.data.dataset_info)
print(declared.features == sets["train"].features, declared.splits["train"].num_examples)
print(card.data.license, card.data.size_categories)
"""

LOADS_EVERY_KIND = """
import sys, datasets, numpy
from huggingface_hub import DatasetCard
folder = sys.argv[1]
card = DatasetCard.load(folder + "/README.md")
rows = datasets.load_dataset(folder, split="train")
declared = datasets.DatasetInfo._from_yaml_dict(card.data.dataset_info)
print(declared.features == rows.features)
first, second = rows[0], rows[1]
print(*(first[name].mode for name in ("image", "canny", "softedge", "mlsd", "depth", "tile")))
print(numpy.asarray(first["depth"]).dtype, numpy.asarray(first["depth"]).max() > 255)
print(len(first["pose_keypoints"]), len(first["pose_keypoints"][0]["body"]), first["pose"].mode)
print(first["pose_keypoints"][0]["left_hand"][0], first["depth_flat"])
print(second["pose"], second["pose_people"], second["pose_keypoints"])
"""


@pytest.fixture(scope="module")
def rows():
    return [row_of(photograph(name), f"{name}.jpg") for name in PHOTOGRAPHS[:4]]


def in_another_process(program, folder, home):
    """Lines that a program prints; cache and offline switches are read by `datasets`' import."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "home")}
    result = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_datasets_loads_the_folder_with_the_features_that_the_card_declares(tmp_path, rows):
    data = tmp_path / "set"
    manifest = write_dataset(data, {"train": rows[:3], "validation": rows[3:]})
    (data / "README.md").write_text(render_card(manifest, schema_of()))
    assert in_another_process(LOADS, data, tmp_path) == [
        "{'train': 3, 'validation': 1}",
        "(128, 128) 1",
        "True 3",
        "unknown ['n<1K']",
    ]


def test_datasets_loads_columns_of_every_kind_with_the_features_that_the_card_declares(tmp_path):
    people = [person(18, hands=21), person(3)]
    rows = [
        row_of_every_kind(photograph("astronaut"), "astronaut.jpg", people=people),
        row_of_every_kind(photograph("coffee"), "coffee.jpg"),
    ]
    data = tmp_path / "set"
    manifest = write_dataset(data, {"train": rows}, annotators=EVERY_KIND, captioner=CAPTIONED)
    (data / "README.md").write_text(render_card(manifest, schema_of(EVERY_KIND)))
    assert in_another_process(LOADS_EVERY_KIND, data, tmp_path) == [
        "True",
        "RGB 1 L 1 I;16 RGB",
        "uint16 True",
        "2 18 RGB",
        "{'name': 'joint 0', 'x': 10.0, 'y': 20.0, 'score': 0.5} False",
        "None None None",
    ]


def test_the_features_are_written_as_datasets_writes_them():
    schema = schema_of(EVERY_KIND)
    ours = front_matter(render_card(manifest_of({"train": []}, annotators=EVERY_KIND), schema))
    theirs = datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(schema))
    assert ours["dataset_info"]["features"] == theirs._to_yaml_dict()["features"]


@pytest.mark.parametrize(
    "kind",
    [
        datasets.Value("float64"),
        datasets.List(datasets.Value("int32")),
        datasets.List(datasets.List(datasets.Value("string"))),
        datasets.List({"a": datasets.Value("bool"), "b": datasets.List(datasets.Image())}),
        {"a": datasets.Value("int8"), "b": {"c": datasets.Value("int16")}},
    ],
)
def test_a_nested_feature_is_written_as_datasets_writes_it(kind):
    features = datasets.Features({"x": kind})
    (theirs,) = features._to_yaml_list()
    assert {"name": "x"} | _in_card(features.to_dict()["x"]) == theirs


def test_the_front_matter_counts_what_is_on_disk(tmp_path, rows):
    manifest = write_dataset(tmp_path, {"train": rows})
    info = front_matter(render_card(manifest, schema_of()))["dataset_info"]
    size = (tmp_path / "data/train-00000-of-00001.parquet").stat().st_size
    assert info["splits"] == [{"name": "train", "num_bytes": size, "num_examples": 4}]
    assert info["download_size"] == info["dataset_size"] == size


def test_the_licence_is_unknown_until_someone_states_it(rows):
    manifest = manifest_of({"train": rows})
    assert front_matter(render_card(manifest, schema_of()))["license"] == "unknown"
    stated = render_card(manifest, schema_of(), licence="cc-by-4.0")
    assert front_matter(stated)["license"] == "cc-by-4.0"


def test_the_command_repeats_only_what_differs_from_the_defaults():
    recipe = RECIPE | {
        "fit": "pad",
        "caption": "fixed",
        "caption_text": "it's `so`",
        "min_side": 64,
    }
    manifest = manifest_of({"train": []}, recipe=recipe, source="/my photos")
    assert commands_of(manifest) == [
        "controlset generate '/my photos' --output DIR --conditions canny --caption fixed "
        "--caption-text 'it'\"'\"'s `so`' --fit pad --min-side 64 --validation 0.1"
    ]


def test_backticks_in_a_name_cannot_end_the_code_block():
    manifest = manifest_of({"train": []}, source="a\n```\n# owned")
    card = render_card(manifest, schema_of())
    assert "````sh\ncontrolset generate 'a\n```\n# owned'" in card
    assert "# owned' --output DIR --conditions canny --validation 0.1\n````\n" in card


@pytest.mark.parametrize(
    "evil", ["a|b", "<script>", "x\ny", "[l](http://e)", "`c`", "*s*", "a\x00"]
)
def test_a_table_cell_stays_one_literal_cell(evil):
    cell = markdown_cell(evil)
    assert not set(cell) & set("|<>`*[]\n\x00")


def test_a_hostile_source_does_not_reach_the_front_matter_or_add_a_table_row(rows):
    evil = "---\nlicense: mit\n---\n| x | <script>alert(1)</script>"
    card = render_card(manifest_of({"train": rows}, source=evil), schema_of())
    assert front_matter(card)["license"] == "unknown"
    table = card.split("## Licence and provenance")[1]
    assert "<script>" not in table
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 4


def lines_about_columns(card):
    table = card.split("## Columns")[1].split("## ")[0]
    return [line for line in table.splitlines() if line.startswith("| `")]


def test_every_column_is_explained():
    schema = schema_of(EVERY_KIND)
    card = render_card(manifest_of({"train": []}, annotators=EVERY_KIND), schema)
    lines = lines_about_columns(card)
    assert [line.split("`")[1] for line in lines] == schema.names
    assert all(line.split("|")[4].strip() for line in lines)
    (people,) = [line for line in lines if "`pose_keypoints`" in line]
    assert "| list of body, left_hand, right_hand, face |" in people


@pytest.mark.parametrize("name", list(ours()))
def test_every_statistic_of_our_annotators_has_its_own_words(name):
    record = record_of(kind_of(name)())
    schema = schema_of({name: record})
    card = render_card(manifest_of({"train": []}, annotators={name: record}), schema)
    for line in lines_about_columns(card)[13:]:
        assert f"of the {name} map" not in line.replace("&#95;", "_")


def test_weights_are_named_with_their_hash_and_licence_and_so_is_the_captioner(rows):
    manifest = manifest_of({"train": rows}, annotators=EVERY_KIND, captioner=CAPTIONED)
    card = render_card(manifest, schema_of(EVERY_KIND)).replace("&#95;", "_")
    table = [
        line for line in card.splitlines() if line.startswith("| ann") or "| captioner" in line
    ]
    assert len(table) == 7
    (soft,) = [line for line in table if "softedge" in line]
    assert f"table5_pidinet.pth of lllyasviel/Annotators, sha256 {'5a' * 32}" in soft
    assert "code: Apache-2.0 (controlnet-aux); weights: research only" in soft
    (words,) = [line for line in table if "captioner: blip" in line]
    assert "model = Salesforce/blip-image-captioning-base" in words
    assert f"sha256 {'5a' * 32}" in words
    assert "BSD-3-Clause" in words


def test_weights_that_are_not_free_for_every_use_are_warned_of(rows):
    restricted = manifest_of({"train": rows}, annotators=EVERY_KIND, captioner=CAPTIONED)
    card = render_card(restricted, schema_of(EVERY_KIND)).replace("&#95;", "_")
    warnings = [line for line in card.splitlines() if line.startswith("- ")]
    assert [line.split(" used ")[0] for line in warnings if " used " in line] == [
        "- annotator: softedge",
        "- annotator: pose",
    ]
    assert "non-commercial use only" in card
    free = {name: EVERY_KIND[name] for name in ("canny", "mlsd", "depth")}
    assert "free for every use" not in render_card(
        manifest_of({"train": rows}, annotators=free, captioner=CAPTIONED), schema_of(free)
    )
    unknown = CAPTIONED | {
        "weights": [CAPTIONED["weights"][0] | {"licence": "see the model's card"}]
    }
    card = render_card(manifest_of({"train": rows}, captioner=unknown), schema_of())
    assert "- captioner: blip used" in card


def test_rejects_and_annotators_are_named(rows):
    manifest = manifest_of({"train": rows}, [reject("a.jpg", Reason.TOO_SMALL)])
    card = render_card(manifest, schema_of())
    assert "5 images found: 4 became rows, 1 rejected." in card
    assert "| `too_small` | 1 |" in card
    assert "| annotator: canny | 1 | low = 100, high = 200, seed = 0 | none needed |" in card


def test_the_card_depends_on_nothing_but_its_arguments(rows):
    manifest = manifest_of({"train": rows})
    assert render_card(manifest, schema_of()) == render_card(manifest, schema_of())
