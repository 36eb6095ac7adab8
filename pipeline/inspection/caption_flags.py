"""Findings about captions."""

from collections.abc import Iterator, Sequence

from pipeline.inspection.captions import REPETITION_LIMIT, TOKEN_LIMIT
from pipeline.inspection.draft import AGAIN, Draft, wishes_for
from pipeline.inspection.small_columns import Scalars
from pipeline.output.pages import plural

_REPEAT_SHARE = 0.05
_OPENING_SHARE = 0.5
_OPENING_ROWS = 10


def caption_flags(scalars: Scalars, openings: Sequence[tuple[str, int]]) -> Iterator[Draft]:
    """Missing, long, looping and monotonous captions."""
    captions, present = scalars.captions, scalars.captions.present
    if captions.missing:
        yield Draft(
            name="no_caption",
            severity="look",
            title=f"{plural(len(captions.missing), 'row')} without a caption",
            count=len(captions.missing),
            of=scalars.rows,
            meaning="They can teach structure only; some trainers stop at a null caption.",
            advice="Add caption files beside the pictures, or let --caption fixed give them one.",
            wishes=wishes_for(captions.missing),
        )
    if captions.loops:
        yield Draft(
            name="caption_loops",
            severity="fix",
            title=f"{plural(len(captions.loops), 'caption')} with words in a loop",
            count=len(captions.loops),
            of=present,
            meaning="Captioning models get stuck: the same words follow each other three times.",
            advice=f"Caption these pictures again, with a repetition penalty, {AGAIN}.",
            wishes=wishes_for(captions.loops),
            about_text=True,
        )
    if captions.repetitive:
        yield Draft(
            name="repetitive_captions",
            severity="look",
            title=f"{plural(len(captions.repetitive), 'caption')} of {captions.model} that "
            f"{'repeats its' if len(captions.repetitive) == 1 else 'repeat their'} words",
            count=len(captions.repetitive),
            of=captions.written_by_model(),
            threshold=REPETITION_LIMIT,
            meaning="Where a model sees little it says the same thing twice.",
            advice="Look at them; a larger --caption-model repeats itself less.",
            wishes=wishes_for(captions.repetitive),
            about_text=True,
        )
    if captions.long:
        yield Draft(
            name="long_captions",
            severity="look",
            title=f"{plural(len(captions.long), 'caption')} of more than {TOKEN_LIMIT} tokens "
            "(estimated)",
            count=len(captions.long),
            of=present,
            threshold=TOKEN_LIMIT,
            meaning="CLIP's text encoder cuts there: what comes later has no effect.",
            advice="Put what matters first, or shorten them.",
            wishes=wishes_for(captions.long),
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
            wishes=wishes_for([row]),
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
