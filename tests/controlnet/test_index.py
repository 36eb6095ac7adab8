import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlnet.trainer.index import scan
from pipeline.config import GenerateConfig
from pipeline.generate import generate
from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from schemas.latents import LatentInfo
from tests.pipeline.handmade import (
    encoded,
    photograph,
    rewritten,
    row_of,
    without_map,
    write_dataset,
)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Ten rows in several shards of two splits, as `generate` writes them."""
    root = tmp_path_factory.mktemp("generated")
    (root / "photographs").mkdir()
    for number in range(10):
        stored = encoded(np.roll(photograph("chelsea", 96), 9 * number, axis=1))
        (root / "photographs" / f"{number}.jpg").write_bytes(stored)
    generate(
        GenerateConfig(
            source=str(root / "photographs"),
            output=str(root / "set"),
            conditions=("canny",),
            resolution=64,
            shard_rows=4,
            validation=0.3,
            num_workers=1,
        )
    )
    return root / "set"


def rows_of(count, empty=()):
    rgb = photograph("coffee", 64)
    rows = [row_of(rgb, f"{number}.jpg") for number in range(count)]
    return [without_map(row) if n in empty else row for n, row in enumerate(rows)]


def found(folder, **changes):
    asked = {"split": "train", "condition": "canny", "wants_latents": False} | changes
    return scan(str(folder), **asked)


INFO = LatentInfo(
    base="nano",
    vae_sha256="5a" * 32,
    channels=4,
    factor=8,
    scaling_factor=0.18215,
    shift_factor=None,
    flips=False,
    precision="fp32",
)


def with_moments(folder, missing, statistics):
    """Give the only train shard a column of moments, null in these rows."""
    (path,) = folder.glob("data/train-*.parquet")
    table = pq.read_table(path)
    cells = [None if n in missing else b"\0\0" for n in range(table.num_rows)]
    table = table.append_column("latent_moments", pa.array(cells, pa.binary()))
    pq.write_table(table, path, row_group_size=4, write_statistics=statistics, compression="NONE")


def test_it_finds_every_row_of_its_split_in_stored_order(generated):
    for split in ("train", "validation"):
        data = open_dataset(str(generated), split=split)
        assert len(data.shards) > 1 or split == "validation"
        index = found(generated, split=split)
        assert [key.decode() for key in index.keys] == [one.key for one in data]
        assert index.sizes == {(64, 64): len(data)}
        assert (index.null_maps, index.null_latents) == (0, 0)


def test_it_says_where_a_row_lies(generated):
    index = found(generated)
    for number in range(len(index)):
        file = index.files[index.file_numbers[number]]
        with pq.ParquetFile(file) as reader:
            table = reader.read_row_group(int(index.row_groups[number]), ["key"])
        key = table["key"][int(index.rows_in_group[number])].as_py()
        assert key == index.keys[number].decode()


def test_rows_without_a_map_are_left_out_and_counted(tmp_path):
    write_dataset(tmp_path, {"train": rows_of(11, empty={0, 5, 6})}, row_group_rows=4)
    index = found(tmp_path)
    assert index.null_maps == 3
    assert list(zip(index.row_groups, index.rows_in_group, strict=True)) == [
        *[(0, 1), (0, 2), (0, 3)],
        *[(1, 0), (1, 3)],
        *[(2, 0), (2, 1), (2, 2)],
    ]


def test_row_groups_are_counted_through_all_files_and_empty_ones_are_not(tmp_path):
    write_dataset(tmp_path, {"train": rows_of(12, empty={4, 5, 6, 7})}, row_group_rows=4)
    assert found(tmp_path).group_numbers.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("statistics", [True, False])
def test_rows_without_latents_are_left_out_only_where_latents_are_wanted(tmp_path, statistics):
    rows = rows_of(9, empty={1})
    write_dataset(tmp_path, {"train": rows}, row_group_rows=4, latents=INFO.to_json())
    with_moments(tmp_path, missing={1, 2, 8}, statistics=statistics)
    assert len(found(tmp_path)) == 8
    index = found(tmp_path, wants_latents=True)
    assert (len(index), index.null_maps, index.null_latents) == (6, 1, 2)
    assert index.latents == INFO


def test_latents_without_their_record_are_explained(tmp_path):
    write_dataset(tmp_path, {"train": rows_of(2)})
    with_moments(tmp_path, missing=set(), statistics=True)
    with pytest.raises(ConfigError, match=r"need a record of the latents in the manifest"):
        found(tmp_path, wants_latents=True)


def test_latents_that_are_null_everywhere_are_explained(tmp_path):
    write_dataset(tmp_path, {"train": rows_of(2)}, latents=INFO.to_json())
    with_moments(tmp_path, missing={0, 1}, statistics=True)
    with pytest.raises(ConfigError, match=r"need rows with latent_moments, got null in all 2"):
        found(tmp_path, wants_latents=True)


def test_a_missing_condition_is_explained_with_those_that_there_are(generated):
    with pytest.raises(
        ConfigError, match=r"need the condition 'depth', got shards with canny; name one of these"
    ):
        found(generated, condition="depth")


def test_missing_latents_are_explained(generated):
    with pytest.raises(ConfigError, match=r"need the column latent_moments, got .*--latents BASE"):
        found(generated, wants_latents=True)


def test_a_condition_that_is_null_everywhere_is_explained(tmp_path):
    write_dataset(tmp_path, {"train": rows_of(3, empty={0, 1, 2})})
    with pytest.raises(ConfigError, match=r"need rows with canny, got null in all 3 rows"):
        found(tmp_path)


def test_an_unknown_split_is_explained(generated):
    with pytest.raises(ConfigError, match=r"need a split out of \['train', 'validation'\]"):
        found(generated, split="test")


def test_a_split_without_rows_is_explained(tmp_path):
    write_dataset(tmp_path, {"train": []})
    with pytest.raises(ConfigError, match=r"need rows in the split 'train', got none"):
        found(tmp_path)


def test_an_incomplete_set_is_explained(generated, tmp_path):
    shutil.copytree(generated, tmp_path / "copy")
    (tmp_path / "copy/manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"need a complete data set, found no manifest.json"):
        found(tmp_path / "copy")


@pytest.mark.parametrize("kept", [0, 1000])
def test_a_torn_shard_is_named(generated, tmp_path, kept):
    shutil.copytree(generated, tmp_path / "copy")
    shard = sorted((tmp_path / "copy").glob("data/train-*.parquet"))[-1]
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=rf"{shard.name}: need a whole shard, .*`controlset veri"):
        found(tmp_path / "copy")


def test_a_shard_that_lacks_rows_is_named(tmp_path):
    write_dataset(tmp_path, {"train": rows_of(3)})

    def one_more(document):
        document["shards"][0]["planned"] = document["shards"][0]["data"]["rows"] = 4

    rewritten(tmp_path, one_more)
    with pytest.raises(ConfigError, match=r"got 3 rows where the manifest says 4; run `controls"):
        found(tmp_path)
