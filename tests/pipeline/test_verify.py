import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage
from PIL import Image

from annotators.options import configured
from pipeline.config import GenerateConfig
from pipeline.generate import generate
from pipeline.verify.verify import print_verification, verify_dataset
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.pixels import encode_bilevel_png
from schemas.terminal import Terminal
from tests.pipeline.handmade import rewritten


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A set of 20 rows with drawn thresholds, lossy storage, two splits and one reject."""
    root = tmp_path_factory.mktemp("verify")
    photographs = root / "photographs"
    photographs.mkdir()
    cup = Image.fromarray(skimage.data.coffee())
    for number in range(20):
        cup.crop((number * 9, number * 3, number * 9 + 300, number * 3 + 260)).save(
            photographs / f"{number:02d}.jpg"
        )
    (photographs / "broken.jpg").write_bytes(b"no")
    generate(
        configured(
            GenerateConfig,
            source=str(photographs),
            output=str(root / "dataset"),
            conditions=("canny",),
            canny_thresholds="50-150,150-250",
            resolution=128,
            shard_rows=8,
            validation=0.3,
            num_workers=2,
        )
    )
    return root / "dataset"


@pytest.fixture
def dataset(original, tmp_path):
    return shutil.copytree(original, tmp_path / "dataset")


def verified(dataset, audit=1.0):
    return verify_dataset(str(dataset), audit=audit, workers=2)


def findings(report):
    return [finding for check in report.checks for finding in check.findings]


def rewrite(dataset, change):
    """Change the first shard's table, keep manifest and records in step with the new file."""
    shard = sorted(dataset.glob("data/train-*.parquet"))[0]
    table = pq.read_table(shard)
    changed = change(table)
    pq.write_table(changed, shard, compression="NONE", use_dictionary=False, row_group_size=100)
    import hashlib

    raw = shard.read_bytes()
    new = {
        "rows": changed.num_rows,
        "size_bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }
    name = f"data/{shard.name}"

    def as_it_lies(document):
        for one in document["shards"]:
            if one["data"]["path"] == name:
                one["data"] |= new
                one["planned"] = changed.num_rows + one["rejected_images"]
                (dataset / ".controlset" / f"{one['name']}.json").write_text(json.dumps(one))

    rewritten(dataset, as_it_lies)


def with_column(table, name, values):
    field = table.schema.field(name)
    column = pa.array(values, type=field.type)
    return table.set_column(table.schema.get_field_index(name), field, column)


def test_a_fresh_set_passes_every_check(dataset):
    report = verified(dataset)
    assert report.ok
    assert findings(report) == []
    audited = report.checks[-1]
    assert (audited.name, audited.looked_at) == ("maps extracted again are the same", 20)


def test_the_audit_takes_the_asked_share_the_same_each_time_and_at_least_one_row(dataset):
    assert verified(dataset, audit=1e-9).checks[-1].looked_at == 1
    half = [verified(dataset, audit=0.5).checks[-1].looked_at for _ in range(2)]
    assert half[0] == half[1]
    assert 3 <= half[0] <= 17
    assert "extracted" not in [check.name for check in verified(dataset, audit=0).checks][-1]


def test_one_other_pixel_in_one_map_is_found(dataset):
    def flip(table):
        maps = table["canny"].to_pylist()
        pixels = np.asarray(Image.open(io.BytesIO(maps[0]["bytes"])).convert("L")).copy()
        pixels[5, 5] = 255 - pixels[5, 5]
        maps[0]["bytes"] = encode_bilevel_png(pixels)
        return with_column(table, "canny", maps)

    rewrite(dataset, flip)
    report = verified(dataset)
    (finding,) = findings(report)
    assert "canny: need the map of the stored image, got 1 other pixels" in finding
    assert verified(dataset, audit=0).ok


def test_swapped_images_are_found(dataset):
    rewrite(
        dataset,
        lambda table: with_column(table, "image", table["image"].to_pylist()[::-1]),
    )
    assert any("do not belong together" in finding for finding in findings(verified(dataset)))


def test_other_thresholds_than_the_key_draws_are_found(dataset):
    rewrite(dataset, lambda t: with_column(t, "canny_low", [1] * t.num_rows))
    assert any("need canny_low = " in finding for finding in findings(verified(dataset)))


def test_a_map_of_another_size_or_form_is_found(dataset):
    def shrink(table):
        maps = table["canny"].to_pylist()
        maps[0]["bytes"] = encode_bilevel_png(np.zeros((64, 128), np.uint8))
        buffer = io.BytesIO()
        Image.new("L", (128, 128)).save(buffer, "PNG")
        maps[1]["bytes"] = buffer.getvalue()
        return with_column(table, "canny", maps)

    rewrite(dataset, shrink)
    found = " ".join(findings(verified(dataset, audit=0)))
    assert "need a canny map of 128x128 px, got 128x64" in found
    assert "need a bilevel canny map, got mode L" in found


def test_a_picture_that_does_not_open_is_found(dataset):
    def break_one(table):
        images = table["image"].to_pylist()
        images[0]["bytes"] = b"nonsense"
        return with_column(table, "image", images)

    rewrite(dataset, break_one)
    assert any("need pictures that open" in finding for finding in findings(verified(dataset)))


def test_a_key_that_stands_twice_is_found(dataset):
    rewrite(dataset, lambda t: with_column(t, "key", [t["key"][0].as_py()] * t.num_rows))
    assert any("need one row, got a second one in train" in f for f in findings(verified(dataset)))


def test_a_picture_in_two_splits_is_found(dataset):
    validation = sorted(dataset.glob("data/validation-*.parquet"))[0]
    stolen = pq.read_table(validation)["sha256"][0].as_py()

    def leak(table):
        return with_column(table, "sha256", [stolen, *table["sha256"].to_pylist()[1:]])

    rewrite(dataset, leak)
    (finding,) = findings(verified(dataset, audit=0))
    assert "need equal pictures in one split, got it in train and validation" in finding


def test_another_schema_compression_or_encoding_is_found(dataset):
    rewrite(dataset, lambda table: table.drop_columns(["crop_x"]))
    assert any("need the columns and features" in f for f in findings(verified(dataset, audit=0)))


def test_metadata_that_hugging_face_needs_is_checked(dataset):
    def strip(table):
        metadata = {k: v for k, v in table.schema.metadata.items() if k != b"huggingface"}
        return table.replace_schema_metadata(metadata)

    rewrite(dataset, strip)
    assert any("need the columns and features" in f for f in findings(verified(dataset, audit=0)))


def test_files_that_are_gone_cut_or_strange_are_found(dataset):
    shards = sorted(dataset.glob("data/*.parquet"))
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-100])
    (dataset / "data" / "train-00009-of-00010.parquet").write_bytes(b"old")
    (dataset / "data" / ".tmp-123").write_bytes(b"left over")
    found = " ".join(findings(verified(dataset)))
    assert f"data/{shards[0].name}: need a file that can be read" in found
    assert f"data/{shards[1].name}: need " in found
    assert "data/train-00009-of-00010.parquet: need only files of the manifest; delete it" in found
    assert "data/.tmp-123: need only files of the manifest" in found


