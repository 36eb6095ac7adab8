"""Reads a data set and draws the conclusions."""

from collections.abc import Callable

from pipeline.inspection.duplicates import find_duplicates
from pipeline.inspection.examples import as_groups, group_wishes, name_members, show_members
from pipeline.inspection.findings import drafts
from pipeline.inspection.pixels import Pixels, read_pixels
from pipeline.inspection.records import Duplicates, Inspection
from pipeline.inspection.small_columns import Scalars, read_scalars
from pipeline.inspection.summary import summary
from schemas.dataset import Dataset, check_at_rest, open_dataset


def inspect_dataset(
    path: str,
    *,
    sample: int | None = None,
    workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Measure a data set and say what is wrong with it.

    Counts, captions, statistics and copies by source are of all rows; what needs pixels is of the
    sample, if one is asked for.

    Args:
        path: folder or URI of a complete data set.
        sample: decode about so many rows, spread evenly; None decodes all.
        workers: threads that decode.
        on_progress: called with (rows decoded, rows to decode).

    Returns:
        All findings; the same for any number of workers.

    Raises:
        ConfigError: not a complete data set.

    Cost: 690 rows a second on two cores, 512x512 JPEG with a Canny map, 1,213 rows; memory holds
    hashes and numbers of every row and a few batches of pictures (measured 2026-11-23, AMD EPYC).
    """
    check_at_rest(path)
    dataset = open_dataset(path)
    scalars = read_scalars(dataset)
    pixels = read_pixels(dataset, sample=sample, workers=workers, on_progress=on_progress)
    return _conclude(dataset, scalars, pixels)


def _conclude(dataset: Dataset, scalars: Scalars, pixels: Pixels) -> Inspection:
    exact, near = find_duplicates(scalars.digests, pixels)
    for groups in exact, near:
        groups.sort(key=lambda rows: not scalars.crosses_splits(rows))  # stable: else by size
    repeated = scalars.captions.most_repeated()
    texts = [(dataset.row(row, ["text"])["text"], count) for row, count in repeated]
    captions = scalars.captions.facts(texts)
    found = drafts(dataset.manifest, scalars, pixels, copies=(exact, near), captions=captions)
    wishes = [wish for draft in found for wish in draft.wishes] + group_wishes((exact, near))
    shown = show_members(dataset, scalars, wishes)
    named = name_members(dataset, scalars, (int(row) for rows in (*exact, *near) for row in rows))
    return summary(
        dataset,
        scalars,
        pixels,
        captions=captions,
        duplicates=Duplicates(
            exact=as_groups(exact, named, shown), near=as_groups(near, named, shown)
        ),
        flags=[draft.flag(shown) for draft in found],
    )
