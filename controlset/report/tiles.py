"""Pictures of the page: small copies, with what they are and the score that they got."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from controlset.report.numbers import plain
from controlset.report.records import Evaluation, PictureView, Sample, read_rgb
from pipeline.output.pages import MapForm, data_uri, map_thumbnail, photo_jpeg
from schemas.errors import Rejected
from schemas.pixels import read_picture

_SIDE_PX = 224
_EACH = 3  # pictures that stand for the best, the middle and the worst
_LOSSLESS_PX = 96  # so small a picture is shown as it is, without blocks of JPEG


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One picture, or what is said in its place."""

    label: str
    run: str | None  # said where there are several
    uri: str | None
    tiny: bool
    instead: str
    score: str
    is_model: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A row of the data set."""

    key: str
    text: str
    left_out: int  # characters
    score: str
    tiles: Sequence[Tile]


def cards(
    pictures: Sequence[PictureView],
    *,
    short: Callable[[str], tuple[str, int]],
    places: int,
    full: bool = False,
) -> list[Card]:
    """One card for each picture.

    Args:
        pictures: what to show.
        short: cuts a caption and counts what it cut.
        places: decimals of scores.
        full: all runs and the sample without control; False: the first run alone.
    """
    shown = []
    for one in pictures:
        text, left_out = short(one.text)
        shown.append(
            Card(
                key=one.key,
                text=text,
                left_out=left_out,
                score=_score(one.score, places),
                tiles=_full(one, places) if full else _brief(one, places),
            )
        )
    return shown


def by_rank(found: Evaluation) -> list[tuple[str, list[PictureView]]]:
    """Pictures that were chosen by their score: best, middle and worst, each the best one first.

    As the document says; where it does not, by rank among those that it holds.
    """
    ranked = sorted(
        (one for one in found.pictures if one.score is not None),
        key=lambda one: -(one.score or 0) if found.headline.higher_is_better else one.score or 0,
    )
    said_so = {why: [one for one in ranked if one.why == why] for why in ("best", "median")}
    if all(said_so.values()):
        worst = [one for one in ranked if one.why == "worst"]
        groups = [said_so["best"][:_EACH], said_so["median"][:_EACH], worst[-_EACH:]]
    elif len(ranked) >= 3:
        each = min(_EACH, len(ranked) // 3)
        middle = (len(ranked) - each) // 2
        groups = [ranked[:each], ranked[middle : middle + each], ranked[-each:]]
    else:
        return [("all", ranked)] if ranked else []
    return [(n, g) for n, g in zip(("best", "median", "worst"), groups, strict=True) if g]


def in_order(pictures: Sequence[PictureView], limit: int) -> list[PictureView]:
    """The first pictures by key, one of each image: chosen by nobody."""
    firsts = [one for one in pictures if one.number == 0]
    return sorted(firsts, key=lambda one: one.key)[:limit]


def _brief(one: PictureView, places: int) -> list[Tile]:
    return [
        _map("condition", one.wanted),
        *_pair(one.models[:1], places),
        _photo("original", one.real),
    ]


def _full(one: PictureView, places: int) -> list[Tile]:
    floor = [
        _photo("no control", sample.picture, score=_score(sample.score, places))
        for sample in one.floors[:1]
    ]
    ends = [_photo("original", one.real), *floor]
    return [_map("condition", one.wanted), *_pair(one.models, places), *ends]


def _pair(samples: Sequence[Sample], places: int) -> list[Tile]:
    tiles = []
    for one in samples:
        run = one.run if len(samples) > 1 else None
        score = _score(one.score, places)
        tiles.append(_photo("sample", one.picture, score=score, run=run, is_model=True))
        nothing = "nothing found" if one.picture else "not here"
        tiles.append(_map("re-extracted", one.found, run=run, nothing=nothing))
    return tiles


def _score(score: float | None, places: int) -> str:
    return "" if score is None else plain(score, places)


def _photo(
    label: str,
    path: Path | None,
    *,
    score: str = "",
    run: str | None = None,
    is_model: bool = False,
) -> Tile:
    encoded = None if path is None else _encoded_photo(path)
    return _tile(label, path, encoded, "not here", score=score, run=run, is_model=is_model)


def _map(
    label: str, path: Path | None, *, run: str | None = None, nothing: str = "not here"
) -> Tile:
    encoded = None if path is None else _encoded_map(path)
    return _tile(label, path, encoded, nothing, score="", run=run, is_model=False)


def _tile(
    label: str,
    path: Path | None,
    encoded: tuple[bytes, bool] | None,
    nothing: str,
    *,
    score: str,
    run: str | None,
    is_model: bool,
) -> Tile:
    return Tile(
        label=label,
        run=run,
        uri=None if encoded is None else data_uri(encoded[0]),
        tiny=encoded is not None and encoded[1],
        instead=nothing if path is None else "cannot be read",
        score=score,
        is_model=is_model,
    )


def _encoded_photo(path: Path) -> tuple[bytes, bool] | None:
    """A small copy, and whether it is to be shown with its pixels."""
    rgb = read_rgb(path)
    if rgb is None:
        return None
    if max(rgb.shape[:2]) <= _LOSSLESS_PX:
        return map_thumbnail(rgb, _LOSSLESS_PX, "lines"), True
    return photo_jpeg(rgb, _SIDE_PX), False


def _encoded_map(path: Path) -> tuple[bytes, bool] | None:
    try:
        picture = read_picture(path)
        pixels = np.asarray(picture.convert("L" if picture.mode in {"1", "L"} else "RGB"))
    except (OSError, Rejected):
        return None
    return map_thumbnail(pixels, _SIDE_PX, _form(pixels)), max(pixels.shape[:2]) <= _LOSSLESS_PX


def _form(pixels: np.ndarray) -> MapForm:
    """How it may be made smaller: by what it looks like, since no record lies beside it."""
    if pixels.ndim == 2 and np.isin(pixels, (0, 255)).all():
        return "bilevel"
    return "lines" if pixels.mean() < 40 else "full"
