"""Sampled pictures on disk: lossless, named by row and number, taken up again after a stop."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from controlnet.evaluator.rows import Row, Rows
from controlnet.evaluator.sampler import Request, seed_of
from schemas.pixels import RgbU8

CODEC = "png"

# Pictures of one size -> as many pictures.
Sample = Callable[[Sequence[Request]], list[RgbU8]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Gallery:
    """The pictures of one cell: of one network with one setting."""

    folder: Path

    def path(self, key: str, number: int) -> Path:
        """Where the picture of a row lies."""
        return self.folder / f"{key}-{number}.{CODEC}"

    def read(self, key: str, number: int) -> RgbU8:
        """A picture that is there."""
        with Image.open(self.path(key, number)) as picture:
            return np.asarray(picture.convert("RGB"))

    def has(self, row: Row, number: int) -> bool:
        """Whether a whole picture of the row's size is there; a torn one is not."""
        try:
            with Image.open(self.path(row.key, number)) as picture:
                picture.load()
                return picture.size == row.size
        except (FileNotFoundError, UnidentifiedImageError, OSError):
            return False

    def write(self, key: str, number: int, picture: np.ndarray) -> Path:
        """Store a picture, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(key, number)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        Image.fromarray(picture).save(temporary, CODEC, compress_level=1)
        os.replace(temporary, path)
        return path


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
) -> None:
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
    """
    places = [(row, number) for row in rows.rows for number in range(samples)][rank::world]
    absent = []
    for row, number in places:
        if gallery.has(row, number):
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
