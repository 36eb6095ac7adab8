"""The nano base: a tiny latent-diffusion model of drawn shapes, in diffusers' folder format.

`scenes` draws what it knows, `reading` checks captions against pixels, `build` trains it and makes
the folder. The trained folder is package data: `base_folder()`.
"""

from pathlib import Path

NAME = "nano"
"""What `--base nano` means."""


def base_folder() -> Path:
    """The nano base that comes with this package: a folder in diffusers' format."""
    return Path(__file__).parent / "base"
