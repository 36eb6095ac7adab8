"""Findings in words: what is wrong, what it means for training, what to do."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.inspection.measure import LEAK_LIMIT, Pixels
from pipeline.inspection.records import Captions, Flag, Member, Severity
from pipeline.inspection.small_columns import REPETITION_LIMIT, TOKEN_LIMIT, People, Scalars
from pipeline.output.pages import percent, plural
from schemas.manifest import Manifest
from schemas.triple import BORDER_COLUMNS

EXAMPLES = 6
"""Members of a group, or examples of a flag, that get a thumbnail."""

AGAIN = "then run controlset generate again"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShownRow:
    """A row to show, and the condition whose map belongs to it."""

    row: int
    condition: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Draft(Flag):
    """A flag whose examples are still row numbers."""

    to_show: Sequence[ShownRow] = ()

    def flag(self, members: Mapping[ShownRow, Member]) -> Flag:
        """The flag, once its examples were looked up."""
        known = {field.name: getattr(self, field.name) for field in dataclasses.fields(Flag)}
        known["examples"] = [members[asked] for asked in self.to_show]
        return Flag(**known)


def _of_rows(
    *,
    name: str,
    title: str,
    rows: Sequence[int] | np.ndarray,
    of: int,
    meaning: str,
    advice: str,
    severity: Severity = "look",
    threshold: float | None = None,
    condition: str | None = None,
    about_text: bool = False,
) -> Draft:
    """A finding about rows, of which the first few are its examples."""
    return Draft(
        name=name,
        severity=severity,
        title=title,
        count=len(rows),
        of=of,
        meaning=meaning,
        advice=advice,
        threshold=threshold,
        about_text=about_text,
        to_show=rows_to_show(rows, condition),
    )


def rows_to_show(rows: Sequence[int] | np.ndarray, condition: str | None = None) -> list[ShownRow]:
    """The first few rows, to be shown with their map of a condition if one is named."""
    return [ShownRow(row=int(row), condition=condition) for row in rows[:EXAMPLES]]


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
        *source_flags(pixels, scalars.enlarged, scalars),
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
        yield _of_rows(
            name="broken_images",
            severity="fix",
            title=f"{plural(len(pixels.broken), 'stored image')} that cannot be decoded",
            rows=pixels.broken,
            of=len(pixels.measured),
            meaning="The data set is damaged; training would stop there.",
            advice="Run controlset verify to find the shard, delete it, and generate again.",
        )
    flat = pixels.rows[pixels.is_flat]
    if len(flat):
        yield _of_rows(
            name="flat_images",
            title=f"{plural(len(flat), 'image')} of one flat tone",
            rows=flat,
            of=len(pixels.measured),
            meaning="There is nothing to see: blank scans, placeholders of dead links.",
            advice=f"Delete them from the source, {AGAIN}.",
        )


def source_flags(pixels: Pixels, enlarged: np.ndarray, scalars: Scalars) -> Iterator[Draft]:
    """Pictures without colour, pictures that were too small."""
    grey = pixels.rows[pixels.is_grey]
    if len(grey) > _GREY_SHARE * len(pixels.measured):
        yield _of_rows(
            name="grey_images",
            title=f"{plural(len(grey), 'image')} without colour",
            rows=grey,
            of=len(pixels.measured),
            meaning="A ControlNet trained on many of them paints grey pictures.",
            advice="Leave most of them out, or say black and white in their captions.",
        )
    if len(enlarged) > _ENLARGED_SHARE * scalars.rows:
        yield _of_rows(
            name="enlarged_images",
            title=f"{plural(len(enlarged), 'image')} enlarged from smaller ones",
            rows=enlarged,
            of=scalars.rows,
            meaning="Enlarged pictures are soft, and softness is learned.",
            advice="Raise --min-side, or lower --resolution.",
        )


def border_flags(scalars: Scalars) -> Iterator[Draft]:
    """Pictures that were padded, and how much of them is border."""
    numbers = scalars.numbers
    # Only sets of --fit pad have these columns.
    if not set(BORDER_COLUMNS) <= numbers.keys():
        return
    left, top, right, bottom = (numbers[name] for name in BORDER_COLUMNS)
    inside = (numbers["width"] - left - right) * (numbers["height"] - top - bottom)
    share = 1 - inside / (numbers["width"] * numbers["height"])
    order = np.argsort(-share, kind="stable")
    padded = order[: int((share > 0).sum())]
    if len(padded):
        yield _of_rows(
            name="padded_images",
            title=f"{plural(len(padded), 'image')} with a border",
            rows=padded,
            of=scalars.rows,
            meaning=f"{percent(float(np.median(share[padded])))} of such an image is border "
            f"(median; at most {percent(float(share[padded[0]]))}), and the model learns to paint "
            "it; maps show nothing there.",
            advice="--fit crop or bucket has no borders; or choose another --pad-color.",
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


# Maps of any kind ---------------------------------------------------------------------------------

BLANK_SHARE = 0.001
"""A map with fewer pixels that are not zero is blank, and so is one of a single tone."""

_DENSITY_LIMITS = (0.005, 0.35)
_SCRIBBLE_LIMITS = (0.005, 0.5)  # thick lines: up to 32 % on 17 photographs
_LINE_LIMITS = (0.002, 0.2)  # one px wide, and of straight things only
_MANY_LEAKS = 0.05
_SPARSE_MEANING = "There is hardly anything to follow: flat, dark or blurred pictures."
_DENSE_MEANING = "Edges everywhere say little: noise, foliage, strong JPEG compression."
_THRESHOLDS = {"canny": "--canny-thresholds", "mlsd": "--mlsd-thresholds"}


def density_limits(name: str, record: Mapping[str, Any]) -> tuple[float, float] | None:
    """Edge densities between which nothing stands out; None for maps without edges."""
    if "edge_density" not in record.get("stats", {}):
        return None
    if name == "mlsd":
        return _LINE_LIMITS
    scribbled = record["parameters"].get("mode") == "scribble"
    return _SCRIBBLE_LIMITS if scribbled else _DENSITY_LIMITS


def map_flags(annotators: Mapping[str, Any], scalars: Scalars, pixels: Pixels) -> Iterator[Draft]:
    """Blank and missing maps, edge density out of range, shading that leaks into soft edges."""
    for index, (name, record) in enumerate(annotators.items()):
        flat = scalars.numbers.get(f"{name}_flat", np.zeros(0))
        # A map of flat depth is black, too, and has a finding of its own.
        blank = sorted(set(pixels.blank(index)) - set(np.flatnonzero(flat == 1).tolist()))
        if blank:
            yield _blank_maps(name, record, blank, len(pixels.map_bytes(index)))
        missing = np.flatnonzero(scalars.missing[name])
        if len(missing):
            yield _missing_flag(name, missing, scalars)
        limits = density_limits(name, record)
        if limits is not None:
            yield from _density_flags(name, scalars.numbers[f"{name}_edge_density"], limits)
        yield from _leak_flags(name, *pixels.leaks(index))


def _blank_maps(name: str, record: Mapping[str, Any], blank: list[int], measured: int) -> Draft:
    wanted = bool(record["parameters"].get("keep_empty"))  # asked for: nobody, so a black map
    change = " or change the thresholds" if name in _THRESHOLDS else ""
    return _of_rows(
        name=f"blank_{name}",
        severity="look" if wanted else "fix",
        title=f"{plural(len(blank), f'{name} map')} with next to nothing in "
        f"{'it' if len(blank) == 1 else 'them'}",
        rows=blank,
        of=measured,
        threshold=BLANK_SHARE,
        meaning="Nobody is in these pictures, and --keep-empty-pose keeps their maps."
        if wanted
        else "An empty hint beside a full picture teaches the ControlNet to ignore it.",
        advice="Nothing to do if they are few; many teach the ControlNet to ignore the hint."
        if wanted
        else f"Delete these pictures from the source{change}, {AGAIN}.",
        condition=name,
    )


def _missing_flag(name: str, missing: np.ndarray, scalars: Scalars) -> Draft:
    people = name in scalars.people
    return _of_rows(
        name=f"missing_{name}",
        title=f"{plural(len(missing), 'row')} "
        + ("with nobody to draw" if people else f"without a {name} map"),
        rows=missing,
        of=scalars.rows,
        meaning="The annotator found nothing; training on this condition leaves them out.",
        advice="Nothing to do if that is right. The rejects table says why, row by row.",
    )


def _density_flags(name: str, density: np.ndarray, limits: tuple[float, float]) -> Iterator[Draft]:
    known = int(np.isfinite(density).sum())
    order = np.argsort(density)  # NaN last
    low = order[: int((density < limits[0]).sum())]
    high = order[:known][::-1][: int((density > limits[1]).sum())]
    option = _THRESHOLDS.get(name)
    for kind, rows, beyond, limit, change, meaning in (
        ("sparse", low, "under", limits[0], "Lower", _SPARSE_MEANING),
        ("dense", high, "over", limits[1], "Raise", _DENSE_MEANING),
    ):
        if len(rows):
            yield _of_rows(
                name=f"{kind}_{name}",
                title=f"{plural(len(rows), f'{name} map')} with {beyond} {percent(limit)} edges",
                rows=rows,
                of=known,
                threshold=limit,
                meaning=meaning,
                advice="Delete these pictures from the source, if they are many."
                if option is None
                else f"{change} {option}, or delete these pictures from the source.",
                condition=name,
            )


def _leak_flags(name: str, rows: np.ndarray, leaks: np.ndarray) -> Iterator[Draft]:
    order = np.argsort(-leaks, kind="stable")
    leaking = rows[order[: int((leaks >= LEAK_LIMIT).sum())]]
    if len(leaking):
        yield _of_rows(
            name=f"leak_{name}",
            severity="fix" if len(leaking) > _MANY_LEAKS * len(rows) else "look",
            title=f"{plural(len(leaking), f'{name} map')} through which the shading can be read",
            rows=leaking,
            of=len(rows),
            threshold=LEAK_LIMIT,
            meaning="Outside of its edges such a map is a dim copy of the picture; a ControlNet "
            "learns to brighten that up instead of painting.",
            advice=f"Use --{name}-mode safe, which leaves three levels of grey, {AGAIN}.",
            condition=name,
        )


# Depth and people ---------------------------------------------------------------------------------

NARROW_RANGE = 0.05
"""Of the set's median range. A map is stretched over its own range, so a wall's noise looks as deep
as a street."""

FEW_JOINTS = 4
"""Of 18. With fewer there is no limb pair left that says how a person stands."""


def scene_flags(annotators: Mapping[str, Any], scalars: Scalars) -> Iterator[Draft]:
    """Flat and narrow depth, people of whom next to nothing was seen."""
    for name in annotators:
        if name == "depth":
            yield from _depth_flags(name, scalars)
        if name in scalars.people:
            yield from _people_flags(name, scalars.people[name])


def depth_range(name: str, numbers: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Largest minus smallest raw value of each row; None where the annotator tells neither."""
    low, high = numbers.get(f"{name}_min"), numbers.get(f"{name}_max")
    return None if low is None or high is None else high - low


