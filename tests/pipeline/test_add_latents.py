"""`add --latents`: a column of moments; everything else stays to the byte."""

import json
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

import annotators.latents
import pipeline.add.add
import pipeline.add.stage
from annotators.weights import sha256_of
from controlset.cli import main
from pipeline.add.add import add, dry_run
from pipeline.add.swap import finish_adding
from pipeline.config import AddConfig
from pipeline.generate import generate
from pipeline.output.card import commands_of
from pipeline.verify.verify import verify_dataset
from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from schemas.latents import LATENTS, LATENTS_FLIPPED, LatentInfo, decode_moments
from schemas.manifest import Manifest
from schemas.pixels import decode_stored_rgb
from tests.annotators.tiny_vae import moments_by_diffusers, save_vae, within_rounding
from tests.faults.conftest import config_for, contents, named, write_photographs
from tests.pipeline.handmade import rewritten

STAGING = ".controlset/adding"
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_vae(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("add-latents") / "photographs"
    write_photographs(folder, named(16))
    return folder


@pytest.fixture(scope="module")
def canny_alone(photographs):
    output = photographs.with_name("canny")
    generate(config_for(photographs, output, shard_rows=5))
    return output


@pytest.fixture(scope="module")
def encoded(canny_alone, base):
    """With moments of mirrored images, made by two workers."""
    output = shutil.copytree(canny_alone, canny_alone.with_name("encoded"))
    add(addition(output, base, latent_flips=True))
    return output


@pytest.fixture
def dataset(canny_alone, tmp_path):
    return shutil.copytree(canny_alone, tmp_path / "dataset")


def addition(dataset, base, **changes):
    values = {"num_workers": 2, "device": "cpu", "offline": True}
    return AddConfig(output=str(dataset), latents=str(base), **values | changes)


def rows_of(dataset):
    return [row for batch in open_dataset(str(dataset)).batches() for row in batch.to_pylist()]


def old_part(folder):
    return {name: sha for name, sha in contents(folder).items() if not name.startswith(STAGING)}


def modified(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


# What comes out


def test_moments_are_those_of_the_stored_image_and_of_its_mirror(encoded, base):
    vae = AutoencoderKL.from_pretrained(base / "vae")
    rows = rows_of(encoded)
    assert len(rows) == 14
    for row in rows:
        image = decode_stored_rgb(row["image"]["bytes"])
        for column, pixels in ((LATENTS, image), (LATENTS_FLIPPED, image[:, ::-1])):
            stored = decode_moments(row[column], channels=4, height=16, width=16)
            expected = moments_by_diffusers(vae, pixels)
            assert within_rounding(stored, expected)
            assert expected.std() > 0.05


def test_old_columns_are_the_same_to_the_byte(encoded, canny_alone):
    for old in canny_alone.glob("data/*.parquet"):
        before, after = pq.read_table(old), pq.read_table(encoded / "data" / old.name)
        assert after.select(before.column_names).equals(before)
        assert after.column_names == [*before.column_names, LATENTS, LATENTS_FLIPPED]
    assert open_dataset(str(encoded)).rejects() == open_dataset(str(canny_alone)).rejects()


def test_one_worker_writes_the_same_bytes(dataset, encoded, base):
    add(addition(dataset, base, latent_flips=True, num_workers=1))
    assert contents(dataset) == contents(encoded)


@pytest.mark.slow
def test_who_computes_next_in_the_process_has_all_threads(canny_alone, base, tmp_path):
    output = shutil.copytree(canny_alone, tmp_path / "set")
    add_it = (
        "from pipeline.add.add import add; from pipeline.config import AddConfig; "
        f"add(AddConfig(output={str(output)!r}, latents={str(base)!r}, device='cpu')); "
    )
    tell = "import torch; print(torch.get_num_threads())"
    afterwards, in_a_fresh_process = (
        subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
        for script in (add_it + tell, tell)
    )
    assert afterwards == in_a_fresh_process


def test_manifest_and_footers_tell_whose_they_are(encoded, base):
    expected = {
        "base": str(base),
        "vae_sha256": sha256_of(base / WEIGHTS),
        "channels": 4,
        "factor": 4,
        "scaling_factor": 0.5,
        "shift_factor": None,
        "dtype": "float16",
        "flips": True,
        "precision": "fp32",
    }
    data = open_dataset(str(encoded))
    assert data.manifest.latents == expected
    assert LatentInfo.from_json(expected).to_json() == expected
    for shard in encoded.glob("data/*.parquet"):
        assert json.loads(pq.read_schema(shard).metadata[b"controlset"])["latents"] == expected
    assert {"diffusers", "torch"} <= data.manifest.software.keys()


def test_without_flips_there_is_one_column_and_no_other_set_speaks_of_latents(
    dataset, canny_alone, base
):
    manifest = open_dataset(str(canny_alone)).manifest
    assert manifest.latents is None
    assert '"latents"' not in manifest.to_json()
    assert add(addition(dataset, base)).latents["flips"] is False
    assert open_dataset(str(dataset)).schema.names[-1] == LATENTS


def test_a_condition_with_or_after_latents_gives_the_same_set(dataset, tmp_path, base):
    together = shutil.copytree(dataset, tmp_path / "together")
    add(addition(together, base, conditions=("grey",)))
    add(addition(dataset, base))
    add(AddConfig(output=str(dataset), conditions=("grey",), num_workers=2))
    assert open_dataset(str(dataset)).schema.names[-2:] == ["grey", LATENTS]
    for shard in dataset.glob("data/*.parquet"):
        assert shard.read_bytes() == (together / "data" / shard.name).read_bytes()


def test_the_set_is_verified_and_inspected(encoded, capfd):
    report = verify_dataset(str(encoded), audit=1.0, workers=2)
    assert report.ok
    assert report.checks[-1].name == (
        "maps extracted again are the same (latents are not encoded again)"
    )
    assert main(["verify", str(encoded)]) == 0
    assert main(["inspect", str(encoded)]) in {0, 1}
    assert "Traceback" not in capfd.readouterr().err


def test_the_card_explains_the_columns_and_gives_the_command(encoded, base):
    card = (encoded / "README.md").read_text()
    assert (
        "| `latent_moments` | binary | float16, little-endian: 8 \N{MULTIPLICATION SIGN} " in card
    )
    assert "that the VAE gives of the mirrored image, unscaled; null: not finite |" in card
    assert f"VAE of {base}, sha256 {sha256_of(base / WEIGHTS)}" in card
    command = f"controlset add DIR --latents {base} --latent-flips --precision fp32"
    assert commands_of(open_dataset(str(encoded)).manifest)[-1] == command
    assert command in card


def test_datasets_loads_it_as_its_card_declares(encoded, tmp_path):
    script = """
import sys, datasets
from huggingface_hub import DatasetCard
folder = sys.argv[1]
rows = datasets.load_dataset(folder, split="train")
card = DatasetCard.load(folder + "/README.md")
declared = datasets.DatasetInfo._from_yaml_dict(card.data.dataset_info)
print(declared.features == rows.features, rows.features["latent_moments"].dtype)
print(rows[0]["image"].size, len(rows[0]["latent_moments"]))
"""
    out = subprocess.run(
        [sys.executable, "-c", script, str(encoded)],
        env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": ""},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert out == "True binary\n(64, 64) 4096\n"


def test_nulls_of_a_row_group_are_counted_in_its_statistics(encoded):
    """A reader then knows without reading that no row is without moments."""
    for shard in encoded.glob("data/*.parquet"):
        group = pq.read_metadata(shard).row_group(0)
        columns = {
            group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)
        }
        assert columns[LATENTS].statistics.null_count == 0


def test_moments_count_towards_the_size_of_a_row_group(dataset, base, monkeypatch):
    monkeypatch.setattr("pipeline.output.parquet.ROW_GROUP_BYTES", 30_000)
    add(addition(dataset, base, latent_flips=True))
    sizes = []
    for shard in dataset.glob("data/*.parquet"):
        metadata = pq.read_metadata(shard)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        sizes += [group.total_byte_size for group in groups if group.num_rows > 1]
    assert 8192 < max(sizes) <= 30_000


# Pictures that fail


@pytest.fixture
def breaking(monkeypatch):
    """Lets the VAE give NaN where a function of the image in [-1, 1] says so."""
    real = annotators.latents._encoder_of

    def where(is_bad):
        class Broken(torch.nn.Module):
            def __init__(self, *arguments):
                super().__init__()
                self.real = real(*arguments)

            def forward(self, image):
                return self.real(image).masked_fill(is_bad(image), torch.nan)

        monkeypatch.setattr(annotators.latents, "_encoder_of", Broken)

    return where


@pytest.mark.parametrize("flips", [False, True])
def test_nan_in_one_picture_is_one_null_and_its_reject_and_nothing_else_is_lost(
    dataset, encoded, base, breaking, flips
):
    victim = rows_of(dataset)[4]
    pixels = torch.from_numpy(decode_stored_rgb(victim["image"]["bytes"]).copy())
    signed = pixels.permute(2, 0, 1)[None] / 127.5 - 1
    bad = signed.flip(3) if flips else signed  # in one direction only
    breaking(lambda image: torch.isclose(image, bad).flatten(1).all(1)[:, None, None, None])
    before = open_dataset(str(dataset)).rejects()
    manifest = add(addition(dataset, base, latent_flips=flips))
    columns = [LATENTS, LATENTS_FLIPPED] if flips else [LATENTS]
    expected = {row["key"]: row for row in rows_of(encoded)}
    for row in rows_of(dataset):
        for column in columns:
            is_victim = row["key"] == victim["key"]
            assert row[column] == (None if is_victim else expected[row["key"]][column])
    new = [row for row in open_dataset(str(dataset)).rejects() if row not in before]
    assert [row["kind"] for row in new] == columns
    for row in new:
        assert (row["key"], row["stage"]) == (victim["key"], "latents")
        assert (row["source"], row["reason"]) == (victim["source"], "not_finite")
    assert ("of the mirrored image" in new[0]["detail"]) == flips
    assert manifest.reasons["not_finite"] == len(columns)
    assert verify_dataset(str(dataset), audit=1.0, workers=2).ok


def test_nan_in_every_picture_is_an_error_and_the_set_stays(dataset, canny_alone, base, breaking):
    breaking(lambda _: torch.tensor(True))
    message = rf"^--latents {base}: need finite moments, got none for all 14 images in fp32; use"
    with pytest.raises(ConfigError, match=message):
        add(addition(dataset, base, latent_flips=True))
    assert old_part(dataset) == contents(canny_alone)


# What is there already


def test_the_same_latents_again_are_not_made_again(encoded, base, tmp_path):
    before = modified(encoded)
    add(addition(encoded, base, latent_flips=True))
    moved = shutil.copytree(base, tmp_path / "moved")
    add(addition(encoded, moved, latent_flips=True))
    config = addition(encoded, base, latent_flips=True)
    assert dry_run(config) == f"{encoded}: has everything that is asked for"
    assert modified(encoded) == before


def test_other_latents_are_refused_and_the_difference_named(encoded, base, tmp_path):
    before = modified(encoded)
    other = save_vae(tmp_path / "other", seed=1)
    first, second = (sha256_of(one / WEIGHTS) for one in (base, other))
    expected = (
        rf"^{encoded}: holds latents made with base={base} \(now {other}\); "
        rf"vae_sha256={first} \(now {second}\); ask for them with the same options"
    )
    with pytest.raises(ConfigError, match=expected):
        add(addition(encoded, other, latent_flips=True))
    with pytest.raises(ConfigError, match=r"holds latents made with flips=True \(now False\); ask"):
        add(addition(encoded, base))
    with pytest.raises(ConfigError, match=r"holds latents made with precision=fp32 \(now bf16\);"):
        add(addition(encoded, base, latent_flips=True, precision="bf16"))
    with pytest.raises(ConfigError, match=r"made with base=.* \(now Somebody/base\); ask for them"):
        add(addition(encoded, "Somebody/base", latent_flips=True))
    assert modified(encoded) == before


def test_generate_does_not_throw_latents_away(encoded, photographs, base):
    before = modified(encoded)
    with pytest.raises(
        ConfigError, match=rf"made with latents={base} \(now None\); choose another"
    ):
        generate(config_for(photographs, encoded, shard_rows=5))
    assert modified(encoded) == before


# What is refused, before anything is written


def test_a_base_that_is_missing_or_no_vae_is_refused(dataset, canny_alone, tmp_path, capsys):
    arguments = ["add", str(dataset), "--offline", "--device", "cpu", "--latents"]
    assert main([*arguments, "/nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("controlset add: --latents /nowhere: need a base in diffusers' format")
    assert main([*arguments, str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--latents {tmp_path}: need an AutoencoderKL in diffusers' format, found no co" in line
    assert contents(dataset) == contents(canny_alone)


def test_damaged_weights_are_one_line_and_the_set_stays(
    dataset, canny_alone, base, tmp_path, capsys
):
    copy = shutil.copytree(base, tmp_path / "copy")
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:5000])
    arguments = ["--latents", str(copy), "--device", "cpu", "--num-workers", "1"]
    assert main(["add", str(dataset), *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "controlset add:" in line]
    assert len(lines) == 1
    assert f"--latents {copy}: need an AutoencoderKL in diffusers' format, found " in lines[0]
    assert old_part(dataset) == contents(canny_alone)


def test_images_that_the_factor_does_not_divide_are_refused_at_once(photographs, tmp_path):
    base = save_vae(
        tmp_path / "base",
        block_out_channels=(8,) * 5,
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
    )
    dataset = tmp_path / "dataset"
    generate(config_for(photographs, dataset, resolution=72, limit=2, validation=0))
    before = contents(dataset)
    message = rf"^{dataset}: need images whose sides are multiples of 16 px for the VAE of {base}, "
    with pytest.raises(ConfigError, match=message + "got 72 px"):
        add(addition(dataset, base))
    assert contents(dataset) == before


def test_flips_without_latents_are_refused(dataset, capsys):
    assert main(["add", str(dataset), "--conditions", "grey", "--latent-flips"]) == 2
    assert "--latent-flips: need --latents BASE, got None" in capsys.readouterr().err


def test_nano_is_the_base_that_comes_with_the_package(dataset, base, monkeypatch, capsys):
    monkeypatch.setattr("controlnet.nano.base_folder", lambda: base)
    arguments = ["--latents", "nano", "--dry-run", "--device", "cpu"]
    assert main(["add", str(dataset), *arguments]) == 0
    assert f'latents: {{"base": "{base}"' in capsys.readouterr().out


def test_a_dry_run_says_what_is_not_here_yet(dataset):
    lines = dry_run(addition(dataset, "Somebody/base")).splitlines()
    assert lines[1] == "latents: Somebody/base, which is not here yet"


def test_a_manifest_whose_latents_lack_a_field_is_refused(encoded):
    document = json.loads((encoded / "manifest.json").read_text())
    del document["latents"]["channels"]
    with pytest.raises(ConfigError, match=r"missing required field `channels`"):
        Manifest.from_json(json.dumps(document), where="x")


# Damage that verify finds


@pytest.mark.parametrize(
    ("column", "damage", "found"),
    [
        (LATENTS, lambda stored: stored[:-2], r"need 4096 bytes for 4 channels of 16x16, got 4094"),
        (LATENTS_FLIPPED, lambda stored: b"\xff" * len(stored), r"need finite values, got others"),
        (LATENTS, lambda _: None, "need latent_moments and latent_moments_flipped or neither"),
    ],
)
def test_verify_finds_moments_that_cannot_be(encoded, tmp_path, column, damage, found):
    dataset = shutil.copytree(encoded, tmp_path / "damaged")
    shutil.rmtree(dataset / ".controlset")
    path = sorted(dataset.glob("data/*.parquet"))[0]
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[1][column] = damage(rows[1][column])
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path, compression="NONE")

    def as_it_lies(document):
        (shard,) = (one for one in document["shards"] if one["name"] == path.stem)
        shard["data"] |= {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}

    rewritten(dataset, as_it_lies)
    report = verify_dataset(str(dataset))
    (finding,) = [one for check in report.checks for one in check.findings if rows[1]["key"] in one]
    assert found in finding


# Going on


@pytest.fixture
def broken_off(dataset, base, monkeypatch):
    """A data set with two shards of an addition that failed then."""
    staged = []
    real = pipeline.add.add.stage_shard

    def stage_two(shard, job, worker):
        if len(staged) == 2:
            raise ZeroDivisionError("broken off")
        staged.append(shard.name)
        return real(shard, job, worker)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.add.add, "stage_shard", stage_two)
        with pytest.raises(Exception, match="broken off"):
            add(addition(dataset, base, latent_flips=True, num_workers=1))
    assert len(list(dataset.glob(f"{STAGING}/.controlset/*.json"))) == 2
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


def test_going_on_encodes_only_what_is_not_staged(
    broken_off, canny_alone, encoded, base, rows_made
):
    assert old_part(broken_off) == contents(canny_alone)
    records = [json.loads(path.read_text()) for path in broken_off.glob(f"{STAGING}/.controlset/*")]
    staged = sum(record["data"]["rows"] for record in records)
    add(addition(broken_off, base, latent_flips=True))
    assert sum(rows_made) == 14 - staged
    assert contents(broken_off) == contents(encoded)


def test_what_was_staged_with_another_vae_is_not_used(broken_off, tmp_path, rows_made):
    other = save_vae(tmp_path / "other", seed=1)
    add(addition(broken_off, other))
    assert sum(rows_made) == 14


def test_interrupted_after_the_point_of_no_return_the_next_command_finishes(
    dataset, encoded, base, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.add.add, "finish_adding", _killed_where_manifest_is_staged)
        with pytest.raises(ZeroDivisionError):
            add(addition(dataset, base, latent_flips=True))
    assert open_dataset(str(dataset)).manifest.latents is None
    assert main(["verify", str(dataset)]) == 2  # and changes nothing
    assert main(["add", str(dataset)]) == 0
    assert contents(dataset) == contents(encoded)
    assert main(["verify", str(dataset)]) == 0


def _killed_where_manifest_is_staged(output):
    from pathlib import Path

    if Path(output, STAGING, "manifest.json").exists():
        raise ZeroDivisionError
    finish_adding(output)
