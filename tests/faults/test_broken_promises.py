"""The list of promises that are broken on purpose follows the sources.

The breaking itself takes minutes: `python -m tests.faults.broken_promises`.
"""

import pytest

from tests.faults.broken_promises import BREAKS, ROOT, file_of


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.promise)
def test_every_line_to_break_stands_once_and_its_test_is_there(broken):
    assert file_of(broken.line)
    assert (ROOT / "tests" / broken.test).exists()
