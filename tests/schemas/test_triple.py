import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, List, Value

from schemas.triple import (
    FOOTER_KEY,
    Condition,
    image_columns,
    is_countable,
    rejects_schema,
    stat_type,
    triple_schema,
)

CANNY = Condition(name="canny", stats={"low": "int32", "high": "int32", "edge_density": "float32"})


def test_the_features_are_what_datasets_itself_writes():
    schema = triple_schema([CANNY], {})
    text, number, share = Value("string"), Value("int32"), Value("float32")
    features = Features(
        {
            "key": text,
            "source": text,
            "sha256": text,
            "image": Image(),
            "text": text,
            "caption_source": text,
            "width": number,
            "height": number,
            "original_width": number,
            "original_height": number,
            "crop_x": number,
            "crop_y": number,
            "canny": Image(),
            "canny_low": number,
            "canny_high": number,
            "canny_edge_density": share,
        }
    )
    theirs = features.arrow_schema
    assert schema.metadata[b"huggingface"] == theirs.metadata[b"huggingface"]
    assert schema.equals(theirs, check_metadata=False)


def test_the_rejects_are_readable_by_datasets_too():
    schema = rejects_schema()
    assert Features.from_arrow_schema(schema)["reason"] == Value("string")
    assert schema.names == ["key", "source", "kind", "stage", "reason", "detail"]


def test_the_footer_travels_with_the_schema():
    schema = triple_schema([CANNY], {"recipe": {"resolution": 512}})
    assert json.loads(schema.metadata[FOOTER_KEY]) == {"recipe": {"resolution": 512}}


def test_conditions_stand_in_their_order_each_with_its_statistics():
    depth = Condition(name="depth", stats={"range": "float64"})
    schema = triple_schema([CANNY, depth], {})
    assert schema.names[-6:] == [
        "canny",
        "canny_low",
        "canny_high",
        "canny_edge_density",
        "depth",
        "depth_range",
    ]
    assert schema.field("depth_range").type == pa.float64()
    assert image_columns(schema) == ["image", "canny", "depth"]


def test_people_are_what_datasets_itself_would_write():
    schema = triple_schema([Condition(name="pose", stats={"keypoints": "people"})], {})
    number = Value("float32")
    joints = List({"name": Value("string"), "x": number, "y": number, "score": number})
    parts = ("body", "left_hand", "right_hand", "face")
    theirs = Features({"pose_keypoints": List(dict.fromkeys(parts, joints))}).arrow_schema
    ours = pa.schema([schema.field("pose_keypoints")])
    assert ours.equals(theirs)
    assert Features.from_arrow_schema(schema)["pose_keypoints"] == List(
        dict.fromkeys(parts, joints)
    )


def test_a_schema_comes_back_from_a_file_to_the_last_name(tmp_path):
    stats = {"people": "int32", "keypoints": "people"}
    schema = triple_schema([CANNY, Condition(name="pose", stats=stats)], {"recipe": {}})
    pq.write_table(schema.empty_table(), tmp_path / "empty.parquet")
    assert pq.read_schema(tmp_path / "empty.parquet").equals(schema, check_metadata=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("int32", True), ("float64", True), ("bool", True), ("string", False), ("people", False)],
)
def test_numbers_are_told_from_what_cannot_be_counted(name, expected):
    assert is_countable(name) is expected


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="No type alias for persons"):
        stat_type("persons")
