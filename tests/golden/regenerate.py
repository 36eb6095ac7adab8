"""What a tiny data set holds, pinned: `python -m tests.golden.regenerate` writes it anew.

It pins what controlset itself decides: keys, splits, shards and their order, crops, drawn
thresholds, every pixel of images and maps, statistics, reject rows, columns, Hugging Face features
and the recipe in the footer. It does not pin bytes that compressors and Arrow may pack otherwise in
their next release: pictures are PNG, cropped but never resized, and compared as pixels.

A difference means that users' data sets change. If that is meant, raise `PIPELINE_REVISION` (or the
annotator's `revision`, or the schema version), write a *Data* line into CHANGELOG.md, and run this.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from annotators.options import configured
from pipeline.config import GenerateConfig
from pipeline.generate import generate
from schemas.manifest import ShardRecord
from schemas.pixels import decode_stored_map, decode_stored_rgb

GOLDEN = Path(__file__).with_name("tiny.json")


def draw(folder: Path) -> None:
    """Twenty pictures of coloured boxes, ramps and noise, one with a caption, one broken."""
    folder.mkdir(parents=True)
    for number in range(20):
        y, x = np.mgrid[0:64, 0 : 64 + 4 * number]
        noise = np.random.default_rng(number).integers(
            0, 70, (*x.shape, 3)
        )  # edges of all strengths
        rgb = (np.stack([x * 2, y * 3, (x + y) * number], axis=-1) + noise) % 256
        top, left = 3 * number % 40, 7 * number % 50
        rgb[top : top + 20, left : left + 25] = (255, 12 * number, 40)
        Image.fromarray(rgb.astype(np.uint8)).save(folder / f"{number:02d}.png")
    (folder / "03.txt").write_text("boxes and ramps")
    (folder / "20.png").write_text("no picture")


def contents() -> dict[str, object]:
    """What the tiny data set holds; pixels and metadata as sha256."""
    with tempfile.TemporaryDirectory() as scratch:
        draw(Path(scratch) / "in")
        config = configured(
            GenerateConfig,
            source=f"{scratch}/in",
            output=f"{scratch}/out",
            conditions=("canny",),
            resolution=64,
            image_format="png",
            canny_thresholds="50-150,150-250",
            shard_rows=6,
            validation=0.25,
            num_workers=1,
        )
        manifest = generate(config)
        return {
            "recipe": dict(manifest.recipe),
            "annotators": dict(manifest.annotators),
            "shards": {
                shard.name: _shard(Path(scratch) / "out", shard) for shard in manifest.shards
            },
        }


def _shard(output: Path, shard: ShardRecord) -> dict[str, object]:
    table = pq.read_table(output / shard.data.path)
    metadata = {
        key.decode(): _sha256(value) for key, value in sorted(table.schema.metadata.items())
    }
    columns = [f"{field.name}: {field.type}" for field in table.schema]
    rejects = []
    if shard.rejects is not None:
        rejects = pq.read_table(output / shard.rejects.path).drop("detail").to_pylist()
    rows = [_row(row) for row in table.to_pylist()]
    return {"columns": columns, "metadata": metadata, "rows": rows, "rejects": rejects}


def _row(row: dict[str, object]) -> dict[str, object]:
    image, edges = row["image"], row["canny"]
    return row | {
        "sha256": None,  # of a PNG that Pillow wrote just now
        "image": [_sha256(decode_stored_rgb(image["bytes"]).tobytes()), image["path"]],
        "canny": [_sha256(decode_stored_map(edges["bytes"]).tobytes()), edges["path"]],
    }


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(contents(), indent=1) + "\n")
