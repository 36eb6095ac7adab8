"""The contact sheet of a data set: a few rows with their maps, as one HTML file."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.output.pages import (
    data_uri,
    form_of,
    map_thumbnail,
    photo_jpeg,
    shortened,
    stat_texts,
    templates,
)
from pipeline.progress import advice_for
from schemas.errors import Reason
from schemas.manifest import Manifest
from schemas.pixels import MapU8, MapU16, RgbU8, decode_stored_map, decode_stored_rgb, of_row

_BUDGET_BYTES = 1_000_000
"""Of all thumbnails together; a third more as base64."""

_SIDES_PX = (256, 208, 168, 136, 112, 88, 64)
_TEXT_LIMIT = 1000
_MOST_COLUMNS = 5
_TINY = 0.5  # a thumbnail below this share of the tile is shown as crisp squares
_TILE_PX, _SMALL_TILE_PX = 250, 112  # width of a tile, and where all pictures are tiny

_FAILURES = frozenset(
    {Reason.ANNOTATOR_FAILED, Reason.OUT_OF_MEMORY, Reason.NOT_FINITE, Reason.BAD_MAP}
)
"""Reasons for which a row may lack a map, beside that there is nothing to draw."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Tile:
    label: str
    uri: str | None  # None: there is no map
    kind: str  # photo, bilevel, lines or full
    stats: Sequence[str]
    is_tiny: bool = False
    instead: str = ""  # what is said where there is no map


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Card:
    key: str
    source: str
    text: str | None
    left_out: int  # characters of the caption that are not shown
    caption_source: str | None
    width: int
    height: int
    original: str  # size of the source picture
    tiles: Sequence[_Tile]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Decoded:
    """One row's pixels, decoded once even if the thumbnails must be made smaller."""

    row: Mapping[str, Any]
    image: RgbU8
    maps: Mapping[str, MapU8 | MapU16 | RgbU8 | None]


def render_preview(manifest: Manifest, rows: Sequence[Mapping[str, Any]]) -> str:
    """Contact sheet that shows whether image, maps and caption belong together.

    Args:
        manifest: of the whole data set; everything above the pictures comes from it.
        rows: a few rows as `schemas.dataset.Dataset.row` gives them.

    Returns:
        HTML of under 1.5 MB without script or outside addresses; many rows get smaller thumbnails.

    Cost: 0.6 s for 24 rows of 512x512 with one Canny map (measured 2026-11-23, AMD EPYC).
    """
    conditions = list(manifest.annotators)
    columns = _columns(len(conditions) + 1)
    decoded = [_decode(row, conditions) for row in rows]
    return (
        templates()
        .get_template("preview.html.j2")
        .render(
            manifest=manifest,
            captions=captions_text(manifest),
            columns=columns,
            sheet_px=columns * _tile_px(decoded),
            conditions=conditions,
            splits=manifest.rows_of_splits,
            rejects=reject_lines(manifest),
            stored_size=stored_size(manifest.recipe),
            cards=_cards_within_budget(decoded, manifest),
        )
    )


def reject_lines(manifest: Manifest) -> list[tuple[str, int, str]]:
    """(reason, rows, what to do) of every reason that occurred, most frequent first."""
    return [(reason, count, advice_for(reason)) for reason, count in manifest.reasons.items()]


def captions_text(manifest: Manifest) -> str:
    """Where captions come from, with the model that wrote some of them."""
    mode = str(manifest.recipe.get("caption", "not recorded"))
    if manifest.captioner is None:
        return mode
    model = manifest.captioner["parameters"].get("model")
    return f"{mode}; model: {model or manifest.captioner['name']}"


