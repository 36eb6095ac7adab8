import json
import pickle

import pytest

from schemas.errors import ConfigError, Reason, Rejected
from schemas.manifest import FileRecord, Manifest, ShardRecord, read_record
from schemas.records import ImageRef, Place, Problem, as_utf8, key_of, unit_interval


def shard(name="train-00000-of-00001", rows=3, planned=4, rejected=1, **changes):
    data = FileRecord(path=f"data/{name}.parquet", rows=rows, size_bytes=10, sha256="ab" * 32)
    rejects = FileRecord(path=f"rejects/{name}.parquet", rows=1, size_bytes=5, sha256="cd" * 32)
    values = {
        "name": name,
        "split": name.split("-")[0],
        "references": "a" * 64,
        "fingerprint": "f" * 64,
        "planned": planned,
        "data": data,
        "rejects": rejects,
        "rejected_images": rejected,
        "reasons": {"truncated": 1},
    }
    return ShardRecord(**values | changes)


def manifest(*shards):
    return Manifest(
        recipe={"resolution": 512}, source="photos", annotators={}, software={}, shards=shards
    )


def test_keys_are_the_same_on_every_machine():
    assert key_of("cats/01.jpg") == "0adb9ac3e467e4c63103fcc9dcf6c979"
    assert key_of("cats/01.jpg") != key_of("cats/02.jpg")


def test_names_that_are_not_utf8_have_keys_and_can_be_printed():
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert key_of(name) != key_of("café.jpg")
    assert as_utf8(name) == "caf\\xe9.jpg"
    as_utf8(name).encode("utf-8")


def test_the_unit_interval_is_uniform_and_repeatable():
    draws = [unit_interval(f"seed-{number}") for number in range(4000)]
    assert draws == [unit_interval(f"seed-{number}") for number in range(4000)]
    assert all(0 <= draw < 1 for draw in draws)
    tenths = [sum(int(draw * 10) == tenth for draw in draws) for tenth in range(10)]
    assert min(tenths) > 330  # 400 +- 3.7 standard deviations
    assert max(tenths) < 470


def test_references_and_rejects_survive_the_wire():
    ref = ImageRef(
        key="k",
        source="a.jpg",
        place=Place(uri="/a\udce9.jpg", size_bytes=3),
        problem=Problem(reason=Reason.UNSAFE_NAME, detail="x"),
    )
    assert pickle.loads(pickle.dumps(ref)) == ref
    rejected = pickle.loads(pickle.dumps(Rejected(Reason.CORRUPT, "bad")))
    assert (rejected.reason, rejected.detail) == (Reason.CORRUPT, "bad")
    assert str(rejected) == "corrupt: bad"


def test_a_shard_that_lost_an_image_cannot_be_recorded():
    with pytest.raises(ValueError, match="planned 5 images, but 3 rows \\+ 1 rejects"):
        shard(planned=5)


def test_records_and_manifests_survive_json():
    one = shard()
    where = "set/.controlset/train-00000-of-00001.json"
    assert read_record(json.dumps(one.to_json()), where=where) == one
    clean = shard(planned=3, rejected=0, rejects=None, reasons={})
    assert read_record(json.dumps(clean.to_json()), where=where) == clean
    whole = manifest(one, shard(name="validation-00000-of-00001"))
    back = Manifest.from_json(whole.to_json(), where="manifest.json")
    assert back.to_json() == whole.to_json()
    assert list(back.shards) == list(whole.shards)


def test_a_manifest_adds_its_shards_up():
    whole = manifest(shard(), shard(name="validation-00000-of-00001"))
    assert (whole.planned, whole.rows, whole.rejected_images, whole.size_bytes) == (8, 6, 2, 20)
    assert whole.reasons == {"truncated": 2}
    assert list(whole.splits) == ["train", "validation"]


def test_manifests_that_cannot_be_read_are_explained():
    text = manifest(shard()).to_json()
    with pytest.raises(
        ConfigError, match=r"m\.json: need schema version 1, got 7; use the controlset"
    ):
        Manifest.from_json(
            text.replace('"schema_version": 1', '"schema_version": 7'), where="m.json"
        )
    for wrong in ("", "{}", "[]", text[: len(text) // 2], text.replace('"rows"', '"lines"')):
        with pytest.raises(ConfigError, match=r"m\.json: need a document of controlset, got"):
            Manifest.from_json(wrong, where="m.json")