def _depth_flags(name: str, scalars: Scalars) -> Iterator[Draft]:
    known = scalars.rows - int(scalars.missing[name].sum())
    is_flat = scalars.numbers.get(f"{name}_flat", np.zeros(scalars.rows)) == 1
    flat = np.flatnonzero(is_flat)
    if len(flat):
        yield _of_rows(
            name=f"flat_{name}",
            severity="fix",
            title=f"{plural(len(flat), f'{name} map')} without any range",
            rows=flat,
            of=known,
            meaning="The network saw one distance everywhere; the map is black.",
            advice=f"Delete these pictures from the source, {AGAIN}.",
            condition=name,
        )
    ranges = depth_range(name, scalars.numbers)
    if ranges is None or not np.isfinite(ranges[~is_flat]).any():
        return
    limit = NARROW_RANGE * float(np.nanmedian(ranges[~is_flat]))
    order = np.argsort(ranges)  # NaN last
    narrow = [row for row in order[: int((ranges < limit).sum())] if not is_flat[row]]
    if narrow:
        yield _of_rows(
            name=f"narrow_{name}",
            title=f"{plural(len(narrow), f'{name} map')} with under a twentieth of the usual range",
            rows=narrow,
            of=known,
            threshold=limit,
            meaning="A map is stretched over its own range: in a scene without depth it shows the "
            "network's noise.",
            advice="Look at them; delete flat scenes (walls, pages, skies) from the source.",
            condition=name,
        )


