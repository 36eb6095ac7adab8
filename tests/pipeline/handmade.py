"""Data sets written by hand, with any defect that a test wants; no pipeline involved."""

import dataclasses
import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import skimage.data
from PIL import Image, ImageOps

from annotators.conditions.canny import CannySpec, canny
from annotators.registry import record_of
from schemas.manifest import MANIFEST_NAME, FileRecord, Manifest, ShardRecord
from schemas.pixels import encode_bilevel_png
from schemas.records import RejectRow, key_of
from schemas.triple import Condition, rejects_schema, triple_schema

PHOTOGRAPHS = (
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "retina",
    "immunohistochemistry",
    "hubble_deep_field",
)

RECIPE = {
    "caption": "auto",
    "caption_text": None,
    "resolution": 512,
    "fit": "crop",
    "image_format": "jpeg",
    "quality": 95,
    "min_side": 256,
    "validation": 0.1,
    "seed": 0,
}

ANNOTATORS = {"canny": record_of(CannySpec())}


def photograph(name, side=128):
    """Centre of one of scikit-image's own photographs, RGB."""
    picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    return np.asarray(ImageOps.fit(picture, (side, side)))


def encoded(rgb, kind="JPEG", **options):
    """Bytes of a picture file."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, **options)
    return buffer.getvalue()


def row_of(rgb, source, text="a photograph", stored=None, **changes):
    """A stored row with its Canny map; `changes` replace any column."""
    stored = stored or encoded(rgb, quality=95)
    edges = canny(rgb, low=100, high=200)
    height, width = rgb.shape[:2]
    row = {
        "key": key_of(source),
        "source": source,
        "sha256": hashlib.sha256(source.encode()).hexdigest(),
        "image": {"bytes": stored, "path": "x.jpg"},
        "text": text,
        "caption_source": None if text is None else "sidecar",
        "width": width,
        "height": height,
        "original_width": 2 * width,
        "original_height": 2 * height,
        "crop_x": 0,
        "crop_y": 0,
        "canny": {"bytes": encode_bilevel_png(edges), "path": "x.png"},
        "canny_low": 100,
        "canny_high": 200,
        "canny_edge_density": float(np.count_nonzero(edges)) / edges.size,
    }
    return row | changes


def without_map(row):
    """The row as it is when its annotator found nothing."""
    return row | dict.fromkeys(("canny", "canny_low", "canny_high", "canny_edge_density"))


def manifest_of(rows_by_split, rejects=(), **changes):
    """A manifest whose sums are right for these rows; every reject goes to the first split."""
    shards = []
    for split, rows in rows_by_split.items():
        here = [] if shards else list(rejects)
        whole = sum(reject.kind is None for reject in here)
        name = f"{split}-00000-of-00001"
        size = sum(len(row["image"]["bytes"]) for row in rows)
        shards.append(
            ShardRecord(
                name=name,
                split=split,
                references="a" * 64,
                fingerprint="f" * 64,
                planned=len(rows) + whole,
                data=FileRecord(
                    path=f"data/{name}.parquet", rows=len(rows), size_bytes=size, sha256="0" * 64
                ),
                rejects=FileRecord(
                    path=f"rejects/{name}.parquet", rows=len(here), size_bytes=1, sha256="0" * 64
                )
                if here
                else None,
                rejected_images=whole,
                reasons=dict(Counter(str(reject.reason) for reject in here)),
            )
        )
    fields = {
        "recipe": RECIPE,
        "source": "/data/photos",
        "annotators": ANNOTATORS,
        "software": {"numpy": "2.4.6"},
        "shards": shards,
    }
    return Manifest(**(fields | changes))


def write_dataset(folder, rows_by_split, rejects=(), row_group_rows=100, **changes):
    """A complete data set on disk; returns its manifest."""
    folder = Path(folder)
    manifest = manifest_of(rows_by_split, rejects, **changes)
    schema = schema_of(manifest.annotators)
    shards = []
    for shard in manifest.shards:
        path = folder / shard.data.path
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = rows_by_split[shard.split]
        table = pa.Table.from_pylist(list(rows), schema=schema)
        pq.write_table(table, path, row_group_size=row_group_rows, compression="NONE")
        shard = dataclasses.replace(shard, data=_as_it_lies(shard.data, path))
        if shard.rejects is not None:
            path = folder / shard.rejects.path
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [dataclasses.asdict(reject) for reject in rejects]
            table = pa.Table.from_pylist(lines, schema=rejects_schema())
            pq.write_table(table, path, compression="NONE")
            shard = dataclasses.replace(shard, rejects=_as_it_lies(shard.rejects, path))
        shards.append(shard)
    manifest = dataclasses.replace(manifest, shards=shards)
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return manifest


def _as_it_lies(record, path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return dataclasses.replace(record, size_bytes=path.stat().st_size, sha256=digest)


def rewritten(folder, change):
    """Change the manifest's document, and let its totals say what the shards then say."""
    path = Path(folder) / MANIFEST_NAME
    document = json.loads(path.read_text())
    change(document)
    data = [one["data"] for one in document["shards"]]
    reasons = Counter()
    for one in document["shards"]:
        reasons.update(one["reasons"])
    document |= {
        "planned": sum(one["planned"] for one in document["shards"]),
        "rows": sum(one["rows"] for one in data),
        "size_bytes": sum(one["size_bytes"] for one in data),
        "rejected_images": sum(one["rejected_images"] for one in document["shards"]),
        "reasons": dict(reasons.most_common()),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def schema_of(annotators=ANNOTATORS):
    """Schema of the hand-made shards."""
    conditions = [Condition(name=name, stats=one["stats"]) for name, one in annotators.items()]
    return triple_schema(conditions, {"recipe": json.dumps(RECIPE)})


def reject(source, reason, detail="", kind=None, stage="decode"):
    """A reject row."""
    return RejectRow(
        key=key_of(source), source=source, stage=stage, reason=reason, detail=detail, kind=kind
    )
