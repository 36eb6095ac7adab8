import gc
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources import SourceKind, iter_reads
from schemas.errors import ConfigError, Reason, Rejected
from schemas.records import key_of
from schemas.triple import FOOTER_KEY

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def cell(raw, path=None):
    return {"bytes": raw, "path": path}


def images(*raws):
    return pa.array([cell(raw) for raw in raws], STRUCT)


def outcomes(refs, spec):
    """Bytes, or the reason why not."""
    found = []
    for _, fetch in iter_reads(refs, spec):
        try:
            found.append(fetch().raw)
        except Rejected as rejected:
            found.append(rejected.reason)
    return found


def test_a_hugging_face_folder_is_listed_by_rows_and_row_groups(tmp_path, listed):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("a card")
    for shard in range(2):
        table = pa.table({"image": images(*(b"%d%d" % (shard, n) for n in range(5)))})
        pq.write_table(
            table, tmp_path / f"data/train-0000{shard}-of-00002.parquet", row_group_size=2
        )
    spec, refs = listed(tmp_path)
    assert spec.kind is SourceKind.PARQUET
    name = "data/train-00000-of-00002.parquet"
    assert [ref.source for ref in refs[:5]] == [f"{name}#{row}" for row in range(5)]
    assert [ref.key for ref in refs] == [key_of(ref.source) for ref in refs]
    assert [(ref.group, ref.ordinal, ref.row_group, ref.row) for ref in refs[:5]] == [
        (f"{name}#rg00000", 0, 0, 0),
        (f"{name}#rg00000", 1, 0, 1),
        (f"{name}#rg00001", 0, 1, 0),
        (f"{name}#rg00001", 1, 1, 1),
        (f"{name}#rg00002", 0, 2, 0),
    ]
    assert outcomes(refs, spec) == [b"%d%d" % (shard, n) for shard in range(2) for n in range(5)]


def test_any_order_and_any_gaps_give_the_right_rows(tmp_path, listed):
    raws = [b"%d" % n for n in range(100)]
    pq.write_table(pa.table({"image": images(*raws)}), tmp_path / "a.parquet", row_group_size=30)
    spec, refs = listed(tmp_path)
    order = random.Random(0).choices(range(100), k=60)
    assert outcomes([refs[n] for n in order], spec) == [raws[n] for n in order]
    gaps = [0, 17, 29, 30, 99]
    assert outcomes([refs[n] for n in gaps], spec) == [raws[n] for n in gaps]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"abc", b"de"], pa.binary()),
        pa.array([b"abc", b"de"], pa.large_binary()),
        pa.array([b"abc", b"de"], pa.binary_view()),
        pa.array([b"abc", b"de"], pa.binary()).dictionary_encode(),
        pa.array([b"abc", b"def"], pa.binary(3)),
        images(b"abc", b"de"),
        pa.array(
            [cell(b"abc"), cell(b"de")],
            pa.struct({"bytes": pa.large_binary(), "path": pa.large_string()}),
        ),
        pa.array([{"bytes": b"abc"}, {"bytes": b"de"}], pa.struct({"bytes": pa.binary()})),
    ],
    ids=lambda column: str(column.type)[:24],
)  # fmt: skip
def test_every_binary_type_of_arrow_can_hold_pictures(tmp_path, listed, column):
    pq.write_table(pa.table({"image": column}), tmp_path / "a.parquet")
    spec, refs = listed(tmp_path)
    assert outcomes(refs, spec) in ([b"abc", b"de"], [b"abc", b"def"])


def hugging_face(schema, *names):
    features = {name: {"_type": "Image"} for name in names}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_the_image_column_is_the_named_the_marked_the_struct_or_the_usual_one(tmp_path, read_all):
    binary = pa.array([b"png"])
    table = pa.table({"photo": images(b"marked"), "mask": images(b"struct"), "png": binary})
    marked = table.cast(hugging_face(table.schema, "photo"))
    cases = [
        (marked, {}, b"marked"),
        (marked, {"image_column": "mask"}, b"struct"),
        (table.drop_columns("photo"), {}, b"struct"),
        (table.drop_columns(["photo", "mask"]), {}, b"png"),
        (table, {"image_column": "png"}, b"png"),
    ]
    for case, options, raw in cases:
        pq.write_table(case, tmp_path / "a.parquet")
        assert read_all(tmp_path, **options)["a.parquet#0"].raw == raw


