"""A flipped bit that shifts all blocks behind it is found, and nothing else is taken for one."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.images.jpeg import blocks_beyond_range, find_shift
from schemas.picture_headers import stored_header
from tests.faults.damaged_jpegs import damaged, good, outcome, photographs

# Each leaves a valid file: shifted to the end or to a restart mark, progressive, in colour.
SHIFTED = (47, 1012, 1031, 1079, 1727, 2087, 2158, 2267)
# Shifted into black or white: in brightness, in colour too, progressive, to a restart mark.
CLIPPED = (454, 731, 1181, 1864, 1972, 2398, 2542, 2962)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return photographs()


@pytest.mark.parametrize("number", SHIFTED + CLIPPED)
def test_a_photograph_with_shifted_blocks_is_damaged_and_the_whole_one_is_not(
    number: int, pictures: list[Image.Image]
) -> None:
    _, whole, raw = damaged(number, pictures)
    assert outcome(raw) == "damaged"
    assert outcome(whole) == "row"


def test_the_place_of_the_first_shifted_block_is_told(pictures: list[Image.Image]) -> None:
    pixels = np.asarray(pictures[0]).copy()
    pixels = pixels // 2 + 32  # not clipped by the shift
    pixels[208:224, 160:] += 30
    pixels[224:] += 30
    x, y = find_shift(pixels, (16, 16)).start or (0, 0)
    assert y == 208
    assert abs(x - 160) <= 32


def test_a_horizon_is_no_damage(pictures: list[Image.Image]) -> None:
    pixels = np.asarray(pictures[0]) // 2 + 32
    pixels[208:] += 30
    assert find_shift(pixels, (16, 16)).start is None


def test_a_step_that_no_order_of_blocks_makes_is_no_damage(pictures: list[Image.Image]) -> None:
    pixels = np.asarray(pictures[0]) // 2 + 32
    pixels[208:240, 160:] += 30  # two rows of blocks high
    pixels[240:] += 30
    assert find_shift(pixels, (16, 16)).start is None


def test_boxes_on_the_grid_of_a_drawn_page_are_no_damage() -> None:
    page = Image.new("RGB", (512, 512), (240, 240, 250))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 511, 31), fill=(40, 60, 120))
    draw.rectangle((160, 32, 511, 47), fill=(40, 60, 120))  # a bar with a notch: a staircase
    for line in range(64, 500, 16):
        draw.text((10, line), "nothing here is a photograph, not even this line " * 2, fill=0)
    for quality in (50, 90):
        buffer = io.BytesIO()
        page.save(buffer, "JPEG", quality=quality)
        assert outcome(buffer.getvalue()) == "row"


def _saved(picture: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _beyond(raw: bytes) -> int:
    header = stored_header(raw)
    assert header is not None
    return blocks_beyond_range(header)


@pytest.mark.parametrize("number", CLIPPED)
def test_means_that_no_picture_has_are_counted(number: int, pictures: list[Image.Image]) -> None:
    _, whole, raw = damaged(number, pictures)
    assert _beyond(raw) >= 10
    assert _beyond(whole) == 0


@pytest.mark.parametrize("quality", [1, 10, 50, 90, 100])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_black_and_white_are_within_the_range_at_every_quality(mode: str, quality: int) -> None:
    squares = np.kron(np.indices((30, 40)).sum(0) % 2 * 255, np.ones((11, 13))).astype(np.uint8)
    squares[:100] = 255
    squares[-100:] = 0
    picture = Image.fromarray(squares).convert(mode)
    assert _beyond(_saved(picture, quality=quality)) == 0
    assert _beyond(_saved(picture, quality=quality, progressive=True)) == 0


def test_tables_of_two_bytes_a_step_are_read(pictures: list[Image.Image]) -> None:
    tables = [[300, *[800] * 63]] * 2  # PIL writes a byte where it can
    raw = _saved(pictures[0], qtables=tables)
    assert _beyond(raw) == 0


def test_what_is_not_stored_as_brightness_and_colour_is_not_judged(
    pictures: list[Image.Image],
) -> None:
    raw = _saved(pictures[0], keep_rgb=True)
    assert _beyond(raw) == 0
    assert outcome(raw) == "row"


def test_a_picture_of_few_blocks_is_not_judged() -> None:
    assert find_shift(np.zeros((16, 16, 3), np.uint8), (16, 16)).start is None
    assert find_shift(np.zeros((8, 640, 1), np.uint8), (8, 8)).start is None


@pytest.mark.parametrize(
    ("mode", "options", "size"),
    [
        ("RGB", {"subsampling": 0}, (8, 8)),
        ("RGB", {"subsampling": 1}, (16, 8)),
        ("RGB", {"subsampling": 2, "progressive": True}, (16, 16)),
        ("L", {}, (8, 8)),
    ],
)
def test_block_sizes_are_those_of_the_header(
    mode: str, options: dict[str, int], size: tuple[int, int]
) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (64, 64)).save(buffer, "JPEG", **options)
    header = stored_header(buffer.getvalue())
    assert header is not None
    assert header.block_px == size


def test_good_ones_of_several_encoders_stay(pictures: list[Image.Image]) -> None:
    assert {outcome(good(number, pictures)) for number in range(100)} == {"row"}
