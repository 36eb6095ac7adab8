"""Drawing pictures under ControlNets: files in, pictures with their recipe out."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from annotators.protocol import Annotation
from annotators.registry import need_known_models, spec_from_record, weights_ready
from annotators.runtime import Runtime, resolve_device
from controlnet.architecture.sampling import SampleOptions
from controlnet.evaluator.models import Models, RunPlace, places_of, told_by
from controlnet.evaluator.samples import Request, Sampler, check_size
from controlnet.trainer.devices import DTYPES
from controlset.commands.sample import SampleConfig
from pipeline.images.decode import DecodeLimits, decode, open_source
from schemas.documents import parse_json
from schemas.errors import ConfigError, Rejected, need
from schemas.files import replacing
from schemas.picture_headers import MOST_PIXELS
from schemas.pixels import MapU8, RgbU8, guarded, shown
from schemas.printable import say
from schemas.shards import is_of_set
from schemas.terminal import counting

# Whatever can be decoded: its size is held to the base's own needs later.
_LIMITS = DecodeLimits(max_pixels=MOST_PIXELS, min_side=1, max_aspect=1e9)
_GAP_PX = 4
_KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# As near to lossless as the format is: colours at full size, or all of it.
_LOSSLESS = {"JPEG": {"subsampling": 0}, "WEBP": {"lossless": True}}
_QUALITY = 95
_DESCRIPTION = 0x010E  # EXIF's
_IMG2IMG_STRENGTH = 0.8  # diffusers' default


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Row:
    """What one hint, or one set of hints, asks for."""

    name: str
    hints: tuple[np.ndarray, ...]
    prompt: str


def draw(config: SampleConfig) -> list[Path]:
    """Draw everything that was asked for.

    Args:
        config: what, and how.

    Returns:
        The picture, or every picture and then the grid.

    Raises:
        ConfigError: a run, base or file that will not do; a place inside a data set.
    """
    apart = not (is_of_set(config.output) or is_of_set(config.output / "grid.png"))
    need(apart, "--output", "a place that is no part of a data set", str(config.output))
    places = places_of(config.run, offline=config.offline)
    device = resolve_device(config.device)
    models = Models(
        base=config.base,
        precision=config.precision,
        offline=config.offline,
        device=device,
        vae=config.vae,
        lora=config.base_lora,
    )
    rows = _rows(config, places, device)  # first: a hint that is no picture is told before a load
    sampler, base = _sampler(config, models, places)
    size = _size(rows)
    check_size(size, base, f"--hint {config.hint[0]}")
    image, mask = _given(config, size)
    requests = [
        Request(
            key=row.name,
            prompt=row.prompt,
            hints=row.hints,
            seed=config.seed + number,
            size=size,
            image=image,
            mask=mask,
        )
        for row in rows
        for number in range(config.count)
    ]
    pictures: list[RgbU8] = []  # written when all are there: the grid shows them together
    with counting("drawing") as advance:
        for start in range(0, len(requests), config.batch_size):
            pictures += sampler(requests[start : start + config.batch_size])
            advance(len(pictures), len(requests))
    return _stored(config, rows, requests, pictures)


def _sampler(
    config: SampleConfig, models: Models, places: Sequence[RunPlace]
) -> tuple[Sampler, Any]:
    for line in models.check(places):
        say(f"controlset sample: {line}", error=True)
    bases = {models.base_of(place) for place in places}
    if len(bases) > 1:  # several runs control one U-Net
        raise ConfigError(f"--run: need runs on one base, got {', '.join(sorted(bases))}")
    scales = config.scale * len(places) if len(config.scale) == 1 else config.scale
    base = models.base(places[0])
    controls = [
        (models.control(place.control, base), float(scale))
        for place, scale in zip(places, scales, strict=True)
    ]
    # Into a mask something new is painted; a picture without one shall stay to be seen.
    painted = 1.0 if config.mask is not None else _IMG2IMG_STRENGTH
    options = SampleOptions(
        steps=config.steps,
        guidance=float(config.guidance),
        scheduler=config.scheduler,
        start=float(config.start),
        end=float(config.end),
        guess=config.guess,
        by_resolution=config.resolution_weighting,
        strength=float(config.strength or painted),
    )
    sampler = Sampler(
        base,
        controls,
        options,
        negative_prompt=config.negative_prompt,
        device=torch.device(models.device),
        autocast=DTYPES[models.precision],
    )
    return sampler, base


def _rows(config: SampleConfig, places: Sequence[RunPlace], device: str) -> list[_Row]:
    read = _annotated(config, places, device) if config.annotate else _as_it_is
    if len(places) > 1:  # all of them control each picture, every run by its own hint
        hints = tuple(read(path, number) for number, path in enumerate(config.hint))
        return [_Row(name="00", hints=hints, prompt=config.prompt[0])]
    prompts = config.prompt * len(config.hint) if len(config.prompt) == 1 else config.prompt
    return [
        _Row(name=f"{number:02d}", hints=(read(path, 0),), prompt=prompt)
        for number, (path, prompt) in enumerate(zip(config.hint, prompts, strict=True))
    ]


def _size(rows: Sequence[_Row]) -> tuple[int, int]:
    """(width, height) that all hints have.

    Raises:
        ConfigError: they differ.
    """
    sizes = {(hint.shape[1], hint.shape[0]) for row in rows for hint in row.hints}
    if len(sizes) > 1:
        each = ", ".join(f"{width} x {height}" for width, height in sorted(sizes))
        raise ConfigError(f"--hint: need maps of one size, got {each}; draw them one by one")
    (size,) = sizes
    return size


def _as_it_is(path: Path, number: int) -> np.ndarray:
    return read_map(path, "--hint")


def _annotated(
    config: SampleConfig, places: Sequence[RunPlace], device: str
) -> Callable[[Path, int], np.ndarray]:
    """Reads a photograph and extracts the condition that a run was trained on."""
    annotators = []
    for place in places:
        condition, record = told_by(place, "condition"), told_by(place, "annotator")
        if condition is None or record is None:
            raise ConfigError(
                f"--annotate: {place.path} does not say which annotator drew its training maps; "
                "give maps instead of photographs"
            )
        spec = spec_from_record(condition, parse_json(record, dict, where=str(place.path)))
        need_known_models(spec, config.trust_model)  # the run may be a stranger's
        runtime = Runtime(device=device, offline=config.offline)
        weights_ready([spec], runtime, download=True)
        annotators.append(spec.load(runtime))

    def read(path: Path, number: int) -> np.ndarray:
        rgb = read_photograph(path, "--hint")
        # The name stands for the key that annotators draw at random by: the same each time.
        (seen,) = annotators[number]([rgb], [path.name])
        if not isinstance(seen, Annotation):
            raise ConfigError(f"--hint {path}: nothing to draw by: {seen.detail}")
        return seen.pixels

    return read


def _given(config: SampleConfig, size: tuple[int, int]) -> tuple[RgbU8 | None, MapU8 | None]:
    """The picture to start from and the mask, of the hints' size."""
    if config.init_image is None:
        return None, None
    image = read_photograph(config.init_image, "--init-image")
    _check_fits(image, size, f"--init-image {config.init_image}")
    if config.mask is None:
        return image, None
    mask = read_mask(config.mask, "--mask")
    _check_fits(mask, size, f"--mask {config.mask}")
    return image, mask