def test_of_controlsets_own_files_the_image_is_read_and_not_a_map(tmp_path, read_all, listed):
    table = pa.table({"image": images(b"image"), "canny": images(b"map"), "text": ["a cat"]})
    schema = hugging_face(table.schema, "image", "canny")
    table = table.cast(schema.with_metadata({**schema.metadata, FOOTER_KEY: b"{}"}))
    (tmp_path / "data").mkdir()
    (tmp_path / "rejects").mkdir()
    pq.write_table(table, tmp_path / "data/train-00000-of-00001.parquet")
    pq.write_table(pa.table({"key": ["x"]}), tmp_path / "rejects/train-00000-of-00001.parquet")
    (tmp_path / "manifest.json").write_text('{"format": "controlset"}')
    read = read_all(tmp_path)
    assert len(listed(tmp_path)[1]) == 1  # the rejects are not looked at
    assert list(read) == ["data/train-00000-of-00001.parquet#0"]
    assert read["data/train-00000-of-00001.parquet#0"].raw == b"image"
    assert read["data/train-00000-of-00001.parquet#0"].caption == "a cat"


WITHOUT_PICTURES = {
    "none": (
        pa.table({"url": ["x"], "text": ["y"]}),
        "need a column of pictures as bytes, got url",
    ),
    "addresses": (pa.table({"url": ["http://x/1.jpg"]}), "got addresses in column url; download"),
    "unusual name": (pa.table({"blob": [b"x"]}), "say --image-column blob"),
    "two structs": (
        pa.table({"left": images(b"x"), "right": images(b"x")}),
        "got left, right; say",
    ),
    "two names": (pa.table({"jpg": [b"x"], "png": [b"x"]}), "got jpg, png; say --image-column"),
    "paths": (pa.table({"image": ["a/1.jpg"]}), "got file names in column image; give the folder"),
    "base64": (pa.table({"image": ["/9j/4AAQSkZJRg"]}), "got base64 text in column image; decode"),
    "lists": (pa.table({"image": [[b"x"]]}), "got lists of pictures in column image; write a row"),
    "list of structs": (
        pa.table({"images": pa.array([[cell(b"x")]], pa.list_(STRUCT))}),
        "got lists of pictures in column images",
    ),
}


