"""The dataset card: read by `datasets` as the hub would, literal whatever the names are."""

import os
import subprocess
import sys

import pytest
import yaml

from pipeline.card import generate_command, render_card
from pipeline.pages import markdown_cell
from schemas.errors import Reason
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


@pytest.fixture(scope="module")
def rows():
    return [row_of(photograph(name), f"{name}.jpg") for name in PHOTOGRAPHS[:4]]


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_datasets_loads_the_folder_with_the_features_that_the_card_declares(tmp_path, rows):
    data = tmp_path / "set"
    manifest = write_dataset(data, {"train": rows[:3], "validation": rows[3:]})
    (data / "README.md").write_text(render_card(manifest, schema_of()))
    # another process: the cache and offline switches are read when `datasets` is imported
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    result = subprocess.run(
        [sys.executable, "-c", LOADS, str(data)], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "{'train': 3, 'validation': 1}",
        "(128, 128) 1",
        "True 3",
        "unknown ['n<1K']",
    ]


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
    assert generate_command(manifest) == (
        "controlset generate '/my photos' --output DIR --conditions canny --caption fixed "
        "--caption-text 'it'\"'\"'s `so`' --fit pad --min-side 64 --validation 0.1"
    )


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


def test_every_column_is_explained():
    card = render_card(manifest_of({"train": []}), schema_of())
    table = card.split("## Columns")[1].split("## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == schema_of().names
    assert all(line.split("|")[4].strip() for line in lines)


def test_rejects_and_annotators_are_named(rows):
    manifest = manifest_of({"train": rows}, [reject("a.jpg", Reason.TOO_SMALL)])
    card = render_card(manifest, schema_of())
    assert "5 images found: 4 became rows, 1 rejected." in card
    assert "| `too_small` | 1 |" in card
    assert "| annotator: canny | 1 | low = 100, high = 200, seed = 0 | none needed |" in card


def test_the_card_depends_on_nothing_but_its_arguments(rows):
    manifest = manifest_of({"train": rows})
    assert render_card(manifest, schema_of()) == render_card(manifest, schema_of())
