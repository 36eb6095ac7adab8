"""Sampled pictures on disk: lossless, named by row and number, taken up again after a stop."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from controlnet.evaluator.examples import Row, Rows
from controlnet.evaluator.sampler import Request, seed_of
from schemas.errors import ConfigError, Rejected
from schemas.file_names import file_name
from schemas.picture_headers import png_text
from schemas.pixels import RgbU8, decode_stored_rgb
from schemas.plain_files import read_plain
from schemas.writing import replacing, writing

CODEC = "png"

# Pictures of one size -> as many pictures.
Sample = Callable[[Sequence[Request]], list[RgbU8]]


State = Literal["whole", "absent", "foreign"]
_SEAL = "controlset-seal"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Gallery:
    """The pictures of one cell: of one network with one setting.

    Each file carries a hash of what it was sampled for and of its pixels: a picture of another
    cell, row or evaluation is not taken for this one's, nor is a damaged one.
    """

    folder: Path
    purpose: str  # what decides about these pictures: the evaluation's digest and the cell

    def path(self, key: str, number: int) -> Path:
        """Where the picture of a row lies."""
        return self.folder / f"{file_name(key)}-{number}.{CODEC}"

    def read(self, key: str, number: int) -> RgbU8:
        """A picture that is there.

        Raises:
            ConfigError: it is not the one that was sampled.
        """
        found = self._found(key, number)
        if isinstance(found, str):
            raise ConfigError(
                f"{self.path(key, number)}: need the picture that was sampled for this row, got "
                f"{'none' if found == 'absent' else 'another one'}; run the same command again"
            )
        return found

    def state(self, row: Row, number: int) -> State:
        """What is there: the row's picture, none (or a torn one), or a picture of something else.

        Raises:
            ConfigError: nobody can say, since the folder may not be read.
        """
        found = self._found(row.key, number)
        if isinstance(found, str):
            return found
        return "whole" if (found.shape[1], found.shape[0]) == row.size else "foreign"

    def write(self, key: str, number: int, picture: np.ndarray) -> Path:
        """Store a picture, whole or not at all."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(key, number)
        info = PngInfo()
        info.add_text(_SEAL, self._seal(key, number, picture))
        with replacing(path, durable=False) as temporary:
            Image.fromarray(picture).save(temporary, CODEC, compress_level=1, pnginfo=info)
        return path

    def _found(self, key: str, number: int) -> RgbU8 | Literal["absent", "foreign"]:
        path = self.path(key, number)
        try:
            raw = read_plain(path)
            pixels = decode_stored_rgb(raw)
            sealed = png_text(raw, _SEAL)
        except PermissionError as error:
            raise ConfigError(f"{path}: need a file that can be read, got {error}") from error
        except (OSError, Rejected):
            return "absent"  # or torn
        return pixels if sealed == self._seal(key, number, pixels) else "foreign"

    def _seal(self, key: str, number: int, pixels: np.ndarray) -> str:
        """Cost: 0.6 ms for 512x512 where the processor has SHA, 2 ms elsewhere."""
        digest = hashlib.sha256(json.dumps([self.purpose, key, number, pixels.shape]).encode())
        digest.update(np.ascontiguousarray(pixels).data)
        return digest.hexdigest()


def fill(
    gallery: Gallery,
    rows: Rows,
    sample: Sample,
    *,
    controlled: bool,
    empty_prompt: bool,
    samples: int,
    seed: int,
    batch_size: int,
    rank: int,
    world: int,
    on_picture: Callable[[], None],
) -> int:
    """Sample what is not there yet.

    Args:
        gallery: gets the pictures.
        rows: what to sample.
        sample: draws a batch.
        controlled: False samples the base alone.
        empty_prompt: leave the captions out.
        samples: pictures for each row.
        seed: see `seed_of`.
        batch_size: pictures at once.
        rank: of this process, which takes every `world`-th picture.
        world: processes.
        on_picture: called after each, those that were there already included.

    Returns:
        How many were there that were something else, and were sampled again.
    """
    places = [(row, number) for row in rows.rows for number in range(samples)][rank::world]
    absent, foreign = [], 0
    for row, number in places:
        state = gallery.state(row, number)
        foreign += state == "foreign"
        if state == "whole":
            on_picture()
        else:
            absent.append((row, number))
    for batch in _batches(absent, batch_size):
        requests = [
            Request(
                key=row.key,
                prompt="" if empty_prompt else row.text,
                hints=(row.wanted.pixels,) if controlled else (),
                seed=seed_of(seed, row.key, number),
                size=row.size,
            )
            for row, number in batch
        ]
        for (row, number), picture in zip(batch, sample(requests), strict=True):
            gallery.write(row.key, number, picture)
            on_picture()
    return foreign


def _batches(places: Sequence[tuple[Row, int]], batch_size: int) -> Iterator[list[tuple[Row, int]]]:
    """Batches of one size; rows come ordered by size."""
    batch: list[tuple[Row, int]] = []
    for place in places:
        if batch and (len(batch) == batch_size or batch[0][0].size != place[0].size):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
