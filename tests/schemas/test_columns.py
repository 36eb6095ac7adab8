"""Which types columns of a source have, and which values fit into them."""

import json
import math

import pyarrow as pa
import pytest

from schemas.columns import (
    KINDS,
    MAX_ITEMS,
    MAX_TEXT_BYTES,
    bounded,
    converted,
    kind_of,
    said,
    settled,
)
from schemas.triple import column_types, triple_schema


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        (pa.int16(), "int16"),
        (pa.float16(), "float32"),
        (pa.float64(), "float64"),
        (pa.bool_(), "bool"),
        (pa.large_string(), "string"),
        (pa.string_view(), "string"),
        (pa.dictionary(pa.int8(), pa.string()), "string"),
        (pa.list_(pa.float32()), "list:float32"),
        (pa.large_list(pa.large_string()), "list:string"),
        (pa.list_(pa.float32(), 3), "list:float32"),
        (pa.list_(pa.list_(pa.int8())), None),
        (pa.timestamp("s"), None),
        (pa.decimal128(5), None),
        (pa.binary(), None),
        (pa.struct([("x", pa.int8())]), None),
        (pa.list_(pa.struct([("x", pa.int8())])), None),
        (pa.null(), None),
    ],
)
def test_the_type_that_holds_every_value_of_parquets(stored, kind):
    assert kind_of(stored) == kind


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, -2], "int64"),
        ([1, 2**63], "uint64"),
        ([-1, 2**63], "string"),
        ([1, 2.5], "float64"),
        ([True, False], "bool"),
        ([True, 1], "string"),
        (["a", 1], "string"),
        ([[1, 2], [], [2.5]], "list:float64"),
        ([["a"], None], "list:string"),
        ([[]], None),
        ([[[1]]], None),
        ([[1], 1], None),
        ([{"a": 1}], None),
        ([None], None),
        ([], None),
    ],
)
def test_values_without_a_type_settle_it_together(values, kind):
    assert settled(values) == kind


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        (" -5 ", -5),
        ("5.10", 5.1),
        ("1e3", 1000.0),
        ("True", True),
        ("007", "007"),
        ("1_0", "1_0"),
        ("9" * 5000, "9" * 5000),
        ("a", "a"),
    ],
)
def test_a_cell_of_csv_says_a_number_or_its_text(text, value):
    found = said(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("value", "kind", "kept"),
    [
        (None, "int8", None),
        (5, "float32", 5.0),
        (5.0, "int64", 5),
        ("5.10", "float64", 5.1),
        ("5.10", "string", "5.10"),
        (5, "string", "5"),
        (True, "string", "true"),
        ("TRUE", "bool", True),
        (2**53 + 1, "int64", 2**53 + 1),
        ([1, 2.0], "list:int8", [1, 2]),
        ([], "list:string", []),
        (math.inf, "float32", math.inf),
        ("x" * MAX_TEXT_BYTES, "string", "x" * MAX_TEXT_BYTES),
    ],
)
def test_a_value_that_fits_is_kept_exactly(value, kind, kept):
    found = converted(value, kind)
    assert (found, type(found)) == (kept, type(kept))
    array = pa.array([found], KINDS[kind]).to_pylist()
    assert array == [kept]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("high", "float64"),
        (5.5, "int64"),
        (128, "int8"),
        (-1, "uint8"),
        (True, "int8"),
        (1, "bool"),
        (10**400, "float64"),
        (1e39, "float32"),
        (math.nan, "int64"),
        (math.inf, "int64"),
        ({"a": 1}, "string"),
        ([1], "int64"),
        (1, "list:int64"),
        ([1, None], "list:int64"),
        ([[1]], "list:int64"),
        ("x" * (MAX_TEXT_BYTES + 1), "string"),
        ("\ud800", "string"),
        (["x" * MAX_TEXT_BYTES, "y"], "list:string"),
        ([0] * (MAX_ITEMS + 1), "list:int8"),
        (ValueError("need a JSON file that can be read"), "int8"),
    ],
)
def test_a_value_that_does_not_fit_is_told(value, kind):
    with pytest.raises(ValueError, match=r"^need ") as error:
        converted(value, kind)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, ["x" * 1000] * 1000, [0] * 10**5, [[0] * 10**6], {"a": "x" * 10**6}],
)
def test_what_is_too_long_takes_little_memory_and_is_still_refused(value):
    small = bounded(value)
    assert len(json.dumps(small)) < 3 * MAX_TEXT_BYTES
    for kind in ("string", "list:string", "list:int64"):
        with pytest.raises(ValueError, match=r"^need "):
            converted(small, kind)


def test_kept_columns_stand_before_the_conditions_by_name():
    schema = triple_schema([], {"columns": {"b": "list:float32", "a": "string"}})
    assert schema.names[-2:] == ["a", "b"]
    assert schema.field("b").type == KINDS["list:float32"]


@pytest.mark.parametrize("columns", [{"a": "evil"}, {"a": ["x"]}, ["a"], {"a": None}])
def test_a_strangers_footer_may_say_anything(columns):
    assert triple_schema([], {"columns": columns}).names == triple_schema([], {}).names


@pytest.mark.parametrize("name", ["key", "pad_left", "latent_moments"])
def test_a_name_of_ours_is_taken_also_where_the_set_does_not_use_it(name):
    with pytest.raises(ValueError, match="need columns of different names"):
        column_types([], {name: "int64"})
