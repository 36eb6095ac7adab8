"""Our sampler beside diffusers' StableDiffusionControlNetPipeline; prints Markdown.

    python -m benchmarks.sampler_throughput [--base FOLDER] [--size 64] [--batch 8] [--rounds 5]

Same base, ControlNet, prompts, maps, noise, scheduler (DDIM), steps and guidance, fp32 on the CPU;
prompts to uint8 pictures on both sides. Contestants take turns, each in a process of its own that
draws one batch unmeasured; ratios are taken round by round. Memory is the process's largest
resident set, loading included. The pictures of both are compared, too: faster and different would
be no contest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.generate_throughput import machine, spread
from controlnet.nano import base_folder
from controlnet.nano.scenes import draw, random_scene

LABELS = {"ours": "`Sampler`", "diffusers": "`StableDiffusionControlNetPipeline`"}
PROMPT = "a red circle on a white background"
LOUDNESS = 0.01  # of the noise on the ControlNet's weights: no residual is zero
FASTER = 1.0
SMALLER = 1.0
LEVELS = 1  # of 255


def write_control(folder: Path, base: str) -> Path:
    """A ControlNet for a base with nothing left zero; what is there already is kept."""
    from controlnet.architecture.backbone import load_base, new_control
    from controlnet.architecture.control import hint_widths
    from tests.controlnet.tiny_bases import twin, woken

    if not (folder / "diffusion_pytorch_model.safetensors").exists():
        loaded = load_base(base, vae=False, text=False, offline=True)
        control = new_control(loaded, widths=hint_widths(loaded.space.factor))
        twin(woken(control, std=LOUDNESS)).save_pretrained(folder)
    return folder


def maps(count: int, size: int) -> list[np.ndarray]:
    """Canny maps of drawn scenes, (H, W) uint8."""
    import cv2

    rng = np.random.default_rng(0)
    scenes = [np.ascontiguousarray(draw(random_scene(rng))) for _ in range(count)]
    return [cv2.Canny(cv2.resize(scene, (size, size)), 60, 120) for scene in scenes]


def ours(options: argparse.Namespace) -> Callable[[], Sequence[np.ndarray]]:
    """What draws a batch."""
    import torch

    from controlnet.architecture.backbone import load_base
    from controlnet.architecture.control_files import load_control
    from controlnet.architecture.sampling import SampleOptions
    from controlnet.evaluator.samples import Request, Sampler

    sampler = Sampler(
        load_base(options.base, offline=True),
        [(load_control(options.control).requires_grad_(False).eval(), 1.0)],
        SampleOptions(steps=options.steps, guidance=options.guidance),
        negative_prompt="",
        device=torch.device("cpu"),
        autocast=torch.float32,
    )
    requests = [
        Request(key=str(n), prompt=PROMPT, hints=(one,), seed=n, size=(options.size, options.size))
        for n, one in enumerate(maps(options.batch, options.size))
    ]
    return lambda: sampler(requests)


def diffusers(options: argparse.Namespace) -> Callable[[], Sequence[np.ndarray]]:
    """What draws a batch."""
    import torch
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
    from PIL import Image

    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        options.base,
        controlnet=ControlNetModel.from_pretrained(options.control),
        safety_checker=None,
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    hints = [Image.fromarray(pixels).convert("RGB") for pixels in maps(options.batch, options.size)]

    def batch() -> Sequence[np.ndarray]:
        images = pipeline(
            [PROMPT] * options.batch,
            image=hints,
            height=options.size,
            width=options.size,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            negative_prompt=[""] * options.batch,
            generator=[torch.Generator().manual_seed(n) for n in range(options.batch)],
        ).images
        return [np.asarray(image) for image in images]

    return batch


def contend(name: str, options: argparse.Namespace) -> None:
    """One contestant: draw, leave the pictures, print one line of JSON."""
    batch = {"ours": ours, "diffusers": diffusers}[name](options)
    np.save(options.folder / f"{name}.npy", np.stack(batch()))
    seconds = []
    for _ in range(options.batches):
        start = time.perf_counter()
        batch()
        seconds.append(time.perf_counter() - start)
    status = Path("/proc/self/status").read_text()
    largest = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print(json.dumps({"speed": options.batch / statistics.median(seconds), "bytes": largest}))


def run_once(name: str, arguments: Sequence[str]) -> dict[str, float]:
    """One contestant in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.sampler_throughput"]
    finished = subprocess.run(
        [*command, *arguments, "--contestant", name],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if finished.returncode:
        raise SystemExit(f"{name} failed:\n{finished.stderr[-3000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def levels_apart(folder: Path) -> int:
    """Largest difference between the contestants' pictures."""
    mine, other = (np.load(folder / f"{name}.npy").astype(np.int16) for name in LABELS)
    return int(np.abs(mine - other).max())


def ratios(results: dict[str, list[dict[str, float]]], what: str) -> list[float]:
    """Ours / theirs of each round."""
    pairs = zip(results["ours"], results["diffusers"], strict=True)
    return [mine[what] / theirs[what] for mine, theirs in pairs]


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: speed and memory of each, and ours / theirs round by round."""
    lines = ["| sampler | images/s | peak resident, MB |", "|---|---|---|"]
    for name, rounds in results.items():
        speed = spread([measured["speed"] for measured in rounds], 3)
        memory = spread([measured["bytes"] / 1e6 for measured in rounds], 0)
        lines.append(f"| {LABELS[name]} | {speed} | {memory} |")
    cells = [spread(ratios(results, what), 3) for what in ("speed", "bytes")]
    return "\n".join([*lines, f"| ours / theirs | {' | '.join(cells)} |"])


def arguments_of(options: argparse.Namespace) -> list[str]:
    """The same command line with everything decided."""
    names = ("base", "size", "batch", "steps", "guidance", "batches", "folder", "control")
    return [f"--{name}={getattr(options, name)}" for name in names]


def parsed() -> argparse.Namespace:
    """The command line."""
    place = Path(tempfile.gettempdir()) / "controlset-bench/sampler"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default=str(base_folder()))
    parser.add_argument("--size", type=int, default=64, help="px; 64 is nano's own")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--batches", type=int, default=3, help="measured in each process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=place)
    parser.add_argument("--control", type=Path, help="a ControlNetModel; default: made for it")
    parser.add_argument("--contestant", choices=tuple(LABELS), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print; exit status 1 where the promise is broken."""
    options = parsed()
    if options.contestant:
        contend(options.contestant, options)
        return
    if options.control is None:
        name = str(Path(options.base).resolve()).strip("/").replace("/", "-")
        options.control = write_control(options.folder / name, options.base)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in LABELS}
    for number in range(options.rounds):
        for name in list(LABELS)[:: 1 if number % 2 else -1]:
            results[name].append(run_once(name, arguments_of(options)))
            print(f"round {number + 1}, {name}: {results[name][-1]}", file=sys.stderr, flush=True)
    apart = levels_apart(options.folder)
    print(
        f"{Path(options.base).name}, {options.size} px, batch {options.batch}, {options.steps} "
        f"steps of DDIM, guidance {options.guidance:g}, fp32;\n{options.rounds} rounds of "
        f"{options.batches} batches; on {machine()}; median (min-max)\n\n{table(results)}\n\n"
        f"largest difference of the pictures: {apart} of 255"
    )
    faster = statistics.median(ratios(results, "speed"))
    smaller = statistics.median(ratios(results, "bytes"))
    if faster < FASTER or smaller > SMALLER or apart > LEVELS:
        raise SystemExit(
            f"need {FASTER} times the images/s, {SMALLER} times the memory and {LEVELS} level, "
            f"got {faster:.3f}, {smaller:.3f} and {apart}"
        )


if __name__ == "__main__":
    main()
