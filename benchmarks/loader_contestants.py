"""The loaders that benchmarks/loader_throughput.py compares; each runs as its own process.

    python -m benchmarks.loader_contestants ours|trainer|datasets|webdataset|streaming FOLDER

prints one JSON line about one epoch; `write-mds` writes what mosaicml-streaming reads.
"""

import functools
import gc
import json
import resource
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BATCH, WORKERS, PREFETCH = 8, 2, 4


def pixels_of(image: bytes, stored_map: bytes) -> dict[str, Any]:
    """What each contestant has to deliver, decoded in the quickest way that we know."""
    import cv2
    import numpy as np

    flags = cv2.IMREAD_COLOR_RGB
    return {
        "image": cv2.imdecode(np.frombuffer(image, np.uint8), flags),
        "map": cv2.imdecode(np.frombuffer(stored_map, np.uint8), cv2.IMREAD_UNCHANGED),
    }


def run_ours(folder: Path, *, noise: bool = False) -> Iterator[tuple[Any, Any]]:
    """Our shards through `Loader`."""
    from controlnet.trainer.batch import DrawOptions
    from controlnet.trainer.index import scan
    from controlnet.trainer.loader import Loader

    index = scan(str(folder / "set"), split="train", condition="canny", wants_latents=False)
    loader = Loader(
        index,
        seed=0,
        batch_size=BATCH,
        options=DrawOptions(),
        latent_channels=4 if noise else 1,
        latent_factor=8 if noise else 512,
        workers=WORKERS,
        prefetch=PREFETCH,
    )
    return ((batch.image_BHWC, batch.hint_BCHW[:, 0]) for batch in loader.iterate(0))


def run_datasets(folder: Path) -> Iterable[tuple[Any, Any]]:
    """The same Parquet files through Hugging Face's `datasets`, memory-mapped as Arrow."""
    import datasets

    datasets.disable_progress_bars()
    data = datasets.load_dataset(
        "parquet",
        data_files=str(folder / "set/data/*.parquet"),
        split="train",
        cache_dir=str(folder / "datasets-cache"),
        columns=["image", "canny"],
    )
    for column in ("image", "canny"):
        data = data.cast_column(column, datasets.Image(decode=False))
    return _torch_batches(data.with_transform(_decode_datasets), shuffle=True)


def _decode_datasets(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    pairs = zip(rows["image"], rows["canny"], strict=True)
    decoded = [pixels_of(image["bytes"], canny["bytes"]) for image, canny in pairs]
    return {name: [sample[name] for sample in decoded] for name in ("image", "map")}


def run_webdataset(folder: Path) -> Iterable[tuple[Any, Any]]:
    """Tar shards; batches are put together in the workers."""
    import webdataset

    urls = sorted(str(path) for path in (folder / "tars").glob("*.tar"))
    shards = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0)
    data = shards.shuffle(1000).map(_decode_webdataset)
    batches = data.batched(BATCH, collation_fn=_collate)
    return webdataset.WebLoader(
        batches, batch_size=None, num_workers=WORKERS, prefetch_factor=PREFETCH
    )


def _decode_webdataset(sample: dict[str, Any]) -> dict[str, Any]:
    return pixels_of(sample["jpg"], sample["png"])


def run_streaming(folder: Path) -> Iterable[tuple[Any, Any]]:
    """MDS shards, local, shuffled as by default."""
    import streaming

    streaming.base.util.clean_stale_shared_memory()

    class Decoded(streaming.StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            row = super().__getitem__(at)
            return pixels_of(row["image"], row["canny"])

    data = Decoded(local=str(folder / "mds"), shuffle=True, batch_size=BATCH, num_canonical_nodes=1)
    return _torch_batches(data, shuffle=False)


def _torch_batches(data: Any, *, shuffle: bool) -> Iterable[tuple[Any, Any]]:
    from torch.utils.data import DataLoader

    return DataLoader(
        data,
        batch_size=BATCH,
        shuffle=shuffle,
        num_workers=WORKERS,
        prefetch_factor=PREFETCH,
        collate_fn=_collate,
        drop_last=True,
    )


def _collate(samples: list[dict[str, Any]]) -> tuple[Any, Any]:
    import numpy as np
    import torch

    stacked = (np.stack([sample[name] for sample in samples]) for name in ("image", "map"))
    image_BHWC, map_BHW = (torch.from_numpy(array) for array in stacked)
    return image_BHWC, map_BHW


CONTESTANTS = {
    "ours": run_ours,
    "trainer": functools.partial(run_ours, noise=True),
    "datasets": run_datasets,
    "webdataset": run_webdataset,
    "streaming": run_streaming,
}


def epoch_of(name: str, folder: Path) -> dict[str, float]:
    """One epoch of one contestant, from the first call into its library; imports do not count."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    modules = {"ours": "controlnet.trainer.loader", "trainer": "controlnet.trainer.loader"}
    __import__(modules.get(name, name))
    images = total = 0
    first_s = 0.0
    before, start = _cpu_seconds(), time.perf_counter()
    for image_BHWC, map_BHW in CONTESTANTS[name](folder):
        first_s = first_s or time.perf_counter() - start
        images += len(image_BHWC)
        total += int(image_BHWC[:, ::37, ::37].sum()) + int(map_BHW[:, ::7, ::7].sum())
    seconds = time.perf_counter() - start
    gc.collect()  # the end of a DataLoader's iterator waits for its processes, which then count
    return {
        "images": images,
        "total": total,
        "seconds": seconds,
        "first_s": first_s,
        "cpu_s": _cpu_seconds() - before,
    }


def _cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def write_mds(folder: Path) -> dict[str, float]:
    """MDS shards of the pictures in the tar shards."""
    import streaming

    columns = {"image": "bytes", "canny": "bytes"}
    with streaming.MDSWriter(out=str(folder / "mds"), columns=columns, exist_ok=True) as writer:
        for path in sorted((folder / "tars").glob("*.tar")):
            with tarfile.open(path) as tar:
                cells = [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]
            for image, canny in zip(cells[::2], cells[1::2], strict=True):
                writer.write({"image": image, "canny": canny})
    return {}


def main() -> None:
    """Run one contestant."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    print(json.dumps(write_mds(folder) if name == "write-mds" else epoch_of(name, folder)))


if __name__ == "__main__":
    main()
