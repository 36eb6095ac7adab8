"""Three ways to the same data set; each runs as its own process and prints one JSON line.

    python -m benchmarks.contestants controlset|loop|datasets PHOTOGRAPHS OUTPUT

`seconds` counts from the moment the work can start (modules imported, processes there, source
listed) to the last file closed; `wall_s` is the whole process as its user waits for it.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROCESSES = 2
RESOLUTION = 512
QUALITY = 95


def run_controlset(photographs: Path, output: Path) -> tuple[int, float]:
    """`controlset generate`, as the command line runs it."""
    from pipeline.config import GenerateConfig
    from pipeline.generate import generate
    from pipeline.progress import PROGRESS

    config = GenerateConfig(
        source=str(photographs),
        output=str(output),
        conditions=("canny",),
        resolution=RESOLUTION,
        num_workers=PROCESSES,
    )
    manifest = generate(config)
    return manifest.rows, PROGRESS.work_seconds


def run_loop(photographs: Path, output: Path) -> tuple[int, float]:
    """What somebody writes by hand: two processes, the same functions, the same Parquet."""
    files = sorted(photographs.glob("*.jpg"))
    output.mkdir(parents=True)
    ready = multiprocessing.get_context("spawn").Barrier(PROCESSES + 1)
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_loop_worker, args=(files[number::PROCESSES], output, number, ready))
        for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a loop worker failed")
    return len(files), seconds


def _loop_worker(files: list[Path], output: Path, number: int, ready: Any) -> None:
    import cv2
    import pyarrow as pa
    import pyarrow.parquet as pq

    from annotators.conditions.canny import CannySpec
    from schemas.triple import Condition, triple_schema

    cv2.setNumThreads(1)
    spec = CannySpec()
    schema = triple_schema([Condition(name="canny", stats=spec.stats)], {})
    images = {"image", "canny"}
    path = output / f"train-{number:05d}-of-{PROCESSES:05d}.parquet"
    writer = pq.ParquetWriter(
        path,
        schema,
        compression="NONE",
        use_dictionary=False,
        write_page_index=True,
        write_statistics=[name for name in schema.names if name not in images],
    )
    list(_loop_rows(files[:1]))  # imports and first-call costs are start-up
    ready.wait()
    rows: list[dict[str, Any]] = []
    for row in _loop_rows(files):
        rows.append(row)
        if len(rows) == 100:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
            rows = []
    if rows:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    writer.close()


def _loop_rows(files: list[Path]) -> Iterator[dict[str, Any]]:
    import functools

    import numpy as np

    from annotators.conditions.canny import canny
    from pipeline.batch import encode_image
    from pipeline.images.decode import DecodeLimits, decode
    from pipeline.images.geometry import apply_geometry, plan_geometry, smallest_useful_size
    from schemas.pixels import decode_stored_rgb, encode_bilevel_png

    limits = DecodeLimits(max_pixels=100_000_000, min_side=RESOLUTION // 2, max_aspect=4.0)
    useful = functools.partial(smallest_useful_size, resolution=RESOLUTION, fit="crop")
    for file in files:
        raw = file.read_bytes()
        decoded = decode(raw, limits=limits, smallest_useful=useful)
        height, width = decoded.rgb.shape[:2]
        geometry = plan_geometry(width, height, resolution=RESOLUTION, fit="crop")
        fitted = apply_geometry(decoded.rgb, geometry)
        encoded = encode_image(fitted, image_format="jpeg", quality=QUALITY)
        edges = canny(decode_stored_rgb(encoded), low=100, high=200)
        yield {
            "key": hashlib.sha256(file.name.encode()).hexdigest()[:32],
            "source": file.name,
            "sha256": hashlib.sha256(raw).hexdigest(),
            "image": {"bytes": encoded, "path": None},
            "width": RESOLUTION,
            "height": RESOLUTION,
            "original_width": decoded.original_width,
            "original_height": decoded.original_height,
            "crop_x": geometry.crop_x,
            "crop_y": geometry.crop_y,
            "canny": {"bytes": encode_bilevel_png(edges), "path": None},
            "canny_low": 100,
            "canny_high": 200,
            "canny_edge_density": float(np.count_nonzero(edges)) / edges.size,
        }


def run_datasets(photographs: Path, output: Path) -> tuple[int, float]:
    """`datasets.map` over two processes with controlnet-aux's CannyDetector.

    Pillow crops and resizes (box filter, the quick one), images are stored as JPEG of the same
    quality, maps as PNG; extracted from the image before it is encoded, as is usual.
    """
    import warnings

    warnings.simplefilter("ignore")
    from controlnet_aux import CannyDetector
    from datasets import Dataset, Features, Image, Value
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    files = sorted(str(path) for path in photographs.glob("*.jpg"))
    output.mkdir(parents=True)
    features = Features({"image": Image(), "canny": Image(), "source": Value("string")})
    data = Dataset.from_dict({"source": files})
    detector = CannyDetector()
    start = time.perf_counter()
    data = data.map(
        _datasets_row,
        num_proc=PROCESSES,
        features=features,
        fn_kwargs={"detector": detector},
        cache_file_name=str(output / "cache.arrow"),
    )
    for number in range(PROCESSES):
        shard = data.shard(num_shards=PROCESSES, index=number, contiguous=True)
        shard.to_parquet(output / f"train-{number:05d}-of-{PROCESSES:05d}.parquet")
    return len(data), time.perf_counter() - start


def _datasets_row(row: dict[str, Any], detector: Any) -> dict[str, Any]:
    import io

    from PIL import Image, ImageOps

    with Image.open(row["source"]) as picture:
        rgb = ImageOps.exif_transpose(picture).convert("RGB")
    fitted = ImageOps.fit(rgb, (RESOLUTION, RESOLUTION), Image.Resampling.BOX)
    edges = detector(fitted, detect_resolution=RESOLUTION, image_resolution=RESOLUTION)
    image, canny = io.BytesIO(), io.BytesIO()
    fitted.save(image, "JPEG", quality=QUALITY)
    edges.convert("1").save(canny, "PNG")
    return {
        "image": {"bytes": image.getvalue(), "path": None},
        "canny": {"bytes": canny.getvalue(), "path": None},
    }


CONTESTANTS = {"controlset": run_controlset, "loop": run_loop, "datasets": run_datasets}


def main() -> None:
    """Run one contestant."""
    began = time.perf_counter()
    name, photographs, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    shutil.rmtree(output, ignore_errors=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    images, seconds = CONTESTANTS[name](photographs, output)
    result = {"images": images, "seconds": seconds, "wall_s": time.perf_counter() - began}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
