"""Findings in words: what is wrong, what it means for training, what to do."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.inspection.caption_flags import caption_flags
from pipeline.inspection.draft import AGAIN, Draft, wishes_for
from pipeline.inspection.map_flags import map_flags
from pipeline.inspection.measure import FLAT_DEVIATION, GREY_SPREAD
from pipeline.inspection.pixels import Pixels
from pipeline.inspection.records import Captions
from pipeline.inspection.scene_flags import scene_flags
from pipeline.inspection.small_columns import Scalars
from pipeline.inspection.summary import enlarged_rows
from pipeline.output.pages import percent, plural
from schemas.manifest import Manifest
from schemas.triple import BORDER_COLUMNS

_GREY_SHARE = 0.05
_REJECT_SHARE = 0.05
_ENLARGED_SHARE = 0.05
_EXACT_MEANING = (
    "A repeated picture weighs more than the others; ControlNet 1.0 was hurt by a few grey "
    "portraits, each repeated thousands of times."
)
_NEAR_MEANING = (
    "The same picture encoded again, resized, brightened or cut a little: it weighs twice."
)


def drafts(
    manifest: Manifest,
    scalars: Scalars,
    pixels: Pixels,
    *,
    copies: Sequence[Sequence[np.ndarray]],
    captions: Captions,
) -> list[Draft]:
    """All findings; what does harm comes first."""
    exact, near = copies
    found = [
        *duplicate_flags(exact, near, scalars),
        *map_flags(manifest.annotators, scalars, pixels),
        *scene_flags(manifest.annotators, scalars),
        *caption_flags(scalars, captions.openings),
        *picture_flags(pixels),
        *source_flags(pixels, enlarged_rows(scalars), scalars),
        *border_flags(scalars),
        *reject_flags(manifest.planned, manifest.rejected_images),
    ]
    return sorted(found, key=lambda draft: draft.severity != "fix")  # stable: else as above


def duplicate_flags(
    exact: Sequence[np.ndarray], near: Sequence[np.ndarray], scalars: Scalars
) -> Iterator[Draft]:
    """Leakage first, then copies; their groups are shown apart, so no examples here."""
    groups = [*exact, *near]
    leaking = [rows for rows in groups if scalars.crosses_splits(rows)]
    if leaking:
        yield Draft(
            name="leakage",
            severity="fix",
            title=f"{plural(len(leaking), 'picture')} in more than one split",
            count=sum(len(rows) for rows in leaking),
            of=scalars.rows,
            meaning="Validation on a picture that was trained on measures memory, not skill.",
            advice="Generate again with --keep-copies-together, or delete all but one of each (the "
            f"HTML report marks them), {AGAIN}.",
        )
    for name, kind, meaning, sets in (
        ("exact_duplicates", "an exact copy", _EXACT_MEANING, exact),
        ("near_duplicates", "a near copy", _NEAR_MEANING, near),
    ):
        extra = sum(len(rows) - 1 for rows in sets)
        if extra:
            yield Draft(
                name=name,
                severity="look",
                title=f"{plural(extra, 'image')} {'is' if extra == 1 else 'are'} {kind} of another",
                count=extra,
                of=scalars.rows,
                meaning=meaning,
                advice="Keep one of each group and delete the others from the source "
                f"(the HTML report lists them all), {AGAIN}.",
            )


def picture_flags(pixels: Pixels) -> Iterator[Draft]:
    """Pictures that show nothing: broken or flat."""
    if pixels.broken:
        yield Draft(
            name="broken_images",
            severity="fix",
            title=f"{plural(len(pixels.broken), 'stored image')} that cannot be decoded",
            count=len(pixels.broken),
            of=pixels.measured,
            meaning="The data set is damaged; training would stop there.",
            advice="Run controlset verify to find the shard, delete it, and generate again.",
            wishes=wishes_for(pixels.broken),
        )
    flat = pixels.rows[pixels.deviation < FLAT_DEVIATION]
    if len(flat):
        yield Draft(
            name="flat_images",
            severity="look",
            title=f"{plural(len(flat), 'image')} of one flat tone",
            count=len(flat),
            of=pixels.measured,
            meaning="There is nothing to see: blank scans, placeholders of dead links.",
            advice=f"Delete them from the source, {AGAIN}.",
            wishes=wishes_for(flat),
        )


def source_flags(pixels: Pixels, enlarged: np.ndarray, scalars: Scalars) -> Iterator[Draft]:
    """Pictures without colour, pictures that were too small."""
    grey = pixels.rows[(pixels.spread < GREY_SPREAD) & (pixels.deviation >= FLAT_DEVIATION)]
    if len(grey) > _GREY_SHARE * pixels.measured:
        yield Draft(
            name="grey_images",
            severity="look",
            title=f"{plural(len(grey), 'image')} without colour",
            count=len(grey),
            of=pixels.measured,
            meaning="A ControlNet trained on many of them paints grey pictures.",
            advice="Leave most of them out, or say black and white in their captions.",
            wishes=wishes_for(grey),
        )
    if len(enlarged) > _ENLARGED_SHARE * scalars.rows:
        yield Draft(
            name="enlarged_images",
            severity="look",
            title=f"{plural(len(enlarged), 'image')} enlarged from smaller ones",
            count=len(enlarged),
            of=scalars.rows,
            meaning="Enlarged pictures are soft, and softness is learned.",
            advice="Raise --min-side, or lower --resolution.",
            wishes=wishes_for(enlarged),
        )


def border_flags(scalars: Scalars) -> Iterator[Draft]:
    """Pictures that were padded, and how much of them is border."""
    numbers = scalars.numbers
    if not set(BORDER_COLUMNS) <= numbers.keys():
        return
    left, top, right, bottom = (numbers[name] for name in BORDER_COLUMNS)
    inside = (numbers["width"] - left - right) * (numbers["height"] - top - bottom)
    share = 1 - inside / (numbers["width"] * numbers["height"])
    order = np.argsort(-share, kind="stable")
    padded = order[: int((share > 0).sum())]
    if len(padded):
        yield Draft(
            name="padded_images",
            severity="look",
            title=f"{plural(len(padded), 'image')} with a border",
            count=len(padded),
            of=scalars.rows,
            meaning=f"{percent(float(np.median(share[padded])))} of such an image is border "
            f"(median; at most {percent(float(share[padded[0]]))}), and the model learns to paint "
            "it; maps show nothing there.",
            advice="--fit crop or bucket has no borders; or choose another --pad-color.",
            wishes=wishes_for(padded),
        )


def reject_flags(planned: int, rejected: int) -> Iterator[Draft]:
    """Many pictures lost."""
    if rejected > _REJECT_SHARE * planned:
        yield Draft(
            name="many_rejects",
            severity="look",
            title=f"{plural(rejected, 'image')} of the source rejected",
            count=rejected,
            of=planned,
            meaning="What is left may not be what you meant to train on.",
            advice="The reasons are listed below, each with examples.",
        )
