"""The contact sheet: complete, safe whatever the data says, and small."""

import base64
import html
import io
import re
import unicodedata
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pipeline.output.pages import map_thumbnail
from pipeline.output.preview import render_preview
from pipeline.progress import ADVICE
from schemas.errors import Reason
from tests.pipeline.every_kind import CAPTIONED, EVERY_KIND, person, row_of_every_kind
from tests.pipeline.handmade import (
    PHOTOGRAPHS,
    manifest_of,
    photograph,
    reject,
    row_of,
    without_map,
)

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><img src=http://example.com/x onerror=alert(1)>",
    "\"' onmouseover='alert(1)' x=\"",
    "{{ 7 * 7 }} {% raw %}",
    "a\x00b\x07c\x1b[31m",
    "\u202eright to left\u202c مرحبا \u2066\u061c\u200f\x9b\x85\u2028",
    "javascript:alert(1)",
    "]]><!--",
    "\udcff\ud800",
]


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []
        self.text = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def parsed(page):
    """(tags with attributes, all text) of a page."""
    parser = _Tags()
    parser.feed(page)
    parser.close()
    return parser.tags, "".join(parser.text)


def acting(page):
    """Characters of a page that do something else than show themselves."""
    kinds = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return {one for one in page if unicodedata.category(one) in kinds} - {"\n", "\t"}


def images_of(page):
    """Decoded pictures of a page, in order."""
    uris = [attrs["src"] for tag, attrs in parsed(page)[0] if tag == "img"]
    return [Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for uri in uris]


@pytest.fixture(scope="module")
def rows():
    return [row_of(photograph(name), f"{name}.jpg", f"this is {name}") for name in PHOTOGRAPHS[:3]]


def test_every_row_shows_its_image_its_map_its_caption_and_its_key(rows):
    page = render_preview(manifest_of({"train": rows}), rows)
    _, text = parsed(page)
    pictures = images_of(page)
    assert [picture.format for picture in pictures] == ["JPEG", "PNG"] * 3
    for row in rows:
        for value in (
            row["text"],
            row["key"],
            row["source"],
            "low 100",
            "256 \N{MULTIPLICATION SIGN} 256",
        ):
            assert value in text


def test_the_header_tells_rows_splits_rejects_and_source(rows):
    rejects = [reject("a.jpg", Reason.TRUNCATED), reject("b.jpg", Reason.NO_CAPTION, kind="text")]
    manifest = manifest_of({"train": rows[:2], "validation": rows[2:]}, rejects)
    _, text = parsed(render_preview(manifest, rows))
    for part in ("3 images with canny maps", "2 rows", "1 row", "1 image", "/data/photos"):
        assert part in text
    for reason in (Reason.TRUNCATED, Reason.NO_CAPTION):
        assert ADVICE[reason] in text


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words_for_a_person(reason):
    assert len(ADVICE[reason]) > 20


@pytest.mark.parametrize("evil", HOSTILE)
def test_nothing_that_came_from_data_becomes_markup(rows, evil):
    source = "ok" if "\ud800" in evil else evil  # a row's strings are valid UTF-8, a path is not
    text = "ok" if "\ud800" in evil else evil
    row = rows[0] | {"text": text, "source": source, "key": source, "caption_source": source}
    plain_tags = parsed(render_preview(manifest_of({"train": rows[:1]}), rows[:1]))[0]
    page = render_preview(manifest_of({"train": [row]}, source=evil), [row])
    tags, _ = parsed(page)
    assert [(tag, sorted(attrs)) for tag, attrs in tags] == [
        (tag, sorted(attrs)) for tag, attrs in plain_tags
    ]
    assert not acting(page)
    if evil.isprintable() and evil.isascii():
        assert html.escape(evil).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page


def test_nothing_is_fetched_from_anywhere(rows):
    tags, _ = parsed(page := render_preview(manifest_of({"train": rows}), rows))
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "base", "form"}
    for tag, attrs in tags:
        assert not any(name.startswith("on") or name == "href" for name in attrs)
        assert tag != "img" or attrs["src"].startswith("data:image/")
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_a_missing_map_is_said_and_not_drawn(rows):
    page = render_preview(manifest_of({"train": rows[:1]}), [without_map(rows[0])])
    assert len(images_of(page)) == 1
    assert "no map" in parsed(page)[1]
    assert "edge density" not in parsed(page)[1]


def test_a_row_without_a_caption_says_so(rows):
    page = render_preview(manifest_of({"train": rows[:1]}), [rows[0] | {"text": None}])
    assert "no caption" in parsed(page)[1]


def test_a_very_long_caption_is_cut_and_the_rest_is_counted(rows):
    page = render_preview(manifest_of({"train": rows}), [rows[0] | {"text": "x" * 10_000}])
    assert "x" * 1000 in page
    assert "x" * 1001 not in page
    assert "9,000 characters more" in parsed(page)[1]


