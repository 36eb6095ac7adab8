"""A glob selects what Python's own rules for names of files say, folder by folder."""

import fnmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.spec import glob_regex

PATTERNS = st.lists(
    st.just("**") | st.text("ab*?[]!-^.\\0", min_size=1, max_size=6), min_size=1, max_size=4
)
PATHS = st.lists(st.text("ab]!-^.\\[0", min_size=1, max_size=4), min_size=1, max_size=4)


def selected(parts, folders):
    """Slowly, by the rules: a part is one folder or the file's name, `**` any folders or none."""
    if not parts:
        return not folders
    if parts[0] == "**":
        if len(parts) == 1:
            return bool(folders)
        return any(selected(parts[1:], folders[number:]) for number in range(len(folders) + 1))
    return (
        bool(folders)
        and fnmatch.fnmatchcase(folders[0], parts[0])
        and selected(parts[1:], folders[1:])
    )


@settings(max_examples=1000, derandomize=True, deadline=None)
@given(parts=PATTERNS, folders=PATHS)
def test_a_glob_selects_what_its_rules_say(parts, folders):
    found = glob_regex("/".join(parts)).fullmatch("/".join(folders)) is not None
    assert found == selected(parts, folders)


@pytest.mark.parametrize("pattern", ["a[!b]c", "a[+-9]c", "a*c", "a?c"])
def test_only_two_stars_cross_folders(pattern):
    assert glob_regex(pattern).fullmatch("a/c") is None
    assert glob_regex("a/**/c").fullmatch("a/c") is not None