def _check_fits(pixels: np.ndarray, size: tuple[int, int], where: str) -> None:
    found = pixels.shape[1], pixels.shape[0]
    if found != size:
        wanted, got = (f"{width} x {height}" for width, height in (size, found))
        raise ConfigError(f"{where}: need the hint's {wanted} px, got {got}")


def _stored(
    config: SampleConfig,
    rows: Sequence[_Row],
    requests: Sequence[Request],
    pictures: Sequence[RgbU8],
) -> list[Path]:
    """Write pictures, each with its recipe, and the grid of several."""
    try:  # the folder is made here, and not before there is something to write
        if len(pictures) == 1 and config.output.suffix:
            config.output.parent.mkdir(parents=True, exist_ok=True)
            return [_saved(config.output, pictures[0], _recipe(config, requests[0]))]
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output: need a place to write to, got {error}") from error
    paths = []
    for number, (request, picture) in enumerate(zip(requests, pictures, strict=True)):
        name = f"{request.key}-{number % config.count}.png"
        paths.append(_saved(config.output / name, picture, _recipe(config, request)))
    return [*paths, _saved(config.output / "grid.png", _grid(rows, pictures), None)]


def _recipe(config: SampleConfig, request: Request) -> str:
    """What the picture was made with, as the file's text."""
    values = {
        **{name: str(value) for name, value in dataclasses.asdict(config).items()},
        "prompt": request.prompt,
        "seed": str(request.seed),
    }
    return json.dumps(values)