def test_rejects_that_do_not_add_up_are_found(dataset):
    def others(document):
        for shard in document["shards"]:
            shard["reasons"] = {"corrupt": 1} if shard["reasons"] else {}

    rewritten(dataset, others)
    assert any("need reasons {'corrupt': 1}" in f for f in findings(verified(dataset, audit=0)))


def test_a_record_that_contradicts_the_manifest_is_found_and_none_is_fine(dataset):
    records = sorted((dataset / ".controlset").glob("train-*.json"))
    record = json.loads(records[0].read_text()) | {"fingerprint": "0" * 64}
    records[0].write_text(json.dumps(record))
    assert any("need the record of the manifest" in f for f in findings(verified(dataset, audit=0)))
    shutil.rmtree(dataset / ".controlset")
    assert verified(dataset).ok


@pytest.mark.parametrize("seed", range(40))
def test_one_changed_byte_anywhere_is_found_and_never_a_crash(original, tmp_path, seed):
    dataset = shutil.copytree(original, tmp_path / "dataset")
    rng = np.random.default_rng(seed)
    shard = sorted(dataset.glob("*/*.parquet"))[seed % 4]
    raw = bytearray(shard.read_bytes())
    place = (
        int(rng.integers(0, len(raw))) if seed % 2 else len(raw) - 1 - int(rng.integers(0, 2000))
    )
    raw[place] ^= int(rng.integers(1, 256))
    shard.write_bytes(raw)
    report = verified(dataset, audit=0.2)
    assert any("need sha256" in finding for finding in findings(report))


def test_without_a_manifest_there_is_nothing_to_verify(tmp_path):
    with pytest.raises(ConfigError, match=r"need a complete data set, found no manifest\.json"):
        verify_dataset(str(tmp_path))


def test_progress_ends_at_all_rows(dataset):
    seen = []
    verify_dataset(
        str(dataset), workers=2, on_progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (20, 20)


def test_the_printed_report_names_every_check_and_finding(dataset, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (dataset / "data" / "[red]stray.parquet").write_bytes(b"x")
    report = verified(dataset)
    print_verification(report, Terminal())
    printed = capsys.readouterr().out
    assert "data/[red]stray.parquet: need only files of the manifest" in printed
    assert all(check.name in printed for check in report.checks)
    assert "not every check passed" in printed


def test_the_manifest_still_reads_after_the_tests_own_rewriting(dataset):
    rewrite(dataset, lambda table: table)
    text = (dataset / "manifest.json").read_text()
    Manifest.from_json(text, where="manifest.json")
    assert verified(dataset).ok
