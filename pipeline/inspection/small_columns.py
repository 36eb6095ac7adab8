"""First pass: every row's small columns, captions among them; no picture is read."""

import dataclasses
import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.inspection.records import Captions, CaptionSource, histogram
from schemas.columns import is_number
from schemas.dataset import Dataset
from schemas.triple import BORDER_COLUMNS, is_countable

TOKEN_LIMIT = 77
"""Of CLIP's text encoders, start and end token included; what is beyond has no effect."""

_WORD_EDGES = (0, 1, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 120)
_CHARACTER_EDGES = (0, 1, 25, 50, 75, 100, 150, 200, 250, 300, 400, 600, 1000)
_OPENING_WORDS = 3
_OPENINGS_KEPT = 100_000
_LISTED = 10
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


class CaptionCounter:
    """Counts captions one by one; keeps hashes and lengths, never all texts."""

    def __init__(self, *, model: str | None = None) -> None:
        """`model` is the `caption_source` of what a model wrote."""
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
        return sorted(repeated, key=lambda pair: (-pair[1], pair[0]))[:_LISTED]

    def facts(self, repeats: Sequence[tuple[str, int]]) -> Captions:
        """All counts."""
        words = [length for counts in self._sources.values() for length in counts.words]
        sources = [counts.facts(name) for name, counts in self._sources.items()]
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
            openings=tuple(pair for pair in self._openings.most_common(_LISTED) if pair[1] > 1),
            sources=sorted(sources, key=lambda source: (-source.rows, source.name))[:_SOURCES],
        )


_SIZES = ("width", "height", "original_width", "original_height")
_BATCH_ROWS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class People:
    """Everybody that a condition's annotator found; one entry a person."""

    rows: np.ndarray  # row of the data set
    joints: np.ndarray  # joints of the body that were seen


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scalars:
    """Columns of the whole data set, one entry a row."""

    splits: Sequence[str]
    split_of: np.ndarray  # index into `splits`
    numbers: Mapping[str, np.ndarray]  # column -> float64, NaN for null
    digests: Sequence[bytes]  # 16 bytes of `sha256`
    missing: Mapping[str, np.ndarray]  # condition -> bool
    people: Mapping[str, People]  # condition whose annotator looks for people -> them
    captions: CaptionCounter
    nulls: Mapping[str, int]  # column that was kept from the source -> rows without a value

    @property
    def rows(self) -> int:
        return len(self.split_of)

    @property
    def enlarged(self) -> np.ndarray:
        """Rows whose source was smaller, both ways, than what is stored."""
        numbers = self.numbers
        return np.flatnonzero(
            (numbers["original_width"] < numbers["width"])
            & (numbers["original_height"] < numbers["height"])
        )

    def crosses_splits(self, rows: np.ndarray) -> bool:
        """Whether these rows are in more than one split."""
        return len(np.unique(self.split_of[rows])) > 1

    def split(self, row: int) -> str:
        """Name of the row's split."""
        return self.splits[int(self.split_of[row])]


def number_stats(record: Mapping[str, Any]) -> dict[str, str]:
    """Statistic -> type name, of those that are numbers, from a manifest's record."""
    return {name: kind for name, kind in record.get("stats", {}).items() if is_countable(kind)}


def read_scalars(dataset: Dataset) -> Scalars:
    """Read everything but the pictures.

    Whether a map is there is read off its `path` leaf, a few bytes a row; people are counted by the
    score of each of their joints.
    """
    records = dataset.manifest.annotators
    captioner = dataset.manifest.captioner
    sizes = [*_SIZES, *(name for name in BORDER_COLUMNS if name in dataset.schema.names)]
    stats = [f"{name}_{stat}" for name, record in records.items() for stat in number_stats(record)]
    kept = dataset.manifest.columns
    kept_numbers = [name for name, kind in kept.items() if is_number(kind)]
    numbers: dict[str, list[np.ndarray]] = {name: [] for name in (*sizes, *stats, *kept_numbers)}
    nulls = dict.fromkeys(kept, 0)
    missing: dict[str, list[np.ndarray]] = {name: [] for name in records}
    people: dict[str, list[People]] = {name: [] for name in _people_columns(records)}
    digests: list[bytes] = []
    captions = CaptionCounter(model=None if captioner is None else captioner["name"])
    row = 0
    columns = list(dict.fromkeys([*_columns(records, numbers), *kept]))
    for batch in dataset.batches(columns, batch_rows=_BATCH_ROWS):
        for name in nulls:
            nulls[name] += batch.column(name).null_count
        for name, parts in numbers.items():
            parts.append(_numbers(batch.column(name)))
        for name, parts in missing.items():
            parts.append(batch.column(name).is_null().to_numpy(zero_copy_only=False))
        for name, column in _people_columns(records).items():
            people[name].append(_people(batch.column(column), row))
        digests.extend(bytes.fromhex(text)[:16] for text in batch.column("sha256").to_pylist())
        texts = batch.column("text").to_pylist(), batch.column("caption_source").to_pylist()
        for text, source in zip(*texts, strict=True):
            captions.add(row, text, source)
            row += 1
    splits = list(dataset.manifest.splits)
    return Scalars(
        splits=splits,
        split_of=_split_of(dataset, splits),
        numbers={name: _joined(parts, float) for name, parts in numbers.items()},
        digests=digests,
        missing={name: _joined(parts, bool) for name, parts in missing.items()},
        people={name: _everybody(parts) for name, parts in people.items()},
        captions=captions,
        nulls=nulls,
    )


def _columns(records: Mapping[str, Any], numbers: Mapping[str, object]) -> list[str]:
    paths = [f"{name}.path" for name in records]
    # One leaf of the nested column is enough to count by, and a seventh of its bytes.
    joints = [
        f"{column}.list.element.body.list.element.score"
        for column in _people_columns(records).values()
    ]
    return ["sha256", "text", "caption_source", *numbers, *paths, *joints]


def _people_columns(records: Mapping[str, Any]) -> dict[str, str]:
    """Condition -> its column of people, for annotators that look for people."""
    return {
        name: f"{name}_{stat}"
        for name, record in records.items()
        for stat, kind in record.get("stats", {}).items()
        if kind == "people"
    }


def _people(column: pa.ListArray, first_row: int) -> People:
    of_each_row = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    everybody = column.flatten()
    bodies = everybody.flatten()[everybody.type.get_field_index("body")]
    joints = bodies.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    rows = np.arange(first_row, first_row + len(column))
    return People(rows=np.repeat(rows, of_each_row), joints=joints.astype(np.int16))


def _everybody(parts: Sequence[People]) -> People:
    return People(
        rows=_joined([part.rows for part in parts], np.int64),
        joints=_joined([part.joints for part in parts], np.int16),
    )


def _numbers(column: pa.Array) -> np.ndarray:
    # An id of 64 bits may lose its last digits here: for a histogram that is enough.
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _joined(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, kind)


def _split_of(dataset: Dataset, splits: Sequence[str]) -> np.ndarray:
    counts = [shard.data.rows for shard in dataset.shards]
    return np.repeat([splits.index(shard.split) for shard in dataset.shards], counts).astype(int)
