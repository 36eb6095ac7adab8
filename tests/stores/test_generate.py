"""Generating from and into buckets: the bytes of a local run, few requests, verified uploads."""

import io
import tarfile

import pytest

from controlset.cli import main
from pipeline.config import GenerateConfig
from pipeline.generate import generate
from pipeline.output.store import TEMP_PREFIX, OutputError
from pipeline.verify.verify import verify_dataset
from schemas.dataset import open_dataset
from schemas.filesystems import file_system

pytestmark = pytest.mark.slow


def config_for(source, output, **changes):
    options = {"resolution": 64, "shard_rows": 8, "num_workers": 2, "conditions": ("canny",)}
    return GenerateConfig(source=str(source), output=str(output), **options | changes)


def put(uri, data):
    file_system(uri).pipe_file(uri, data)


def upload(folder, prefix):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


def files_in(place):
    """Name -> bytes, of what a data set consists of."""
    if "://" not in str(place):
        return {
            str(path.relative_to(place)): path.read_bytes()
            for path in sorted(place.rglob("*"))
            if path.is_file()
        }
    files, base = file_system(place), place.partition("://")[2]
    return {name.removeprefix(f"{base}/"): files.cat_file(name) for name in files.find(base)}


def data_of(place):
    """Shards and rejects, which no place may change."""
    found = {name: data for name, data in files_in(place).items() if name.endswith(".parquet")}
    assert len(found) > 1
    return found


@pytest.fixture(scope="session")
def expected(pictures, tmp_path_factory):
    output = tmp_path_factory.mktemp("expected") / "out"
    generate(config_for(pictures, output))
    return data_of(output)


def test_a_bucket_gets_and_gives_the_bytes_of_a_local_run(bucket, pictures, expected, tmp_path):
    generate(config_for(pictures, f"{bucket.root}/from-here"))
    assert data_of(f"{bucket.root}/from-here") == expected
    upload(pictures, f"{bucket.root}/in")
    generate(config_for(f"{bucket.root}/in", tmp_path / "here"))
    generate(config_for(f"{bucket.root}/in", f"{bucket.root}/out"))
    # Times of a bucket are not those of a folder: they stand in records, not in shards.
    assert data_of(tmp_path / "here") == expected
    assert data_of(f"{bucket.root}/out") == expected
    assert not [name for name in files_in(f"{bucket.root}/out") if TEMP_PREFIX in name]


def test_what_lies_in_a_bucket_can_be_verified_and_read(bucket, pictures):
    place = f"{bucket.root}/set"
    manifest = generate(config_for(pictures, place))
    report = verify_dataset(place, audit=1.0, workers=2)
    assert not [finding for check in report.checks for finding in check.findings]
    assert {check.looked_at for check in report.checks if "map" in check.name} == {30}
    assert main(["verify", place]) == 0
    assert main(["inspect", place]) == 0
    dataset = open_dataset(place)
    assert len(dataset) == manifest.rows == 30
    assert {example.text for example in dataset} >= {"noise number 1", "noise number 29"}


def test_tars_and_parquet_of_a_bucket_are_sources_too(bucket, pictures, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(pictures.glob("*.png")):
            tar.add(path, path.name)
    (tmp_path / "a.tar").write_bytes(packed.getvalue())
    put(f"{bucket.root}/tars/a.tar", packed.getvalue())
    generate(config_for(tmp_path / "a.tar", tmp_path / "tar"))
    generate(config_for(f"{bucket.root}/tars/a.tar", f"{bucket.root}/tar"))
    generate(config_for(tmp_path / "tar" / "data", tmp_path / "again"))
    generate(config_for(f"{bucket.root}/tar/data", f"{bucket.root}/again"))
    for name in ("tar", "again"):
        ours = {path: data for path, data in files_in(f"{bucket.root}/{name}").items()}
        theirs = files_in(tmp_path / name)
        shards = [path for path in theirs if path.endswith(".parquet")]
        assert shards
        assert all(ours[path] == theirs[path] for path in shards)


def test_a_picture_costs_one_request_and_a_shard_a_dozen(bucket, pictures, tmp_path):
    upload(pictures, f"{bucket.root}/in")
    bucket.proxy.requests.clear()
    generate(config_for(f"{bucket.root}/in", tmp_path / "out"))
    pictures_read = [one for one in bucket.proxy.requests if ".png" in one.path]
    assert len(pictures_read) <= 30
    # Listing pages and containers' probes: a constant, not a number for each picture.
    others = [
        one for one in bucket.proxy.requests if not {".png", ".txt", ".jpg"} & {one.path[-4:]}
    ]
    assert len([one for one in others if ".png" not in one.path and ".txt" not in one.path]) <= 12
    bucket.proxy.requests.clear()
    generate(config_for(pictures, f"{bucket.root}/out"))
    shards = len(data_of(f"{bucket.root}/out"))
    assert len(bucket.proxy.requests) <= 30 * shards + 30


def test_an_interrupted_run_goes_on_and_ends_the_same(bucket, pictures, expected):
    """Uploads of all shards but two are refused; the second run makes just those."""
    place = f"{bucket.root}/out"
    written = []

    def refuse(request):
        if request.uploads("parquet"):
            written.append(request.path)
            return 403 if len(written) > 2 else None
        return None

    bucket.proxy.refuse = refuse
    with pytest.raises(OutputError, match=r"need to write here, got HTTP 403 .*right to"):
        generate(config_for(pictures, place))
    assert "manifest.json" not in files_in(place)
    first = {name for name in files_in(place) if name.endswith(".parquet")}
    bucket.proxy.refuse = lambda request: None
    generate(config_for(pictures, place))
    assert 0 < len(first) < len(expected)
    assert data_of(place) == expected