def _saved(path: Path, picture: np.ndarray, recipe: str | None) -> Path:
    """Write a picture in the format that its name says, with its recipe inside."""
    image, options = Image.fromarray(picture), {}
    kind = _KINDS.get(path.suffix.lower(), "PNG")
    if kind == "PNG":
        options["pnginfo"] = info = PngInfo()
        if recipe is not None:
            info.add_itxt("controlset", recipe)
    else:  # JPEG and WebP have no texts of their own, so it is EXIF's description
        exif = image.getexif()
        if recipe is not None:
            exif[_DESCRIPTION] = recipe
        options.update(exif=exif, quality=_QUALITY, **_LOSSLESS.get(kind, {}))
    with replacing(path, durable=False) as temporary:
        image.save(temporary, kind, **options)
    return path


def _grid(rows: Sequence[_Row], pictures: Sequence[RgbU8]) -> RgbU8:
    """One row a hint: its maps, then its pictures."""
    each = len(pictures) // len(rows)
    lines = []
    for number, row in enumerate(rows):
        tiles = [*map(shown, row.hints), *pictures[number * each : (number + 1) * each]]
        height, width = tiles[0].shape[:2]
        line = np.full((height, len(tiles) * (width + _GAP_PX) - _GAP_PX, 3), 255, np.uint8)
        for place, tile in enumerate(tiles):
            line[:, place * (width + _GAP_PX) :][:, :width] = tile
        lines += [line, np.full((_GAP_PX, line.shape[1], 3), 255, np.uint8)]
    return np.concatenate(lines[:-1])  # without the gap below the last line


def read_photograph(path: Path, option: str) -> RgbU8:
    """A photograph as `generate` sees it: upright, sRGB, transparency on white.

    Args:
        path: file of any format that `generate` reads.
        option: that named it, for the error.

    Raises:
        ConfigError: the file cannot be read, or is no picture.
    """
    with _blaming(path, option):
        raw = path.read_bytes()
        return decode(raw, limits=_LIMITS, smallest_useful=lambda *size: size).rgb


def read_map(path: Path, option: str) -> np.ndarray:
    """A condition map; what is transparent holds nothing, so it is black.

    Args:
        path: file of any format that `generate` reads; its values are taken as they are.
        option: that named it, for the error.

    Returns:
        (H, W) uint8 of grey maps, (H, W) uint16 of 16-bit ones, (H, W, 3) uint8 of the others.

    Raises:
        ConfigError: the file cannot be read, or is no picture.
    """
    with _blaming(path, option):
        picture = open_source(path.read_bytes(), max_pixels=MOST_PIXELS)
        with guarded(picture.width * picture.height):
            if picture.mode.startswith("I;16"):
                return np.asarray(picture).astype(np.uint16)
            is_grey = picture.mode in {"1", "L", "LA"}
            if picture.has_transparency_data:  # pixels under it may have any colour
                picture = picture.convert("RGBA")
                black = Image.new("RGBA", picture.size, "black")
                picture = Image.alpha_composite(black, picture)
            return np.asarray(picture.convert("L" if is_grey else "RGB"))


def read_mask(path: Path, option: str) -> MapU8:
    """A mask: white is painted, black and transparent stay.

    Args:
        path: as for `read_map`.
        option: likewise.

    Returns:
        (H, W) uint8.

    Raises:
        ConfigError: likewise.
    """
    pixels = read_map(path, option)
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))


@contextlib.contextmanager
def _blaming(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except (OSError, Rejected) as error:
        raise ConfigError(f"{option} {path}: need a picture, got {error}") from error