@pytest.mark.parametrize("what", WITHOUT_PICTURES)
def test_without_one_clear_image_column_nothing_starts(tmp_path, listed, problems, what):
    table, words = WITHOUT_PICTURES[what]
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ConfigError) as caught:
        listed(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", WITHOUT_PICTURES)
def test_without_one_clear_image_column_beside_good_files_the_file_is_one_problem(
    tmp_path, listed, problems, what
):
    table, _ = WITHOUT_PICTURES[what]
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": images(b"x")}), tmp_path / "b.parquet")
    refs = listed(tmp_path)[1]
    assert problems(refs) == {"a.parquet": Reason.NO_IMAGE_COLUMN}
    for name in table.column_names:
        assert name in refs[0].problem.detail


def test_null_cells_and_null_bytes_are_rejected_with_their_path(tmp_path, listed):
    column = pa.array([cell(b"x"), None, cell(None, "cats/1.jpg"), cell(b"")], STRUCT)
    pq.write_table(pa.table({"image": column}), tmp_path / "a.parquet")
    spec, refs = listed(tmp_path)
    assert outcomes(refs, spec) == [b"x", Reason.NULL_IMAGE, Reason.NULL_IMAGE, b""]
    fetches = [fetch for _, fetch in iter_reads(refs, spec)]
    with pytest.raises(Rejected, match="the cell is null"):
        fetches[1]()
    with pytest.raises(Rejected, match=r"no bytes, only the path 'cats/1.jpg'"):
        fetches[2]()


def test_captions_come_from_the_first_usual_column_of_strings(tmp_path, read_all):
    table = pa.table(
        {
            "image": images(b"x", b"x", b"x"),
            "text": [1, 2, 3],
            "caption": [[" first ", "second"], [], None],
            "prompt": ["p"] * 3,
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    read = list(read_all(tmp_path).values())
    assert [image.caption for image in read] == ["first", None, None]
    assert read[0].caption_source == "column:caption"
    assert [image.caption_problem for image in read] == [None, None, None]
    asked = list(read_all(tmp_path, caption="column", caption_column="caption").values())
    assert asked[1].caption_problem.reason is Reason.NO_CAPTION
    prompts = list(read_all(tmp_path, caption_column="prompt").values())
    assert prompts[0].caption_source == "column:prompt"
    numbers = list(read_all(tmp_path, caption="column", caption_column="text").values())
    assert numbers[0].caption_problem.reason is Reason.BAD_CAPTION
    assert "need a string, got int" in numbers[0].caption_problem.detail
    fixed = list(read_all(tmp_path, caption="fixed", caption_text="t").values())
    assert (fixed[0].caption, fixed[0].caption_source) == ("t", "fixed")
    assert next(iter(read_all(tmp_path, caption="none").values())).caption is None


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_string_type_of_arrow_can_hold_captions(tmp_path, read_all, kind):
    table = pa.table({"image": images(b"x"), "text": pa.array(["mine"]).cast(kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_all(tmp_path)["a.parquet#0"].caption == "mine"


def test_text_that_is_not_utf_8_spoils_its_own_row_only(tmp_path, read_all, listed):
    texts = pa.array([b"good", b"caf\xe9"])
    broken = pa.Array.from_buffers(pa.string(), 2, texts.buffers())
    column = pa.StructArray.from_arrays(
        [pa.array([b"x", None]), broken], fields=[STRUCT.field(0), STRUCT.field(1)]
    )
    pq.write_table(pa.table({"image": column, "text": broken}), tmp_path / "a.parquet")
    spec, refs = listed(tmp_path)
    assert outcomes(refs, spec) == [b"x", Reason.NULL_IMAGE]
    pq.write_table(pa.table({"image": images(b"x", b"y"), "text": broken}), tmp_path / "a.parquet")
    read = list(read_all(tmp_path).values())
    assert [image.caption for image in read] == ["good", None]
    assert read[1].caption_problem.reason is Reason.BAD_CAPTION


def test_a_column_that_does_not_exist_is_an_error_before_any_work(tmp_path, listed):
    pq.write_table(pa.table({"image": images(b"x"), "alt": ["y"]}), tmp_path / "a.parquet")
    with pytest.raises(
        ConfigError, match=r"--image-column: need a column of .*a.parquet \(image, "
    ):
        listed(tmp_path, image_column="img")
    with pytest.raises(ConfigError, match=r"--caption-column: need a column of .* got text"):
        listed(tmp_path, caption_column="text")
    with pytest.raises(ConfigError, match=r"need a text column text, caption or prompt"):
        listed(tmp_path, caption="column")


def test_a_caption_column_that_a_later_file_lacks_is_told_for_each_row(tmp_path, read_all):
    pq.write_table(pa.table({"image": images(b"x"), "alt": ["y"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": images(b"x")}), tmp_path / "b.parquet")
    read = read_all(tmp_path, caption_column="alt")
    assert read["a.parquet#0"].caption == "y"
    assert read["b.parquet#0"].caption_problem.reason is Reason.NO_CAPTION
    assert "column alt: not in this file" in read["b.parquet#0"].caption_problem.detail


def test_only_a_few_rows_are_in_memory(tmp_path, listed):
    row = 200_000
    pixels = random.Random(0).randbytes(row)
    # One row group; a page of it is a few rows (Arrow's writer looks at sizes once a batch).
    pq.write_table(
        pa.table({"image": [pixels] * 200}), tmp_path / "a.parquet",
        use_dictionary=False, write_batch_size=4, compression="NONE",
    )  # fmt: skip
    spec, refs = listed(tmp_path)
    gc.collect()
    before, most = pa.total_allocated_bytes(), 0
    for _, fetch in iter_reads(refs, spec):
        assert len(fetch().raw) == row
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 40 * row  # of 200


def test_a_single_file_and_a_name_that_is_not_utf_8_are_read(tmp_path, listed):
    path = tmp_path / "caf\udce9.parquet"
    with path.open("wb") as opened:
        pq.write_table(pa.table({"image": images(b"x")}), opened)
    spec, refs = listed(path)
    assert refs[0].source == "caf\\xe9.parquet#0"
    assert refs[0].group == "caf\\xe9.parquet#rg00000"
    assert outcomes(refs, spec) == [b"x"]