def stored_size(recipe: Mapping[str, Any]) -> str:
    """Size of the stored images in words, e.g. `512 px, centre crop`."""
    fits = {
        "crop": "{0} x {0} px, centre crop",
        "pad": "{0} x {0} px, padded with {1}",
        "stretch": "{0} x {0} px, stretched",
        "bucket": "aspect buckets of about {0} x {0} px",
    }
    if "resolution" not in recipe:
        return "not recorded"
    words = fits.get(str(recipe.get("fit")), "{0} px").format(
        recipe["resolution"], recipe.get("pad_color", "white")
    )
    return words.replace(" x ", " \N{MULTIPLICATION SIGN} ")


def _decode(row: Mapping[str, Any], conditions: Sequence[str]) -> _Decoded:
    stored = {name: row.get(name) for name in conditions}
    with of_row(f"row {row['key']}"):
        return _Decoded(
            row=row,
            image=decode_stored_rgb(row["image"]["bytes"]),
            maps={
                name: None if cell is None else decode_stored_map(cell["bytes"])
                for name, cell in stored.items()
            },
        )


def _cards_within_budget(decoded: Sequence[_Decoded], manifest: Manifest) -> Sequence[_Card]:
    """Cards with the largest thumbnails that fit; the smallest ones if none do."""
    cards: list[_Card] = []
    for side in _SIDES_PX:
        cards = [_card(row, manifest, side) for row in decoded]
        embedded = sum(len(tile.uri or "") for card in cards for tile in card.tiles)
        if embedded * 3 / 4 <= _BUDGET_BYTES:  # base64 spells three bytes in four characters
            break
    return cards


def _card(decoded: _Decoded, manifest: Manifest, side: int) -> _Card:
    row = decoded.row
    text = row.get("text")
    shown, left_out = (None, 0) if text is None else shortened(text, _TEXT_LIMIT)
    height, width = decoded.image.shape[:2]
    return _Card(
        key=row["key"],
        source=row.get("source") or "",
        text=shown,
        left_out=left_out,
        caption_source=row.get("caption_source"),
        width=width,
        height=height,
        original=_size(row["original_width"], row["original_height"])
        if row.get("original_width")
        else "",
        tiles=list(_tiles(decoded, manifest, side)),
    )


def _size(width: int, height: int) -> str:
    return f"{width} \N{MULTIPLICATION SIGN} {height}"


def _tiles(decoded: _Decoded, manifest: Manifest, side: int) -> Iterator[_Tile]:
    is_tiny = max(decoded.image.shape) < _TINY * side
    photo = data_uri(photo_jpeg(decoded.image, side))
    height, width = decoded.image.shape[:2]
    yield _Tile(
        label="image", uri=photo, kind="photo", stats=(_size(width, height),), is_tiny=is_tiny
    )
    for name, pixels in decoded.maps.items():
        record = manifest.annotators[name]
        form = form_of(record)
        values = {suffix: decoded.row.get(f"{name}_{suffix}") for suffix in record["stats"]}
        yield _Tile(
            label=name,
            uri=None if pixels is None else data_uri(map_thumbnail(pixels, side, form)),
            kind=form,
            stats=stat_texts(record, values),
            is_tiny=is_tiny,
            instead=_instead(record, manifest),
        )


def _instead(record: Mapping[str, Any], manifest: Manifest) -> str:
    """Why there is no map: nobody to draw, unless some maps of this set failed otherwise."""
    looks_for_people = "people" in record["stats"].values()
    if looks_for_people and not _FAILURES & manifest.reasons.keys():
        return "nobody in the picture"
    return "no map"


def _tile_px(decoded: Sequence[_Decoded]) -> int:
    """A row of tiny pictures over the whole page would put the next ones far below."""
    sides = [max(row.image.shape) for row in decoded]
    return _SMALL_TILE_PX if max(sides, default=0) < _TINY * _TILE_PX else _TILE_PX


def _columns(tiles: int) -> int:
    """Tiles beside each other: as many as have room, with as few gaps in the last row as can be."""
    if tiles <= _MOST_COLUMNS:
        return tiles
    return min((5, 4, 3), key=lambda columns: (-tiles % columns, -columns))
