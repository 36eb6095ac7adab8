import threading

import numpy as np
import pytest
import skimage
from PIL import Image

from pipeline.config import GenerateConfig
from pipeline.generate import generate
from schemas.dataset import example, open_dataset
from schemas.errors import ConfigError
from tests.pipeline.every_kind import EVERY_KIND, person, row_of_every_kind
from tests.pipeline.handmade import photograph, write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of 23 rows in several shards, two splits, captions on half of the images."""
    root = tmp_path_factory.mktemp("set")
    photographs = root / "photographs"
    photographs.mkdir()
    cat = Image.fromarray(skimage.data.chelsea())
    for number in range(23):
        box = (number * 5, number, number * 5 + 200, number + 200)
        cat.crop(box).save(photographs / f"{number:02d}.jpg")
        if number % 2:
            (photographs / f"{number:02d}.txt").write_text(f"cat number {number}")
    (photographs / "broken.jpg").write_bytes(b"no")
    output = root / "dataset"
    generate(
        GenerateConfig(
            source=str(photographs),
            output=str(output),
            conditions=("canny",),
            resolution=64,
            shard_rows=6,
            validation=0.3,
            num_workers=2,
        )
    )
    return output


def test_it_knows_its_length_schema_and_conditions(folder):
    data = open_dataset(str(folder))
    assert len(data) == 23
    assert data.conditions == ["canny"]
    assert data.schema.names[0] == "key"
    assert b"huggingface" in data.schema.metadata


def test_a_random_row_equals_the_row_in_its_turn(folder):
    data = open_dataset(str(folder))
    in_turn = list(data)
    assert len(in_turn) == 23
    assert len({one.key for one in in_turn}) == 23
    for index in (22, 0, 7, 8, -1, -23):
        one = data[index]
        assert one.key == in_turn[index].key
        assert np.array_equal(one.image, in_turn[index].image)
        assert np.array_equal(one.maps["canny"], in_turn[index].maps["canny"])


def test_rows_are_decoded(folder):
    one = next(one for one in open_dataset(str(folder)) if one.text is not None)
    assert one.image.shape == (64, 64, 3)
    assert one.maps["canny"].shape == (64, 64)
    assert set(np.unique(one.maps["canny"])) <= {0, 255}
    assert one.text.startswith("cat number ")
    assert one.fields["original_width"] == 200


def test_outside_the_set_is_an_index_error(folder):
    data = open_dataset(str(folder))
    for index in (23, -24):
        with pytest.raises(IndexError, match=rf"need a row in 0..22, got {index}"):
            data[index]


def test_splits_are_disjoint_and_together_everything(folder):
    parts = [open_dataset(str(folder), split=split) for split in ("train", "validation")]
    keys = [{one.key for one in part} for part in parts]
    assert not keys[0] & keys[1]
    assert sum(map(len, parts)) == 23
    with pytest.raises(ConfigError, match=r"need a split out of \['train', 'validation'\]"):
        open_dataset(str(folder), split="test")


def test_a_projection_holds_only_the_columns_asked_for(folder):
    data = open_dataset(str(folder))
    assert set(data.row(3, ["key", "width"])) == {"key", "width"}
    assert next(data.batches(["text"])).schema.names == ["text"]


def test_the_rejects_can_be_read(folder):
    (row,) = open_dataset(str(folder)).rejects()
    assert (row["source"], row["reason"], row["kind"]) == ("broken.jpg", "not_an_image", None)


def test_a_missing_map_is_none(folder):
    data = open_dataset(str(folder))
    row = data.row(0) | {"canny": None}
    assert example(row, data.conditions).maps == {"canny": None}


def test_several_threads_may_read(folder):
    data = open_dataset(str(folder))
    expected = [data.row(index, ["key"])["key"] for index in range(23)]
    wrong = []

    def read(seed):
        for index in np.random.default_rng(seed).permutation(23):
            if data.row(int(index), ["key"])["key"] != expected[index]:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_not_a_complete_set_is_explained(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"need a complete data set, found no manifest.json; run"):
        open_dataset(str(tmp_path))
    with pytest.raises(ConfigError, match=r"nowhere: .*, found no such folder; check the path"):
        open_dataset(str(tmp_path / "nowhere"))


def test_a_torn_shard_is_explained(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shard = sorted(copy.glob("data/*.parquet"))[0]
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"need a whole shard, got .*; run `controlset verify`"):
        open_dataset(str(copy))[0]


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    """Two rows with maps of every kind; in the second one is nobody."""
    root = tmp_path_factory.mktemp("every kind")
    rows = [
        row_of_every_kind(photograph("astronaut"), "a.jpg", people=[person(18, hands=21)]),
        row_of_every_kind(photograph("coffee"), "b.jpg"),
    ]
    write_dataset(root, {"train": rows}, annotators=EVERY_KIND)
    return open_dataset(str(root)), rows


def test_maps_of_every_kind_are_decoded_to_their_own_type(every_kind):
    data, _ = every_kind
    assert data.conditions == list(EVERY_KIND)
    kinds = {name: (one.dtype.name, one.shape) for name, one in data[0].maps.items()}
    grey, rgb = (128, 128), (128, 128, 3)
    assert kinds == {
        "canny": ("uint8", grey),
        "softedge": ("uint8", grey),
        "mlsd": ("uint8", grey),
        "depth": ("uint16", grey),
        "tile": ("uint8", rgb),
        "pose": ("uint8", rgb),
    }
    assert data[0].maps["depth"].max() > 255
    assert data[1].maps["pose"] is None


def test_keypoints_are_lists_of_dicts(every_kind):
    data, rows = every_kind
    (one,) = data[0].fields["pose_keypoints"]
    assert [joint["name"] for joint in one["body"]] == [f"joint {n}" for n in range(18)]
    assert one == rows[0]["pose_keypoints"][0]
    assert (data[0].fields["pose_people"], data[0].fields["depth_flat"]) == (1, False)
    assert data[1].fields["pose_keypoints"] is None


def test_a_projection_leaves_conditions_out(every_kind):
    data, _ = every_kind
    one = example(data.row(0, ["key", "image", "depth"]), data.conditions)
    assert list(one.maps) == ["depth"]
    assert one.fields == {}
