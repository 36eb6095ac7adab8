"""What makes a model's words a caption: neither empty nor stuck in a loop."""

import string

from schemas.errors import Reason, Rejected

_LONGEST_PHRASE = 12  # words; loops of captioners are shorter


def guarded(text: str) -> str | Rejected:
    """The caption in a model's decoded output, or why there is none.

    Words are compared without case and without punctuation around them. The rule, in order:

    1. White space is collapsed. Nothing left, or nothing but punctuation: NO_CAPTION.
    2. A phrase of 1 to 12 words that follows itself is said once: anywhere if it stands there
       three times or more, at the end already if it stands there twice. "a cat cat cat on a mat"
       becomes "a cat on a mat" and "a red bus bus" becomes "a red bus"; "a very very tall tower"
       stays.
    3. If that cut something and a single word is left: BAD_CAPTION.
    4. If one phrase of three words or more still stands in it three times or more (not
       overlapping), and these make up half of its words or more: BAD_CAPTION. "a dog on a bench
       and a dog on a bench with a dog on a bench" goes; a paragraph that says "in the background"
       three times stays.

    Args:
        text: one caption without special tokens.

    Returns:
        The caption, never empty; or the reject, which holds the model's text.
    """
    said = text.split()
    if not any(_plain(said)):
        return Rejected(Reason.NO_CAPTION, f"need words, got {' '.join(said)[:200]!r}")
    words = _without_runs(said)
    if (len(words) == 1 < len(said)) or _circles(_plain(words)):
        return Rejected(
            Reason.BAD_CAPTION,
            f"need a caption that does not repeat itself, got {' '.join(said)[:400]!r}",
        )
    return " ".join(words)


def _plain(words: list[str]) -> list[str]:
    return [word.strip(string.punctuation).casefold() for word in words]


def _without_runs(words: list[str]) -> list[str]:
    """Rule 2, until nothing changes: a cut can bring equal phrases together."""
    shorter = _one_run_less(words)
    while shorter is not None:
        words, shorter = shorter, _one_run_less(shorter)
    return words


def _one_run_less(words: list[str]) -> list[str] | None:
    plain = _plain(words)
    for length in range(1, min(_LONGEST_PHRASE, len(words) // 2) + 1):
        for start in range(len(words) - 2 * length + 1):
            phrase = plain[start : start + length]
            end = start + length
            while plain[end : end + length] == phrase:
                end += length
            times = (end - start) // length
            if times >= 3 or (times == 2 and end == len(words)):
                # The last one is kept: the punctuation behind it belongs to what follows.
                return words[:start] + words[end - length :]
    return None


def _circles(plain: list[str]) -> bool:
    """Rule 4."""
    for length in range(3, len(plain) // 3 + 1):
        for start in range(len(plain) - 3 * length + 1):
            times = _count(plain, plain[start : start + length])
            if times >= 3 and 2 * times * length >= len(plain):
                return True
    return False


def _count(plain: list[str], phrase: list[str]) -> int:
    """How often a phrase stands among words, not overlapping."""
    times = place = 0
    while place <= len(plain) - len(phrase):
        found = plain[place : place + len(phrase)] == phrase
        times += found
        place += len(phrase) if found else 1
    return times
