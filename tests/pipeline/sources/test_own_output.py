"""A run never reads what it wrote, whatever way leads there."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import GenerateConfig
from pipeline.generate import generate
from pipeline.sources import Container, Notes, index_container, list_source, resolve_source
from schemas.errors import ConfigError
from schemas.ledger import Ignored
from tests.pipeline.sources.test_remote import bucket, store  # noqa: F401


def config_for(source, output):
    return GenerateConfig(
        source=str(source), output=str(output), conditions=("canny",), resolution=8, num_workers=1
    )


def sources_and_sets(source, output):
    """Names of the references, and the data sets that were left out."""
    spec, notes = resolve_source(config_for(source, output)), Notes()
    refs = []
    for one in list_source(spec, notes):
        refs += index_container(one, spec, notes) if isinstance(one, Container) else [one]
    left = notes.ignored.frozen().get(Ignored.DATA_SET)
    assert notes.found == len(refs) + sum(one.count for one in notes.ignored.frozen().values())
    return [ref.source for ref in refs], () if left is None else left.examples


def left_out(manifest):
    assert manifest.ledger is not None
    return manifest.ledger.ignored[Ignored.DATA_SET].examples


@pytest.mark.parametrize(
    ("target", "levels"), [("", "*/*/*.parquet"), ("data", "*/*.parquet"), ("", "*/data/**")]
)
def test_an_output_that_a_link_in_a_glob_leads_to_is_left_out(tmp_path, jpeg, target, levels):
    output = tmp_path / "elsewhere" / "set"
    own = tmp_path / "sel" / "a" / ("data" if levels.count("/") > 1 else "")
    own.mkdir(parents=True)
    pq.write_table(pa.table({"image": [jpeg(), jpeg(9)]}), own / "x.parquet")
    assert generate(config_for(tmp_path / "sel" / levels, output)).rows == 2
    (tmp_path / "sel" / "b").symlink_to(output / target)
    for _ in range(2):
        manifest = generate(config_for(tmp_path / "sel" / levels, output))
        assert (manifest.rows, left_out(manifest)) == (2, ("b",))


def test_a_data_set_inside_of_pictures_is_left_out_again_and_again(tmp_path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    for _ in range(3):
        assert generate(config_for(tmp_path, tmp_path / "out")).rows == 1
    assert left_out(generate(config_for(tmp_path, tmp_path / "out"))) == ("out",)


def test_data_sets_in_a_bucket_are_left_out_and_counted_like_local_ones(jpeg):
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": [jpeg()]}), table)
    of_set = {
        ".controlset/run.json": b"{}",
        ".controlset/train-00000-of-00001.json": b"{}",
        "README.md": b"#",
        "data/train-00000-of-00001.parquet": table.getvalue().to_pybytes(),
    }
    for place in ("out", "more/other", "more/other/inner"):
        store(**{f"photos/{place}/{name}": raw for name, raw in of_set.items()})
    store(**{"photos/a.jpg": jpeg(), "photos/outer.jpg": jpeg(), "photos/more/b.jpg": jpeg()})
    output = "mem://bucket/photos/out"
    pictures = ["a.jpg", "outer.jpg", "more/b.jpg"]
    left = ("more/other", "out")
    assert sources_and_sets("mem://bucket/photos", output) == (pictures, left)
    assert sources_and_sets("mem://bucket/photos/**/*.jpg", output) == (pictures, left)
    # Who names the folders gets a data set, but for the run's own.
    shards = "data/train-00000-of-00001.parquet#0"
    with pytest.raises(ConfigError, match="need images, tars or Parquet files, got none"):
        sources_and_sets("mem://bucket/photos/*/data/*.parquet", output)
    named = sources_and_sets("mem://bucket/photos/more/*/data/*.parquet", output)
    assert named == ([f"other/{shards}"], ())
    again = sources_and_sets("mem://bucket/photos/*/data/*.parquet", "mem://bucket/new")
    assert again == ([f"out/{shards}"], ())
