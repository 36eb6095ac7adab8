"""`add`: what is there stays to the byte, and the whole is that of one run with all conditions."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

import pipeline.add.add
import pipeline.add.job
import pipeline.add.stage
import pipeline.generate
import pipeline.shard
from annotators.options import configured
from annotators.protocol import Annotation
from controlset.cli import main
from pipeline.add.add import add, dry_run
from pipeline.config import AddConfig
from pipeline.generate import generate
from pipeline.identity import locked
from pipeline.verify.verify import verify_dataset
from schemas.dataset import open_dataset
from schemas.errors import ConfigError, Reason, Rejected
from tests.faults.conftest import config_for, contents, named, write_photographs
from tests.pipeline.handmade import rewritten

STAGING = ".controlset/adding"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """40 photographs, five of them broken; every third one has a caption, one a broken one."""
    folder = tmp_path_factory.mktemp("add") / "photographs"
    write_photographs(folder, named(40))
    for number in range(0, 40, 3):
        (folder / f"{number:03d}.txt").write_text(f"photograph {number}")
    (folder / "003.txt").write_bytes(b"\xff\xfe\xfd")
    return folder


def options(**changes):
    return {"shard_rows": 6, "limit": 36, "seed": 5} | changes


@pytest.fixture(scope="module")
def canny_alone(photographs):
    output = photographs.with_name("canny")
    generate(config_for(photographs, output, **options()))
    return output


@pytest.fixture(scope="module")
def at_once(photographs):
    output = photographs.with_name("at-once")
    conditions = ("canny", "shuffle", "grey")
    generate(config_for(photographs, output, **options(conditions=conditions)))
    return output


@pytest.fixture
def dataset(canny_alone, tmp_path):
    return shutil.copytree(canny_alone, tmp_path / "dataset")


def addition(dataset, *conditions, **changes):
    return configured(
        AddConfig, output=str(dataset), conditions=conditions, num_workers=2, **changes
    )


def modified(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FakeSpec:
    """A map of one value with a statistic; rejects a quarter of the keys."""

    name: ClassVar[str] = "fake"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[str] = "grey"
    stats: ClassVar[Mapping[str, str]] = {"mean": "float32"}
    licence: ClassVar[str] = "none"

    def load(self, runtime):
        return lambda images, keys: [self._one(*pair) for pair in zip(images, keys, strict=True)]

    def _one(self, rgb, key):
        if key < "4":
            return Rejected(Reason.UNSUPPORTED_PIXELS, "nothing to see")
        mean = float(rgb.mean())
        return Annotation(pixels=np.full(rgb.shape[:2], int(mean), np.uint8), stats={"mean": mean})


@pytest.fixture
def fake(monkeypatch):
    """Lets `fake` be asked for."""
    for module in (pipeline.generate, pipeline.add.job):
        real = module.specs_of

        def specs_of(asked, real=real):
            others = tuple(name for name in asked.conditions if name != "fake")
            if len(others) == len(asked.conditions):
                return real(asked)
            known = real(dataclasses.replace(asked, conditions=others)) if others else ()
            made = {spec.name: spec for spec in (*known, FakeSpec())}
            return tuple(made[name] for name in asked.conditions)

        monkeypatch.setattr(module, "specs_of", specs_of)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FakeCaptioner:
    """Says the mean colour; fails on a quarter of the keys."""

    name: ClassVar[str] = "blip"
    revision: ClassVar[int] = 1
    licence: ClassVar[str] = "none"
    beams: int = 3
    until: str = "4"

    def load(self, runtime):
        return lambda images, keys: [
            Rejected(Reason.BAD_CAPTION, "red red red")
            if key < self.until
            else f"a picture of mean {rgb.mean():.3f}"
            for rgb, key in zip(images, keys, strict=True)
        ]


@pytest.fixture
def captioner(monkeypatch):
    """Lets captions be asked for; a test may change its fields."""
    changes = {}

    def captioner_of(_name, asked):
        return FakeCaptioner(beams=asked.options.get("caption_beams", 3), **changes)

    monkeypatch.setattr(pipeline.generate, "captioner_of", captioner_of)
    monkeypatch.setattr(pipeline.add.job, "captioner_of", captioner_of)
    return changes


# What comes out


def test_the_result_is_that_of_one_run_with_all_conditions(dataset, at_once):
    add(addition(dataset, "shuffle", "grey"))
    assert contents(dataset) == contents(at_once)
    assert verify_dataset(str(dataset), audit=1.0, workers=2).ok


def test_one_after_the_other_is_the_same_as_together(dataset, at_once):
    add(addition(dataset, "shuffle"))
    add(addition(dataset, "grey"))
    assert contents(dataset) == contents(at_once)


def test_afterwards_generate_with_all_conditions_has_nothing_to_do(
    dataset, photographs, at_once, monkeypatch
):
    add(addition(dataset, "shuffle", "grey"))
    monkeypatch.setattr(pipeline.shard, "make_batch", None)  # would be called
    before = modified(dataset / "data")
    conditions = ("canny", "shuffle", "grey")
    generate(config_for(photographs, dataset, **options(conditions=conditions)))
    assert modified(dataset / "data") == before
    assert contents(dataset) == contents(at_once)


def test_rejects_of_the_new_condition_join_the_old_ones(dataset, photographs, tmp_path, fake):
    before = open_dataset(str(dataset)).rejects()
    add(addition(dataset, "fake"))
    rejects = open_dataset(str(dataset)).rejects()
    assert [row for row in rejects if row["kind"] != "fake"] == before
    assert 0 < sum(row["kind"] == "fake" for row in rejects) < 20
    once = tmp_path / "once"
    generate(config_for(photographs, once, **options(conditions=("canny", "fake"))))
    assert contents(dataset) == contents(once)


def test_old_columns_are_the_same_to_the_byte(dataset, canny_alone):
    add(addition(dataset, "grey"))
    for old in canny_alone.glob("data/*.parquet"):
        before, after = pq.read_table(old), pq.read_table(dataset / "data" / old.name)
        assert after.select(before.column_names).equals(before)
        assert after.column_names == [*before.column_names, "grey"]


def test_an_old_condition_whose_annotator_is_gone_stays(photographs, tmp_path, fake, monkeypatch):
    dataset = tmp_path / "dataset"
    generate(config_for(photographs, dataset, **options(conditions=("fake",))))
    before = [
        row["fake"] for batch in open_dataset(str(dataset)).batches() for row in batch.to_pylist()
    ]
    monkeypatch.undo()
    add(addition(dataset, "grey"))
    data = open_dataset(str(dataset))
    assert data.conditions == ["fake", "grey"]
    assert [row["fake"] for batch in data.batches() for row in batch.to_pylist()] == before


def test_draws_take_the_seed_of_the_set_unless_told_another(dataset, canny_alone, tmp_path):
    other = shutil.copytree(canny_alone, tmp_path / "other")
    assert add(addition(dataset, "shuffle")).annotators["shuffle"]["parameters"] == {"seed": 5}
    manifest = add(addition(other, "shuffle", seed=6))
    assert manifest.annotators["shuffle"]["parameters"] == {"seed": 6}
    assert manifest.recipe["seed"] == 5  # of the split


def test_a_copy_without_records_can_be_added_to(dataset, at_once):
    shutil.rmtree(dataset / ".controlset")
    add(addition(dataset, "shuffle", "grey"))
    shared = {name for name in contents(at_once) if not name.startswith(".controlset")}
    assert {name: contents(dataset)[name] for name in shared} == {
        name: contents(at_once)[name] for name in shared
    }
    assert not (dataset / ".controlset" / "run.json").exists()  # it belongs to nobody


# What is there already


def test_what_is_there_already_is_not_made_again(dataset):
    add(addition(dataset, "grey"))
    before = modified(dataset)
    add(addition(dataset, "grey"))
    add(addition(dataset, "canny", canny_thresholds="50-150,150-250"))
    assert modified(dataset) == before


def test_only_what_is_missing_is_made(dataset, at_once, monkeypatch):
    add(addition(dataset, "shuffle"))
    made = []
    real = pipeline.add.stage.add_maps
    monkeypatch.setattr(
        pipeline.add.stage,
        "add_maps",
        lambda rows, images, spec, *rest: made.append(spec.name) or real(rows, images, spec, *rest),
    )
    add(addition(dataset, "grey", "shuffle"))
    assert set(made) == {"grey"}
    assert contents(dataset) == contents(at_once)


def test_the_same_condition_otherwise_is_refused_and_the_difference_named(dataset):
    before = contents(dataset)
    expected = (
        rf"^{dataset}: holds canny made with high=\[150, 250\] \(now \[200, 200\]\); "
        r"low=\[50, 150\] \(now \[100, 100\]\); ask for it with the same options"
    )
    with pytest.raises(ConfigError, match=expected):
        add(addition(dataset, "canny", "grey"))
    assert contents(dataset) == before


# Captions


def texts(dataset):
    rows = [row for batch in open_dataset(str(dataset)).batches() for row in batch.to_pylist()]
    return {row["key"]: (row["text"], row["caption_source"]) for row in rows}


def test_captions_fill_what_is_null_as_generate_does_at_once(
    dataset, photographs, tmp_path, captioner
):
    before = texts(dataset)
    add(addition(dataset, "grey", caption="blip"))
    for key, (text, source) in texts(dataset).items():
        if before[key][0] is not None:
            assert (text, source) == before[key]
        elif key < "4":
            assert (text, source) == (None, None)
        else:
            assert text.startswith("a picture of")
            assert source == "blip"
    once = tmp_path / "once"
    both = {"conditions": ("canny", "grey"), "caption": "sidecar-else-blip"}
    generate(config_for(photographs, once, **options(**both)))
    assert contents(dataset) == contents(once)
    assert verify_dataset(str(dataset), workers=2).ok


def test_rejects_for_want_of_a_caption_go_when_the_captioner_has_looked(
    photographs, tmp_path, captioner
):
    dataset = tmp_path / "dataset"
    manifest = generate(config_for(photographs, dataset, **options(caption="sidecar")))
    silent = {key for key, (text, _) in texts(dataset).items() if text is None}
    assert manifest.reasons["no_caption"] > 10
    assert manifest.reasons["bad_caption"] == 1
    manifest = add(addition(dataset, caption="blip"))
    assert "no_caption" not in manifest.reasons
    failed = {key for key in silent if key < "4"}
    assert manifest.reasons["bad_caption"] == len(failed)
    rejects = [row for row in open_dataset(str(dataset)).rejects() if row["kind"] == "text"]
    assert failed == {row["key"] for row in rejects if row["detail"] == "red red red"}
    assert {key for key, (text, _) in texts(dataset).items() if text is None} == failed
    assert manifest.recipe["caption"] == "sidecar"
    assert manifest.captioner["name"] == "blip"
    assert verify_dataset(str(dataset), workers=2).ok


def test_a_rejects_file_whose_last_row_went_is_deleted(photographs, tmp_path, captioner):
    captioner["until"] = ""
    whole = tmp_path / "whole"
    whole.mkdir()
    for number in (0, 1, 2, 4, 5):
        shutil.copy2(photographs / f"{number:03d}.jpg", whole)
    dataset = tmp_path / "dataset"
    generate(config_for(whole, dataset, caption="sidecar", validation=0))
    assert list(dataset.glob("rejects/*"))
    manifest = add(addition(dataset, caption="blip"))
    assert manifest.reasons == {}
    assert list(dataset.glob("rejects/*")) == []
    assert verify_dataset(str(dataset), workers=2).ok


def test_captions_are_written_once_and_by_one_model(dataset, captioner):
    add(addition(dataset, caption="blip"))
    before = modified(dataset)
    add(addition(dataset, caption="blip"))
    with pytest.raises(ConfigError, match=r"holds captions of blip made with beams=3 \(now 5\);"):
        add(addition(dataset, caption="blip", caption_beams=5))
    assert modified(dataset) == before


# What is refused, before anything is written


def test_a_folder_that_is_no_complete_data_set_is_refused(dataset, tmp_path):
    for folder, found in ((tmp_path / "nothing", "such folder"), (tmp_path, "manifest.json")):
        with pytest.raises(ConfigError, match=f"need a complete data set, found no {found}"):
            add(addition(folder, "grey"))
    (dataset / "manifest.json").unlink()
    before = contents(dataset)
    with pytest.raises(ConfigError, match=r"found no manifest.json; run `controlset generate`"):
        add(addition(dataset, "grey"))
    assert contents(dataset) == before


def test_a_bucket_is_refused():
    with pytest.raises(ConfigError, match=r"^gs://bucket/set: need a data set in a local folder"):
        add(addition("gs://bucket/set", "grey"))


@pytest.mark.parametrize("folder", ["data", "rejects"])
@pytest.mark.parametrize("damage", ["another byte", "cut", "gone"])
def test_a_damaged_file_is_refused_before_anything_is_written(dataset, folder, damage):
    path = sorted((dataset / folder).glob("*.parquet"))[-1]
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[:-1])
    else:
        path.write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
    before = contents(dataset)
    with pytest.raises(ConfigError, match=rf"^{path}: need (sha256|a file of the data set)"):
        add(addition(dataset, "grey"))
    assert contents(dataset) == before


def test_a_first_shard_that_is_no_parquet_is_refused(dataset):
    path = sorted(dataset.glob("data/*.parquet"))[0]
    path.write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=rf"^{path}: need a whole shard, got .*verify"):
        add(addition(dataset, "grey"))


def test_a_shard_of_another_recipe_is_refused_and_the_set_stays(dataset):
    path = sorted(dataset.glob("data/*.parquet"))[1]
    table = pq.read_table(path)
    other = table.replace_schema_metadata({"controlset": '{"recipe": {}}'})
    pq.write_table(other, path, compression="NONE")

    def as_it_lies(document):
        (shard,) = (one for one in document["shards"] if one["name"] == path.stem)
        shard["data"]["size_bytes"] = path.stat().st_size
        shard["data"]["sha256"] = contents(dataset)[f"data/{path.name}"]

    rewritten(dataset, as_it_lies)
    before = contents(dataset)
    with pytest.raises(ConfigError, match=rf"^{path}: need the footer of the other shards, got"):
        add(addition(dataset, "grey"))
    assert old_part(dataset) == before


def test_a_second_run_is_locked_out(dataset):
    before = contents(dataset)
    with (
        locked(str(dataset)),
        pytest.raises(ConfigError, match=r"need to be the only run, but another one is writing"),
    ):
        add(addition(dataset, "grey"))
    assert contents(dataset) == before


def test_wrong_options_are_refused(dataset):
    with pytest.raises(ConfigError, match=r"^--conditions: need at least one, or --caption blip"):
        addition(dataset)
    with pytest.raises(ConfigError, match=r"^--conditions nope: no such annotator; available: "):
        add(addition(dataset, "nope"))
    with pytest.raises(ConfigError, match=r"^--num-workers: need 1 or more, got 0"):
        AddConfig(output=str(dataset), conditions=("grey",), num_workers=0)
    with pytest.raises(ConfigError, match=r"^--conditions: need each one once"):
        addition(dataset, "grey", "grey")


# Going on


@pytest.fixture
def broken_off(dataset, monkeypatch):
    """A data set with three shards of an addition that failed then."""
    staged = []
    real = pipeline.add.add.stage_shard

    def stage_three(shard, job, worker):
        if len(staged) == 3:
            raise ZeroDivisionError("broken off")
        staged.append(shard.name)
        return real(shard, job, worker)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.add.add, "stage_shard", stage_three)
        with pytest.raises(Exception, match="broken off"):
            add(AddConfig(output=str(dataset), conditions=("shuffle", "grey"), num_workers=1))
    assert len(list(dataset.glob(f"{STAGING}/.controlset/*.json"))) == 3
    return dataset


@pytest.fixture
def rows_made(monkeypatch):
    """How many rows each call of `add_columns` got."""
    sizes = []
    real = pipeline.add.stage.add_columns
    monkeypatch.setattr(
        pipeline.add.stage,
        "add_columns",
        lambda batch, *rest: sizes.append(len(batch)) or real(batch, *rest),
    )
    return sizes


def old_part(folder):
    return {name: hash for name, hash in contents(folder).items() if not name.startswith(STAGING)}


def test_until_all_is_staged_the_old_set_is_there_and_whole(broken_off, canny_alone):
    assert old_part(broken_off) == contents(canny_alone)
    assert verify_dataset(str(broken_off), audit=1.0, workers=2).ok


def test_going_on_makes_only_the_shards_that_are_not_staged(broken_off, at_once, rows_made):
    records = [json.loads(path.read_text()) for path in broken_off.glob(f"{STAGING}/.controlset/*")]
    staged = sum(record["data"]["rows"] for record in records)
    add(addition(broken_off, "shuffle", "grey"))
    assert sum(rows_made) == len(open_dataset(str(broken_off))) - staged
    assert contents(broken_off) == contents(at_once)


def test_what_was_staged_for_another_addition_is_not_used(
    broken_off, photographs, tmp_path, rows_made
):
    add(addition(broken_off, "grey"))
    assert sum(rows_made) == len(open_dataset(str(broken_off)))
    once = tmp_path / "once"
    generate(config_for(photographs, once, **options(conditions=("canny", "grey"))))
    assert contents(broken_off) == contents(once)


def test_what_was_staged_from_another_state_of_the_set_is_not_used(broken_off, rows_made):
    path = broken_off / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["software"]["pillow"] = "1.0"  # generated again meanwhile, elsewhere
    path.write_text(json.dumps(manifest))
    add(addition(broken_off, "shuffle", "grey"))
    assert sum(rows_made) == len(open_dataset(str(broken_off)))


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_staged_shard_that_was_damaged_is_made_again(broken_off, at_once, damage):
    path = sorted(broken_off.glob(f"{STAGING}/data/*.parquet"))[0]
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    add(addition(broken_off, "shuffle", "grey"))
    assert contents(broken_off) == contents(at_once)


def test_generate_with_overwrite_deletes_what_is_staged(broken_off, photographs, canny_alone):
    generate(config_for(photographs, broken_off, **options(overwrite=True)))
    assert contents(broken_off) == contents(canny_alone)


# The command line


def test_the_command_adds_and_shows_what_the_set_holds(dataset, at_once, capfd):
    arguments = ["add", str(dataset), "--conditions", "shuffle", "grey", "--num-workers", "2"]
    assert main(arguments) == 0
    assert contents(dataset) == contents(at_once)
    out = capfd.readouterr().out
    assert "rows, train" in out
    assert "grey, summed over threads" in out


def test_a_dry_run_says_what_would_be_added_and_writes_nothing(dataset, capsys):
    before = modified(dataset)
    assert main(["add", str(dataset), "--conditions", "grey", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"data set: {dataset}, 31 rows in ")
    assert lines[1].startswith('condition grey: {"revision": 1')
    assert lines[2].startswith("room needed meanwhile: ")
    config = addition(dataset, "canny", canny_thresholds="50-150,150-250")
    assert dry_run(config) == f"{dataset}: has everything that is asked for"
    assert modified(dataset) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "need DATASET"),
        (["{dataset}"], "--conditions: need at least one, or --caption blip"),
        (["{dataset}", "--conditions", "gray"], "no such annotator"),
        (["{dataset}", "--conditions", "grey", "--sed", "1"], "did you mean --seed?"),
        (["/nowhere", "--conditions", "grey"], "/nowhere: need a complete data set"),
        (["{dataset}", "--conditions", "canny"], "holds canny made with high="),
        (["{dataset}", "--caption", "clip"], "blip"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(dataset, capsys, arguments, said):
    assert main(["add", *(word.format(dataset=dataset) for word in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("controlset add: ")
    assert said in line
