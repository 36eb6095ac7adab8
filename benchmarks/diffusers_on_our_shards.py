"""Whether diffusers' own script trains on our shards, and diffusers samples with our checkpoint.

    python -m benchmarks.diffusers_on_our_shards --script train_controlnet.py

The script is diffusers' examples/controlnet/train_controlnet.py as it is, at the tag of the
installed diffusers; it is not part of this project. It gets the data set's folder as
`--dataset_name` (the card in that folder names the splits' Parquet files). The base is tiny and has
random weights: this shows that formats fit, not that anything is learnt.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.trainer_contest import TINY, write_base, write_set

STEPS = 3
PICTURES = 8


def train_theirs(script: Path, base: Path, data: Path, output: Path) -> dict[str, float]:
    """A few steps of the script; seconds of each step."""
    return _contestant("diffusers", script, base, data, output, ["--learning_rate", "1e-3"])


def train_ours(script: Path, base: Path, data: Path, output: Path) -> dict[str, float]:
    """As many of ours."""
    return _contestant("ours", script, base, data, output, ["--learning-rate", "1e-3"])


def _contestant(
    name: str, script: Path, base: Path, data: Path, output: Path, flags: Sequence[str]
) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.trainer_contest", name]
    paths = [str(path) for path in (script, base, data, output)]
    finished = subprocess.run(
        [*command, *paths, str(STEPS), *flags], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise SystemExit(f"{name} failed:\n{finished.stderr[-3000:]}\n{finished.stdout[-1000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def sample_with(base: Path, control: Path, data: Path) -> list[np.ndarray]:
    """Pictures out of diffusers' pipeline: with the first row's map, again, and with a black one.

    Args:
        base: folder in diffusers' format.
        control: folder of a `ControlNetModel`.
        data: whose first map is the hint.

    Returns:
        Three of (H, W, 3) float32 in [0, 1], from the same noise.
    """
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline

    import controlset

    row = controlset.open(str(data))[0]
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        base, controlnet=ControlNetModel.from_pretrained(control), safety_checker=None
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, steps_offset=1)
    pipeline.set_progress_bar_config(disable=True)
    hint_HWC = np.repeat(np.asarray(row.maps["canny"])[:, :, None], 3, axis=2) / np.float32(255)
    return [
        pipeline(
            row.text or "",
            image=torch.from_numpy(hint).permute(2, 0, 1)[None],
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images[0]
        for hint in (hint_HWC, hint_HWC, np.zeros_like(hint_HWC))
    ]


def main() -> None:
    """Try and print; any failure ends with its message."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--script", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = write_base(folder / "base", TINY)
        data = write_set(folder, None, pictures=PICTURES)
        for who, train, control in (
            ("diffusers' script on our shards", train_theirs, folder / "theirs"),
            ("controlset train", train_ours, folder / "ours"),
        ):
            seconds = train(options.script, base, data, control)["ended_s"]
            print(f"{who}: {len(seconds)} steps")
            model = control / "controlnet" if train is train_ours else control
            with_map, again, with_black = sample_with(base, model, data)
            if not np.isfinite(with_map).all() or not np.array_equal(with_map, again):
                raise SystemExit(f"{who}: need finite, repeatable pictures, got others")
            heard = float(np.abs(with_map - with_black).max())
            print(
                f"  StableDiffusionControlNetPipeline with its result: {with_map.shape}, another "
                f"map changes the picture by up to {heard:.1e}"
            )
            if heard == 0:
                raise SystemExit(f"{who}: need a picture that depends on its map, got one without")


if __name__ == "__main__":
    main()
