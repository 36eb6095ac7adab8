"""Captions: lengths, loops, repeats."""

import time

import pytest

from pipeline.inspection.small_columns import (
    REPETITION_LIMIT,
    CaptionCounter,
    has_loop,
    repetition,
    token_estimate,
    words_of,
)


@pytest.mark.parametrize(
    "text",
    [
        "a cat a cat a cat",
        "a dog on a dog on a dog on a sofa",
        "red red red",
        "A cup of coffee with a cup of coffee, with a cup of coffee with a spoon",
    ],
)
def test_words_that_repeat_three_times_in_a_row_are_a_loop(text):
    assert has_loop(words_of(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat and a cat",
        "a very very old house",
        "a man and a woman and a child and a dog",
        "the red, the green and the blue car",
    ],
)
def test_ordinary_sentences_are_no_loop(text):
    assert not has_loop(words_of(text))


def test_a_caption_of_a_hundred_thousand_characters_takes_no_time():
    start = time.perf_counter()
    has_loop(words_of("abc def " * 12_500))
    token_estimate("x" * 100_000 + "!?" * 10_000)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 2), ("a photo of a cat", 7), ("a photo, 2024!", 10), ("extraordinarily", 4)],
)
def test_tokens_are_estimated_from_words_digits_and_marks(text, tokens):
    assert token_estimate(text) == tokens


def test_counts_add_up_and_name_their_rows():
    counter = CaptionCounter()
    texts = ["a cat on a mat", "a cat on a mat", None, "  ", "word " * 100, "a cat on a roof"]
    for row, text in enumerate(texts):
        counter.add(row, text)
    facts = counter.facts([])
    assert (facts.present, facts.missing, facts.distinct) == (4, 2, 3)
    assert (counter.missing, counter.long, counter.loops) == ([2, 3], [4], [4])
    assert counter.most_repeated() == [(0, 2)]
    assert facts.repeated_rows == 2
    assert facts.openings == (("a cat on", 3),)
    assert (facts.words.total, facts.words.median, facts.words.largest) == (4, 5, 100)


@pytest.mark.parametrize(
    "text",
    [
        "a cat and a cat",
        "a red bus and a red bus",
        "a group of people with a group of people",
    ],
)
def test_saying_the_same_thing_twice_is_repetition(text):
    assert repetition(words_of(text)) > REPETITION_LIMIT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the a of",
        "a man and a woman and a child and a dog",
        "a man in a red shirt and a woman in a red shirt",
        "a cup of coffee on a table beside a second cup",
    ],
)
def test_naming_several_things_is_none(text):
    assert repetition(words_of(text)) <= REPETITION_LIMIT


def test_each_source_is_counted_apart_and_only_the_models_captions_are_blamed():
    counter = CaptionCounter(model="blip")
    counter.add(0, "a cat and a cat", "sidecar")
    counter.add(1, "a bus and a bus", "blip")
    counter.add(2, "a dog on a sofa", "blip")
    counter.add(3, None, None)
    facts = counter.facts([])
    assert [(one.name, one.rows, one.repetitive) for one in facts.sources] == [
        ("blip", 2, 1),
        ("sidecar", 1, 1),
    ]
    assert facts.sources[0].words_median == 5
    assert (counter.repetitive, counter.written_by_model()) == ([1], 2)
