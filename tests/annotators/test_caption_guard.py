import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.captions import guarded
from schemas.errors import Reason, Rejected


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("a cat sitting on a bench", "a cat sitting on a bench"),
        ("  a cat\n on   a\tbench ", "a cat on a bench"),
        ("a cat cat cat cat", "a cat"),
        ("a cat cat cat on a bench", "a cat on a bench"),
        ("a red bus bus", "a red bus"),
        ("A Cat, cat, CAT.", "A CAT."),
        ("a very very tall tower", "a very very tall tower"),
        ("a man and a woman and a dog", "a man and a woman and a dog"),
        ("a dog on a bench on a bench on a bench", "a dog on a bench"),
        ("a dog on a bench on a bench", "a dog on a bench"),
        ("a b b a b b a b b c", "a b b c"),
        ("people in the street " * 5, "people in the street"),
        ("cat", "cat"),
    ],
)
def test_repeated_words_are_said_once(said, kept):
    assert guarded(said) == kept


SAID = st.one_of(
    st.lists(st.sampled_from(["a", "A,", "cat", "dog", "on", "."]), max_size=30).map(" ".join),
    st.text(max_size=60),
)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(said=SAID)
def test_what_is_kept_are_words_of_the_caption_in_order_and_is_kept_again(said):
    kept = guarded(said)
    if isinstance(kept, Rejected):
        assert kept.reason in {Reason.NO_CAPTION, Reason.BAD_CAPTION}
        return
    assert kept.strip()
    words = iter(said.split())
    assert all(word in words for word in kept.split())
    assert guarded(kept) == kept


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", Reason.NO_CAPTION),
        (" \n\t ", Reason.NO_CAPTION),
        (". , !", Reason.NO_CAPTION),
        ("cat cat cat cat", Reason.BAD_CAPTION),
        ("The the THE.", Reason.BAD_CAPTION),
        ("a dog on a bench and a dog on a bench with a dog on a bench", Reason.BAD_CAPTION),
    ],
)
def test_words_that_are_no_caption_are_rejected(said, reason):
    rejected = guarded(said)
    assert isinstance(rejected, Rejected)
    assert rejected.reason is reason
    assert repr(" ".join(said.split())) in rejected.detail


def test_a_long_caption_may_come_back_to_a_phrase():
    said = (
        "A man stands in the foreground with a red cup of coffee. There are tall trees in the "
        "background and two people in the background on the left. A blue car is parked in the "
        "background next to a street light at night."
    )
    assert said.count("in the background") == 3
    assert guarded(said) == said
