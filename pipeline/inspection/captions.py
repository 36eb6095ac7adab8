"""What captions are like: length, repeats, openings, words in a loop."""

import dataclasses
import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipeline.inspection.records import Captions, CaptionSource, histogram

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
_SOURCES = 12
_FILLERS = frozenset(
    "a an the and or of in on at to by is are it its with for from there that this".split()
)

REPETITION_LIMIT = 0.4
"""Share of a caption's words, fillers apart, that it has said before: `a bus and a bus` has half,
`a man in a red shirt and a woman in a red shirt` a third."""


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


def words_of(text: str) -> list[str]:
    """Its words in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def repetition(words: Sequence[str]) -> float:
    """Share of words that stand in the text already, 0..1; fillers like `a` and `of` apart."""
    said = [word for word in words if word not in _FILLERS]
    return 1 - len(set(said)) / len(said) if said else 0.0


def has_loop(words: Sequence[str]) -> bool:
    """Whether up to eight words follow each other three times, as in `a cat a cat a cat`.

    Captioning models fall into that; people hardly ever write so.
    """
    for length in range(1, _LONGEST_LOOP_WORDS + 1):
        run = 0
        for index in range(length, len(words)):
            run = run + 1 if words[index] == words[index - length] else 0
            if run >= length * (_LOOP_TIMES - 1):
                return True
    return False


@dataclasses.dataclass(kw_only=True, slots=True)
class _OfSource:
    """Counts of one caption source."""

    words: array = dataclasses.field(default_factory=lambda: array("l"))
    long: int = 0
    loops: int = 0
    repetitive: int = 0

    def facts(self, name: str) -> CaptionSource:
        return CaptionSource(
            name=name,
            rows=len(self.words),
            words_median=float(np.median(self.words)),
            over_77_tokens=self.long,
            loops=self.loops,
            repetitive=self.repetitive,
        )


class CaptionTally:
    """Counts captions one by one; keeps hashes and lengths, never all texts."""

    def __init__(self, *, model: str | None = None) -> None:
        """Begin to count.

        Args:
            model: the `caption_source` of what a model wrote.
        """
        self.model = model
        self._sources: dict[str, _OfSource] = {}
        self._characters: list[int] = []
        self._seen: dict[bytes, list[int]] = {}  # hash of text -> [count, first row]
        self._openings: Counter[str] = Counter()
        self.missing: list[int] = []
        self.long: list[int] = []
        self.loops: list[int] = []
        self.repetitive: list[int] = []  # rows whose caption the model wrote, and which repeats

    def add(self, row: int, text: str | None, source: str | None = None) -> None:
        """Count one row's caption."""
        if text is None or not text.strip():
            self.missing.append(row)
            return
        words = words_of(text)
        of_source = self._sources.setdefault(source or "not recorded", _OfSource())
        of_source.words.append(len(words))
        self._characters.append(len(text))
        digest = hashlib.blake2b(text.strip().encode(), digest_size=12).digest()
        self._seen.setdefault(digest, [0, row])[0] += 1
        self._openings[" ".join(words[:_OPENING_WORDS])] += 1
        if len(self._openings) > _OPENINGS_KEPT:  # rare ones cannot win any more
            self._openings = Counter(dict(self._openings.most_common(_OPENINGS_KEPT // 2)))
        if token_estimate(text) > TOKEN_LIMIT:
            self.long.append(row)
            of_source.long += 1
        if has_loop(words):
            self.loops.append(row)
            of_source.loops += 1
        if repetition(words) > REPETITION_LIMIT:
            of_source.repetitive += 1
            if source is not None and source == self.model:
                self.repetitive.append(row)

    @property
    def present(self) -> int:
        """Rows that have a caption."""
        return len(self._characters)

    def written_by_model(self) -> int:
        """Rows whose caption the model wrote."""
        of_model = self._sources.get(self.model or "")
        return 0 if of_model is None else len(of_model.words)

    def most_repeated(self) -> list[tuple[int, int]]:
        """(first row, count) of the captions that occur most often, more than once."""
        repeated = [(row, count) for count, row in self._seen.values() if count > 1]
        return sorted(repeated, key=lambda pair: (-pair[1], pair[0]))[:_TOP]

    def facts(self, repeats: Sequence[tuple[str, int]]) -> Captions:
        """All counts.

        Args:
            repeats: `most_repeated` with texts for rows.
        """
        words = [length for one in self._sources.values() for length in one.words]
        sources = [one.facts(name) for name, one in self._sources.items()]
        return Captions(
            present=self.present,
            missing=len(self.missing),
            words=histogram(np.array(words, float), _WORD_EDGES),
            characters=histogram(np.array(self._characters, float), _CHARACTER_EDGES),
            over_77_tokens=len(self.long),
            loops=len(self.loops),
            distinct=len(self._seen),
            repeats=tuple(repeats),
            repeated_rows=sum(count for count, _ in self._seen.values() if count > 1),
            openings=tuple(pair for pair in self._openings.most_common(_TOP) if pair[1] > 1),
            sources=sorted(sources, key=lambda one: (-one.rows, one.name))[:_SOURCES],
        )