def test_a_set_where_all_was_rejected_says_what_to_do():
    rejects = [reject(f"{n}.jpg", Reason.TOO_SMALL) for n in range(12)]
    _, text = parsed(render_preview(manifest_of({"train": []}, rejects), []))
    assert "No picture made it into this set: all 12 were rejected." in text
    assert ADVICE[Reason.TOO_SMALL] in text


def test_twenty_four_rows_of_noise_stay_under_a_megabyte_and_a_half():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    rows = [row_of(noise, "noise.jpg")] * 24
    page = render_preview(manifest_of({"train": rows}), rows)
    assert len(page) < 1_500_000
    assert len(images_of(page)) == 48


def test_tiny_pictures_share_the_width_of_the_page():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pages = {
        side: render_preview(manifest_of({"train": rows}), rows)
        for side in (64, 512)
        for rows in [[row_of(np.resize(noise, (side, side, 3)), "noise.jpg")]]
    }
    widths = {
        side: re.search(r"\.sheet .+minmax\(min\(100%, (\d+)px\)", pages[side])[1] for side in pages
    }
    assert widths == {64: "224", 512: "500"}  # four and two rows beside each other


def test_a_line_one_pixel_wide_is_still_bright_in_the_thumbnail():
    edges = np.zeros((1024, 1024), np.uint8)
    edges[:, 333] = 255
    thumbnail = np.asarray(Image.open(io.BytesIO(map_thumbnail(edges, 256, "bilevel"))))
    assert thumbnail.shape == (256, 256)
    assert thumbnail.max(axis=1).min() > 200


def test_the_same_rows_give_the_same_page(rows):
    manifest = manifest_of({"train": rows})
    assert render_preview(manifest, rows) == render_preview(manifest, rows)


@pytest.fixture(scope="module")
def of_every_kind():
    return [
        row_of_every_kind(photograph("astronaut"), "a.jpg", people=[person(18), person(5)]),
        row_of_every_kind(photograph("coffee"), "b.jpg", caption_source="blip", depth_flat=True),
    ]


def test_maps_of_every_kind_are_shown_with_their_numbers(of_every_kind):
    manifest = manifest_of({"train": of_every_kind}, annotators=EVERY_KIND)
    page = render_preview(manifest, of_every_kind)
    _, text = parsed(page)
    assert len(images_of(page)) == 2 * 7 - 1
    for words in ("people 2", "visible joints 23", "lines 2", "min 1.5", "max 11.5"):
        assert words in text
    assert "keypoints" not in text
    assert "joint 0" not in text
    assert text.count("flat") == 1  # said only of the flat one


def test_a_map_of_16_bits_is_as_bright_in_the_thumbnail_as_one_of_8():
    grey = photograph("coffee", 300)[..., 0].copy()
    deep = map_thumbnail((grey.astype(np.uint16) << 8) + (255 - grey), 128, "full")
    assert deep == map_thumbnail(grey, 128, "full")
    shown = np.asarray(Image.open(io.BytesIO(deep)))
    assert shown.dtype == np.uint8
    assert shown.mean() == pytest.approx(grey.mean(), abs=2)


@pytest.mark.parametrize("form", ["bilevel", "lines"])
def test_lines_are_never_shown_through_a_lossy_format(form):
    grey = photograph("coffee")[..., 0].copy()
    assert map_thumbnail(grey, 128, form).startswith(b"\x89PNG")
    assert map_thumbnail(grey, 128, "full").startswith(b"\xff\xd8")


def test_where_nobody_is_the_pose_says_so(of_every_kind):
    manifest = manifest_of({"train": of_every_kind}, annotators=EVERY_KIND)
    assert "nobody in the picture" in parsed(render_preview(manifest, of_every_kind))[1]


def test_where_maps_failed_nobody_is_told_apart_from_a_failure(of_every_kind):
    failed = [reject("c.jpg", Reason.OUT_OF_MEMORY, kind="pose", stage="pose")]
    manifest = manifest_of({"train": of_every_kind}, failed, annotators=EVERY_KIND)
    text = parsed(render_preview(manifest, of_every_kind))[1]
    assert "nobody in the picture" not in text
    assert "no map" in text


def test_the_captioner_is_named_and_each_caption_says_where_it_came_from(of_every_kind):
    manifest = manifest_of({"train": of_every_kind}, annotators=EVERY_KIND, captioner=CAPTIONED)
    _, text = parsed(render_preview(manifest, of_every_kind))
    assert "auto; model: Salesforce/blip-image-captioning-base" in text
    assert "caption: blip" in text
    assert "caption: sidecar" in text
