"""Readers that nobody here wrote open what `generate` writes, and see what it meant."""

import io
import json
import random
import socket

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import skimage.data
from PIL import Image

from pipeline.config import GenerateConfig
from pipeline.generate import generate
from pipeline.plan import split_of
from schemas.dataset import open_dataset
from schemas.records import key_of
from tests.pipeline.every_kind import EVERY_KIND, person, row_of_every_kind
from tests.pipeline.handmade import photograph, write_dataset

VALIDATION = 0.3
RESOLUTION = 64
COUNT = 24


def write_photographs(folder, count=COUNT, broken=()):
    """Crops of a photograph, captions beside them; names in `broken` are no pictures."""
    photograph = Image.fromarray(skimage.data.astronaut())
    folder.mkdir()
    rng = random.Random(0)
    for number in range(count):
        name = f"{number:02d}.jpg"
        left, top = rng.randrange(400), rng.randrange(400)
        crop = photograph.crop((left, top, left + 110, top + 90))
        crop.save(folder / name) if name not in broken else (folder / name).write_text("no picture")
        (folder / f"{number:02d}.txt").write_text(f"crop {number}, “quoted” \U0001f408")


def generated(source, output, **changes):
    options = {"validation": VALIDATION, "resolution": RESOLUTION, "shard_rows": 6} | changes
    return generate(
        GenerateConfig(
            source=str(source), output=str(output), conditions=("canny",), num_workers=2, **options
        )
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A set of two splits and several shards, and its manifest."""
    root = tmp_path_factory.mktemp("readers")
    write_photographs(root / "in")
    manifest = generated(root / "in", root / "out")
    assert set(manifest.splits) == {"train", "validation"}
    assert len(manifest.shards) > 3
    return root / "out", manifest


@pytest.fixture
def offline(monkeypatch):
    """Nothing may be asked of any other machine."""

    def refuse(*_):
        raise AssertionError("a reader tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def rows_of(manifest):
    return {
        split: sum(shard.data.rows for shard in shards) for split, shards in manifest.splits.items()
    }


def projection(path):
    """Key -> (text, bytes of the Canny map), read by our own reader."""
    dataset = open_dataset(str(path))
    columns = ["key", "text", "canny"]
    rows = [dataset.row(index, columns) for index in range(len(dataset))]
    return {row["key"]: (row["text"], row["canny"]["bytes"]) for row in rows}


def test_datasets_loads_the_folder_with_image_features_and_both_splits(written, tmp_path, offline):
    path, manifest = written
    loaded = datasets.load_dataset(str(path), cache_dir=str(tmp_path))
    assert {split: part.num_rows for split, part in loaded.items()} == rows_of(manifest)
    for split in loaded.values():
        assert split.features["image"] == datasets.Image()
        assert split.features["canny"] == datasets.Image()
        assert split.features["text"] == datasets.Value("string")
    ours = {example.key: example for example in open_dataset(str(path))}
    theirs = {row["key"]: row for split in loaded.values() for row in split}
    assert theirs.keys() == ours.keys()
    for key, row in theirs.items():
        assert row["image"].size == row["canny"].size == (RESOLUTION, RESOLUTION)
        np.testing.assert_array_equal(np.asarray(row["image"].convert("RGB")), ours[key].image)
        np.testing.assert_array_equal(
            np.asarray(row["canny"].convert("L")), ours[key].maps["canny"]
        )
        assert row["text"] == ours[key].text


def test_datasets_streams_the_same_rows(written, tmp_path, offline):
    path, manifest = written
    loaded = datasets.load_dataset(str(path), streaming=True, cache_dir=str(tmp_path))
    counts = {}
    for split, part in loaded.items():
        rows = list(part)
        counts[split] = len(rows)
        assert all(row["image"].size == row["canny"].size for row in rows)
    assert counts == rows_of(manifest)


def test_the_feature_metadata_is_byte_for_byte_what_datasets_writes(written, tmp_path):
    path, manifest = written
    text, integer = datasets.Value("string"), datasets.Value("int32")
    features = datasets.Features(
        {
            "key": text,
            "source": text,
            "sha256": text,
            "image": datasets.Image(),
            "text": text,
            "caption_source": text,
            "width": integer,
            "height": integer,
            "original_width": integer,
            "original_height": integer,
            "crop_x": integer,
            "crop_y": integer,
            "canny": datasets.Image(),
            "canny_low": integer,
            "canny_high": integer,
            "canny_edge_density": datasets.Value("float32"),
        }
    )
    ours = pq.read_schema(path / manifest.shards[0].data.path)
    table = datasets.Dataset.from_dict({name: [] for name in features}, features=features)
    table.to_parquet(tmp_path / "theirs.parquet")
    theirs = pq.read_schema(tmp_path / "theirs.parquet")
    assert ours.metadata[b"huggingface"] == theirs.metadata[b"huggingface"]
    assert ours.remove_metadata() == theirs.remove_metadata()


def test_polars_reads_a_projection(written):
    path, _ = written
    frame = (
        pl.scan_parquet(path / "data/*.parquet")
        .select("key", "text", pl.col("canny").struct.field("bytes"))
        .collect()
    )
    assert {key: (text, raw) for key, text, raw in frame.iter_rows()} == projection(path)


def test_duckdb_reads_a_projection(written):
    path, _ = written
    query = f"SELECT key, text, canny.bytes FROM '{path}/data/*.parquet'"
    with duckdb.connect() as connection:
        rows = connection.execute(query).fetchall()
    assert {key: (text, raw) for key, text, raw in rows} == projection(path)


def test_pandas_reads_a_projection(written):
    path, _ = written
    frame = pd.read_parquet(path / "data", columns=["key", "text", "canny"])
    rows = zip(frame["key"], frame["text"], frame["canny"], strict=True)
    assert {key: (text, cell["bytes"]) for key, text, cell in rows} == projection(path)


def test_pyarrow_dataset_reads_a_projection_and_filters(written):
    path, manifest = written
    dataset = pads.dataset(path / "data", format="parquet")
    table = dataset.to_table(
        columns={
            "key": pads.field("key"),
            "text": pads.field("text"),
            "raw": pads.field("canny", "bytes"),
        }
    )
    rows = {row["key"]: (row["text"], row["raw"]) for row in table.to_pylist()}
    assert rows == projection(path)
    dense = dataset.count_rows(filter=pads.field("canny_edge_density") > 0.1)
    densities = [row["canny_edge_density"] for row in dataset.to_table().to_pylist()]
    assert dense == sum(density > np.float32(0.1) for density in densities)
    assert 0 < dense < manifest.rows


def test_every_stored_image_and_map_opens_in_any_viewer(written):
    path, _ = written
    dataset = open_dataset(str(path))
    for index in range(len(dataset)):
        row = dataset.row(index)
        for column in ("image", "canny"):
            with Image.open(io.BytesIO(row[column]["bytes"])) as picture:
                assert picture.size == (row["width"], row["height"])
                assert row[column]["path"].endswith({"JPEG": ".jpg", "PNG": ".png"}[picture.format])


@pytest.fixture(scope="module")
def of_every_kind(tmp_path_factory):
    """Two rows with maps of every kind; in the second one is nobody."""
    path = tmp_path_factory.mktemp("every kind")
    people = [person(18, hands=21), person(5)]
    rows = [
        row_of_every_kind(photograph("astronaut"), "a.jpg", people=people),
        row_of_every_kind(photograph("coffee"), "b.jpg"),
    ]
    write_dataset(path, {"train": rows}, annotators=EVERY_KIND)
    return path, people


def test_polars_duckdb_pandas_and_pyarrow_read_keypoints(of_every_kind):
    path, people = of_every_kind
    columns = ["pose_keypoints", "pose_people"]
    frame = pl.scan_parquet(path / "data/*.parquet").select(columns).collect()
    assert frame["pose_keypoints"].to_list() == [people, None]
    with duckdb.connect() as connection:
        query = f"SELECT pose_keypoints, pose_people FROM '{path}/data/*.parquet'"
        assert connection.execute(query).fetchall() == [(people, 2), (None, None)]
        query = f"SELECT len(pose_keypoints[1].body) FROM '{path}/data/*.parquet'"
        assert connection.execute(query).fetchall() == [(18,), (None,)]
    frame = pd.read_parquet(path / "data", columns=columns)
    assert [len(one["body"]) for one in frame["pose_keypoints"][0]] == [18, 5]
    assert frame["pose_keypoints"][1] is None
    table = pads.dataset(path / "data", format="parquet").to_table(columns=columns)
    assert table["pose_keypoints"].to_pylist() == [people, None]


def test_datasets_reads_maps_of_every_kind(of_every_kind, tmp_path, offline):
    path, people = of_every_kind
    first, second = datasets.load_dataset(str(path), split="train", cache_dir=str(tmp_path))
    ours = open_dataset(str(path))[0].maps
    modes = {name: first[name].mode for name in EVERY_KIND}
    assert modes["depth"] == "I;16"
    for name in EVERY_KIND:
        theirs = first[name].convert("L") if modes[name] == "1" else first[name]
        np.testing.assert_array_equal(np.asarray(theirs), ours[name])
    assert first["pose_keypoints"] == people
    assert (second["pose"], second["pose_keypoints"]) == (None, None)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_datasets_loads_a_set_of_which_one_split_was_rejected_whole(split, tmp_path, offline):
    names = [f"{number:02d}.jpg" for number in range(COUNT)]
    broken = {
        name for name in names if split_of(key_of(name), validation=VALIDATION, seed=0) == split
    }
    write_photographs(tmp_path / "in", broken=broken)
    manifest = generated(tmp_path / "in", tmp_path / "out")
    assert rows_of(manifest)[split] == 0
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    # `datasets` refuses a split without rows, so the card does not name it.
    left = {name: rows for name, rows in rows_of(manifest).items() if rows}
    assert {name: part.num_rows for name, part in loaded.items()} == left
    streamed = datasets.load_dataset(str(tmp_path / "out"), streaming=True)
    assert {name: len(list(part)) for name, part in streamed.items()} == left


def test_datasets_loads_a_set_with_an_empty_shard_among_full_ones(tmp_path, offline):
    write_photographs(tmp_path / "in", broken={f"{number:02d}.jpg" for number in range(16)})
    manifest = generated(tmp_path / "in", tmp_path / "out", shard_rows=1, validation=0.0)
    assert 0 in {shard.data.rows for shard in manifest.shards}
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].num_rows == manifest.rows == COUNT - 16


def test_a_data_set_is_a_source_of_another_one(written, tmp_path):
    path, manifest = written
    again = generated(path, tmp_path / "again", resolution=32, validation=0.0, source_split="all")
    assert (again.planned, again.rows) == (manifest.rows, manifest.rows)
    first, second = open_dataset(str(path)), open_dataset(str(tmp_path / "again"))
    texts = sorted(example.text for example in first)
    assert sorted(example.text for example in second) == texts
    assert {example.image.shape for example in second} == {(32, 32, 3)}
    assert {example.fields["caption_source"] for example in second} == {"column:text"}


def test_images_that_already_fit_keep_their_bytes_through_another_generate(written, tmp_path):
    path, _ = written
    generated(path, tmp_path / "same", validation=0.0, source_split="all")
    first, second = open_dataset(str(path)), open_dataset(str(tmp_path / "same"))

    def stored(dataset):
        rows = [dataset.row(index, ["image", "canny"]) for index in range(len(dataset))]
        return sorted((row["image"]["bytes"], row["canny"]["bytes"]) for row in rows)

    assert stored(second) == stored(first)


def test_the_public_api_opens_it(written):
    import controlset

    path, manifest = written
    dataset = controlset.open(str(path))
    assert len(dataset) == manifest.rows
    assert dataset.conditions == ["canny"]
    example = dataset[-1]
    assert example.image.shape[:2] == example.maps["canny"].shape
    assert len(controlset.open(str(path), split="validation")) == rows_of(manifest)["validation"]


def test_the_footer_says_how_every_map_was_made(written):
    path, manifest = written
    for shard in manifest.shards:
        footer = json.loads(pq.read_schema(path / shard.data.path).metadata[b"controlset"])
        assert footer["recipe"] == manifest.recipe
        assert footer["annotators"] == manifest.annotators
