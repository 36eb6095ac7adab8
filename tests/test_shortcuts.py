"""Calls are checked while tests run, however shortcuts may spare time."""

import dataclasses
from collections.abc import Sequence

import beartype
import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float32, UInt8

from annotators.conditions.canny import canny
from controlnet.trainer.step import learning_rate
from tests import shortcuts

Row = Float32[np.ndarray, "N"]
Twice = Float32[np.ndarray, "2*N"]


def paired(first: Row, second: Row) -> Row:
    return first if len(first) < 4 else np.concatenate([first, second])


def joined(parts: Sequence[UInt8[np.ndarray, "H _"]]) -> int | None:
    return sum(part.shape[1] for part in parts) or None


def counted(number: int) -> str:
    return str(number) if number else 0


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    row: Row
    name: str

    def named(self, prefix: str) -> str:
        return prefix + self.name


def checked(of):
    return shortcuts._checked(of, typechecker=beartype.beartype)


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


@pytest.mark.parametrize(
    ("function", "good", "bad"),
    [
        (paired, (ones(3), ones(3)), (ones(3), ones(2))),  # sizes of one name
        (paired, (ones(3), ones(3)), (ones(3), ones(3, dtype=float))),
        (paired, (ones(3), ones(3)), (ones(4), ones(4))),  # a result of another size
        (joined, ([ones(2, 3, dtype=np.uint8)],), ([ones(2, 3)],)),
        (counted, (1,), ("1",)),
        (counted, (1,), (0,)),  # a result of another type
        (Kept, (ones(2), "a"), (ones(2, 2), "a")),
        (Kept, (ones(2), "a"), (ones(2), 1)),
    ],
)
def test_a_call_that_breaks_its_annotations_is_an_error(function, good, bad):
    called = checked(function)
    called(*good)
    with pytest.raises(BeartypeCallHintViolation):
        called(*bad)


def test_sizes_of_a_call_are_nothing_to_one_inside_it_or_after_it():
    inner = checked(paired)

    @checked
    def doubled(row: Row) -> Twice:
        assert len(inner(row[:1], row[1:2])) == 1
        return np.append(row, row)

    assert [len(doubled(ones(number))) for number in (3, 2)] == [6, 4]


def test_functions_of_the_product_are_checked():
    with pytest.raises(BeartypeCallHintViolation):
        canny(ones(8, 8, 3), low=100, high=200)
    with pytest.raises(BeartypeCallHintViolation):
        learning_rate("1", None)
