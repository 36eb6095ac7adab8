"""Maps of the user's own as another column: files found by the names of the rows' pictures."""

import itertools
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from annotators.registry import is_imported
from pipeline.batch import import_map
from pipeline.images.decode import scale_of
from pipeline.images.geometry import Geometry, plan_geometry, smallest_useful_size
from pipeline.images.imported_maps import PEEKED, ImportedCondition, imports_of
from pipeline.sources import SourceKind, SourceSpec, names
from pipeline.sources.pairs import place_of, read_maps
from pipeline.sources.resolve import root_of
from pipeline.sources.spec import Pairing, parse_pairings
from schemas.dataset import open_dataset
from schemas.errors import ConfigError, Rejected
from schemas.manifest import Manifest
from schemas.records import ImageRef, Place, RejectRow

_JPEGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}
_SCALES = (1, 2, 4, 8)  # that a JPEG may have been divided by


def resolve_imported(
    asked: Sequence[str], conditions: Sequence[str], old: Manifest, folder: str
) -> tuple[SourceSpec, tuple[ImportedCondition, ...]]:
    """Find the first maps; a condition that the set has from the same place is left out.

    Args:
        asked: `NAME=TEMPLATE` each; relative ones to the set's source.
        conditions: that annotators draw in the same run.
        old: the set's manifest.
        folder: of the set.

    Returns:
        Where to look for maps, and what they are like.

    Raises:
        ConfigError: another form, a name that is taken, a template that is the same file for two
            pictures, a source that is not there, or none of the first rows has a map.
    """
    pairings = tuple(
        one for one in parse_pairings(asked, conditions) if not _is_there(one, old, folder)
    )
    for pairing in pairings:
        if pairing.column is not None:
            raise ConfigError(
                f"--import-condition {pairing.condition}={pairing.where}: need a template of files "
                "for a set that exists, e.g. maps/{name}.png, got a column; generate the set anew"
            )
    spec = SourceSpec(
        root=_root(pairings, old.source),
        kind=SourceKind.IMAGES,
        selections=(),
        pairings=pairings,
    )
    if not pairings:
        return spec, ()
    first = _first_sources(folder)
    for pairing in pairings:
        _check_apart(pairing, first)
    most = old.recipe.get("max_pixels", _MAX_PIXELS)
    found = (_maps_of(source, spec) for source in first)
    return spec, imports_of(pairings, found, max_pixels=most)


_MAX_PIXELS = 100_000_000


def add_imported(
    rows: Sequence[dict[str, Any]],
    imports: Sequence[ImportedCondition],
    spec: SourceSpec,
    recipe: Mapping[str, Any],
) -> list[RejectRow]:
    """Add the columns of imported conditions to rows, cut as their images were.

    Args:
        rows: as stored; changed in place.
        imports: from `resolve_imported`.
        spec: likewise.
        recipe: of the set.

    Returns:
        One reject for each map that is null.
    """
    rejects: list[RejectRow] = []
    most = recipe.get("max_pixels", _MAX_PIXELS)
    for row in rows if imports else ():
        geometry, decoded = geometry_of(row, recipe)
        found = _maps_of(row["source"], spec)
        for condition in imports:
            raw = found.get(condition.name)
            rejects += import_map(row, raw, condition, geometry, decoded, most)
    return rejects


def geometry_of(
    row: Mapping[str, Any], recipe: Mapping[str, Any]
) -> tuple[Geometry, tuple[int, int]]:
    """How a stored image was cut, and the size in px that it was decoded to before.

    A JPEG may have been decoded at a part of its size; which one is not stored, but follows from
    its name and the crop.

    Raises:
        ConfigError: the row is not what the recipe makes of such a picture.
    """
    fit, resolution = recipe.get("fit", "crop"), recipe.get("resolution", 512)
    full = width, height = row["original_width"], row["original_height"]
    useful = smallest_useful_size(width, height, resolution=resolution, fit=fit)
    is_jpeg = names.split_suffix(row["source"])[1] in _JPEGS
    for scale in dict.fromkeys((scale_of(full, useful) if is_jpeg else 1, *_SCALES)):
        decoded = -(-width // scale), -(-height // scale)
        geometry = plan_geometry(*decoded, resolution=resolution, fit=fit)
        told = (geometry.width, geometry.height, geometry.crop_x, geometry.crop_y)
        if told == (row["width"], row["height"], row["crop_x"], row["crop_y"]):
            return geometry, decoded
    raise ConfigError(
        f"row {row['key']}: need the crop that --fit {fit} --resolution {resolution} gives a "
        f"picture of {width}x{height} px, got another; run `controlset verify`"
    )


def _is_there(pairing: Pairing, old: Manifest, folder: str) -> bool:
    """Whether the set has it from the same place; refused where it has it from another."""
    record = old.annotators.get(pairing.condition)
    if record is None:
        return False
    theirs = record["parameters"]["imported"] if is_imported(record) else "an annotator"
    if theirs != pairing.where:
        raise ConfigError(
            f"{folder}: holds {pairing.condition} of {theirs} (now {pairing.where}); "
            "take another name, or generate another data set"
        )
    return True


def _root(pairings: Sequence[Pairing], source: str) -> str:
    """What templates are relative to; absolute ones do not need the source."""
    if all(posixpath.isabs(one.where) or "://" in one.where for one in pairings):
        return "/"
    try:
        return root_of(source)
    except ConfigError as error:
        first = next(one for one in pairings if not posixpath.isabs(one.where))
        raise ConfigError(
            f"--import-condition {first.condition}={first.where}: need the set's source, which it "
            f"is relative to, got: {error}; give the template with its whole path"
        ) from None


def _first_sources(folder: str) -> list[str]:
    batches = open_dataset(folder).batches(["source"], batch_rows=PEEKED)
    cells: Iterator[str] = itertools.chain.from_iterable(
        batch.column("source").to_pylist() for batch in batches
    )
    return list(itertools.islice(cells, PEEKED))


def _check_apart(pairing: Pairing, sources: Sequence[str]) -> None:
    """Refuse a template that is one file for several pictures, as for rows of one Parquet file."""
    by_path: dict[str, str] = {}
    for source in sources:
        path = pairing.path_of(source)
        other = by_path.setdefault(path, source)
        if other != source:
            raise ConfigError(
                f"--import-condition {pairing.condition}={pairing.where}: need another file for "
                f"each picture, got {path} for {other} and {source}; use {{stem}} or {{folder}}"
            )


def _maps_of(source: str, spec: SourceSpec) -> dict[str, bytes | Rejected]:
    """Condition -> bytes of a row's condition image, or why there are none."""
    places = (
        (one.condition, place_of(posixpath.join(spec.root, one.path_of(source))))
        for one in spec.pairings
    )
    ref = ImageRef(key="", source=source, place=Place(uri=""), maps=tuple(places))
    return read_maps(ref, spec)
