"""Captions a second beside the usual transformers loop; prints a Markdown table.

    python -m benchmarks.captioner_throughput [--images 16] [--rounds 5] [--beams 1 3]

Both use a BLIP of the released base size (ViT-B/16 at 384 px, BERT-base decoder) with the same
random weights, which say nothing and so always generate as many tokens as they may: 20 on both
sides. The loop takes one image at a time, in fp32, with as many threads as there are cores. Ours
runs as in a job: pool threads of one torch thread each, batches of 8, the precision that `auto`
chooses. Each lives in a process of its own; they take turns and ratios are taken round by round.
"""

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

TOKENS = 20
BATCH = 8
CORES = os.cpu_count() or 1
_LOADED = {}  # of a contestant's process


def make_model(folder: Path) -> None:
    """BLIP of base size with random weights, and a tokenizer of as many words."""
    import torch
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    torch.manual_seed(0)
    BlipForConditionalGeneration(BlipConfig()).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(30517))]
    vocabulary = {word: number for number, word in enumerate(words)}
    BlipProcessor(BlipImageProcessor(), BertTokenizer(vocab=vocabulary)).save_pretrained(folder)


def pictures(count: int) -> list:
    """Photographs of 512x512 px."""
    import numpy as np
    import skimage
    from PIL import Image

    names = ("astronaut", "coffee", "chelsea", "rocket")
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in names]
    resized = [np.array(photograph.convert("RGB").resize((512, 512))) for photograph in photographs]
    return [resized[number % 4] for number in range(count)]


def load_loop(folder: str) -> None:
    import torch
    from transformers import AutoProcessor, BlipForConditionalGeneration

    torch.set_num_threads(CORES)
    _LOADED["model"] = BlipForConditionalGeneration.from_pretrained(folder).eval()
    _LOADED["processor"] = AutoProcessor.from_pretrained(folder)


def run_loop(count: int, beams: int) -> float:
    """Seconds of the usual loop."""
    import torch
    from PIL import Image

    model, processor = _LOADED["model"], _LOADED["processor"]
    images = [Image.fromarray(pixels) for pixels in pictures(count)]
    start = time.perf_counter()
    with torch.inference_mode():
        for image in images:
            inputs = processor(image, return_tensors="pt")
            words = model.generate(**inputs, max_new_tokens=TOKENS, num_beams=beams)
            processor.decode(words[0], skip_special_tokens=True)
    return time.perf_counter() - start


def load_ours(folder: str) -> None:
    _LOADED["folder"] = folder


def run_ours(count: int, beams: int) -> float:
    """Seconds of `BlipSpec` as a job calls it."""
    from annotators.captions import BlipSpec
    from annotators.runtime import Runtime, resolve_precision, use_one_thread_each

    if beams not in _LOADED:
        spec = BlipSpec(
            model=_LOADED["folder"],
            beams=beams,
            max_tokens=TOKENS,
            precision=resolve_precision("auto", "cpu"),
        )
        _LOADED[beams] = spec.load(Runtime())
    captioner, images = _LOADED[beams], pictures(count)
    batches = [images[start : start + BATCH] for start in range(0, count, BATCH)]
    with ThreadPoolExecutor(CORES, initializer=use_one_thread_each) as pool:
        start = time.perf_counter()
        captions = list(pool.map(lambda batch: captioner(batch, ["key"] * len(batch)), batches))
        seconds = time.perf_counter() - start
    assert sum(len(caption) for caption in captions) == count
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3])
    options = parser.parse_args()
    print("| beams | transformers loop, images/s | ours, images/s | ours / loop |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        make_model(Path(name))
        loop, ours = (
            ProcessPoolExecutor(1, get_context("spawn"), initializer=load, initargs=(name,))
            for load in (load_loop, load_ours)
        )
        with loop, ours:
            for beams in options.beams:
                _compare(loop, ours, options, beams)


def _compare(
    loop: ProcessPoolExecutor, ours: ProcessPoolExecutor, options: argparse.Namespace, beams: int
) -> None:
    few = max(1, options.images // 4)  # for the loop, whose speed does not depend on it
    loop.submit(run_loop, 1, beams).result()  # the first call is slower
    ours.submit(run_ours, CORES * BATCH, beams).result()
    pairs = []
    for _ in range(options.rounds):
        theirs_s = loop.submit(run_loop, few, beams).result()
        ours_s = ours.submit(run_ours, options.images, beams).result()
        pairs.append((few / theirs_s, options.images / ours_s))
    theirs, mine = (f"{statistics.median(speeds):.2f}" for speeds in zip(*pairs, strict=True))
    ratios = [one / other for other, one in pairs]
    ratio = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})"
    print(f"| {beams} | {theirs} | {mine} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