def _people_flags(name: str, people: People) -> Iterator[Draft]:
    few = people.joints < FEW_JOINTS
    if few.any():
        rows = people.rows[np.argsort(people.joints, kind="stable")[: int(few.sum())]]
        count = int(few.sum())
        yield Draft(
            name=f"few_joints_{name}",
            severity="look",
            title=f"{count:,} {'person' if count == 1 else 'people'} with fewer than "
            f"{FEW_JOINTS} joints",
            count=count,
            of=len(people.joints),
            threshold=FEW_JOINTS,
            meaning="An ear and a shoulder tell no pose: people cut off, hidden or made up.",
            advice="Nothing to do if they are few. pose_visible_joints lets a reader leave them "
            "out.",
            # Several such people may be in one picture, which is shown once.
            to_show=rows_to_show(list(dict.fromkeys(rows.tolist())), name),
        )


# Captions -----------------------------------------------------------------------------------------

_REPEAT_SHARE = 0.05
_OPENING_SHARE = 0.5
_OPENING_ROWS = 10  # fewer may begin alike by chance


def caption_flags(scalars: Scalars, openings: Sequence[tuple[str, int]]) -> Iterator[Draft]:
    """Missing, long, looping and monotonous captions."""
    captions, present = scalars.captions, scalars.captions.present
    if captions.missing:
        yield _of_rows(
            name="no_caption",
            title=f"{plural(len(captions.missing), 'row')} without a caption",
            rows=captions.missing,
            of=scalars.rows,
            meaning="They can teach structure only; some trainers stop at a null caption.",
            advice="Add caption files beside the pictures, or let --caption fixed give them one.",
        )
    if captions.loops:
        yield _of_rows(
            name="caption_loops",
            severity="fix",
            title=f"{plural(len(captions.loops), 'caption')} with words in a loop",
            rows=captions.loops,
            of=present,
            meaning="Captioning models get stuck: the same words follow each other three times.",
            advice=f"Caption these pictures again, with a repetition penalty, {AGAIN}.",
            about_text=True,
        )
    if captions.repetitive:
        yield _of_rows(
            name="repetitive_captions",
            title=f"{plural(len(captions.repetitive), 'caption')} of {captions.model} that "
            f"{'repeats its' if len(captions.repetitive) == 1 else 'repeat their'} words",
            rows=captions.repetitive,
            of=captions.written_by_model(),
            threshold=REPETITION_LIMIT,
            meaning="Where a model sees little it says the same thing twice.",
            advice="Look at them; a larger --caption-model repeats itself less.",
            about_text=True,
        )
    if captions.long:
        yield _of_rows(
            name="long_captions",
            title=f"{plural(len(captions.long), 'caption')} of more than {TOKEN_LIMIT} tokens "
            "(estimated)",
            rows=captions.long,
            of=present,
            threshold=TOKEN_LIMIT,
            meaning="CLIP's text encoder cuts there: what comes later has no effect.",
            advice="Put what matters first, or shorten them.",
            about_text=True,
        )
    yield from _monotony_flags(scalars, present, openings)


def _monotony_flags(
    scalars: Scalars, present: int, openings: Sequence[tuple[str, int]]
) -> Iterator[Draft]:
    repeats = scalars.captions.most_repeated()
    if repeats and repeats[0][1] > _REPEAT_SHARE * present:
        row, count = repeats[0]
        yield Draft(
            name="repeated_caption",
            severity="look",
            title=f"One caption stands beside {count:,} images",
            count=count,
            of=present,
            meaning="A text that says the same of every picture tells no more than none.",
            advice="Intended with --caption fixed; otherwise look where the captions come from.",
            to_show=rows_to_show([row]),
            about_text=True,
        )
    if openings and openings[0][1] > max(_OPENING_SHARE * present, _OPENING_ROWS):
        words, count = openings[0]
        yield Draft(
            name="same_opening",
            severity="look",
            title=f"{plural(count, 'caption')} begin with \N{LEFT DOUBLE QUOTATION MARK}{words}"
            "\N{RIGHT DOUBLE QUOTATION MARK}",
            count=count,
            of=present,
            meaning="Prompts that begin otherwise will be unfamiliar to the ControlNet.",
            advice="Cut the common opening off, or mix captions from another source.",
        )
