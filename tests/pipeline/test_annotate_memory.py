"""Where the machine has no memory left, no picture is blamed for it."""

import numpy as np
import pytest

from pipeline import annotate
from schemas.errors import Reason, Rejected

IMAGE = np.zeros((8, 8, 3), np.uint8)


def full(images, keys):
    raise Exception("(-4:Insufficient memory) Failed to allocate 9 bytes")  # OpenCV's


def test_a_picture_is_too_large_only_where_others_would_have_room(monkeypatch):
    (rejected,) = annotate.LoadedModel("fake", full)([IMAGE], ["a"])
    assert isinstance(rejected, Rejected)
    assert rejected.reason is Reason.OUT_OF_MEMORY
    monkeypatch.setattr(annotate, "has_room", lambda size_bytes: False)
    with pytest.raises(Exception, match="Insufficient memory"):
        annotate.LoadedModel("fake", full)([IMAGE, IMAGE], ["a", "b"])
