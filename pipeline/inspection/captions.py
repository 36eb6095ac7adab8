"""What captions are like: length, repeats, openings, words in a loop."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipeline.inspection.model import Captions, histogram

TOKEN_LIMIT = 77
"""Of CLIP's text encoders, start and end token included; what is beyond has no effect."""

_WORD_EDGES = (0, 1, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 120)
_CHARACTER_EDGES = (0, 1, 25, 50, 75, 100, 150, 200, 250, 300, 400, 600, 1000)
_OPENING_WORDS = 3
_OPENINGS_KEPT = 100_000
_TOP = 10
_PIECE = re.compile(r"[a-zA-Z]+|\d|[^\W\d_]|[^\w\s]|_")
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_LONGEST_LOOP_WORDS = 8
_LOOP_TIMES = 3


def token_estimate(text: str) -> int:
    """About how many tokens CLIP makes of a text, start and end included.

    An estimate, since the vocabulary is not at hand: a word of up to eight letters is one token,
    longer ones two and more; digits and punctuation marks one each; a letter of another script
    half its UTF-8 bytes.
    """
    tokens = 2
    for piece in _PIECE.findall(text):
        is_ascii = piece.isascii()
        tokens += (len(piece) + 7) // 8 if is_ascii else (len(piece.encode()) + 1) // 2
    return tokens


def has_loop(text: str) -> bool:
    """Whether up to eight words follow each other three times, as in `a cat a cat a cat`.

    Captioning models fall into that; people hardly ever write so.
    """
    words = _WORD.findall(text.lower())
    for length in range(1, _LONGEST_LOOP_WORDS + 1):
        run = 0
        for index in range(length, len(words)):
            run = run + 1 if words[index] == words[index - length] else 0
            if run >= length * (_LOOP_TIMES - 1):
                return True
    return False


class CaptionTally:
    """Counts captions one by one; keeps hashes and lengths, never all texts."""

    def __init__(self) -> None:
        self._words: list[int] = []
        self._characters: list[int] = []
        self._seen: dict[bytes, list[int]] = {}  # hash of text -> [count, first row]
        self._openings: Counter[str] = Counter()
        self.missing: list[int] = []
        self.long: list[int] = []
        self.loops: list[int] = []

    def add(self, row: int, text: str | None) -> None:
        """Count one row's caption."""
        if text is None or not text.strip():
            self.missing.append(row)
            return
        words = _WORD.findall(text.lower())
        self._words.append(len(words))
        self._characters.append(len(text))
        digest = hashlib.blake2b(text.strip().encode(), digest_size=12).digest()
        self._seen.setdefault(digest, [0, row])[0] += 1
        self._openings[" ".join(words[:_OPENING_WORDS])] += 1
        if len(self._openings) > _OPENINGS_KEPT:  # rare ones cannot win any more
            self._openings = Counter(dict(self._openings.most_common(_OPENINGS_KEPT // 2)))
        if token_estimate(text) > TOKEN_LIMIT:
            self.long.append(row)
        if has_loop(text):
            self.loops.append(row)

    def most_repeated(self) -> list[tuple[int, int]]:
        """(first row, count) of the captions that occur most often, more than once."""
        repeated = [(row, count) for count, row in self._seen.values() if count > 1]
        return sorted(repeated, key=lambda pair: (-pair[1], pair[0]))[:_TOP]

    def facts(self, repeats: Sequence[tuple[str, int]]) -> Captions:
        """All counts.

        Args:
            repeats: `most_repeated` with texts for rows.
        """
        return Captions(
            present=len(self._words),
            missing=len(self.missing),
            words=histogram(np.array(self._words, float), _WORD_EDGES),
            characters=histogram(np.array(self._characters, float), _CHARACTER_EDGES),
            over_77_tokens=len(self.long),
            loops=len(self.loops),
            distinct=len(self._seen),
            repeats=tuple(repeats),
            repeated_rows=sum(count for count, _ in self._seen.values() if count > 1),
            openings=tuple(pair for pair in self._openings.most_common(_TOP) if pair[1] > 1),
        )
