"""References in a shuffle: the same afterwards, and small."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan import Packer
from schemas.errors import Reason
from schemas.records import ImageRef, Place, Problem, key_of

ROOT = "gs://some-bucket/photographs"


def reference(name, **changes):
    place = Place(uri=f"{ROOT}/{name}", file_bytes=150_000, modified_s=1_700_000_000.5)
    return ImageRef(key=key_of(name), source=name, place=place, **changes)


@pytest.mark.parametrize(
    "ref",
    [
        reference("a/1.jpg"),
        reference("ä \N{SNOWMAN} '\"\n.png", caption="words", group="x.tar", ordinal=7),
        reference("x.parquet", row_group=3, row=99, group="x.parquet#rg3"),
        reference("b", caption_place=Place(uri="b.txt", offset=5, size_bytes=6)),
        reference("gone", problem=Problem(reason=Reason.SOURCE_MISSING, detail="gone")),
    ],
)
@pytest.mark.parametrize("root", [ROOT, "", "/elsewhere"])
def test_what_is_packed_comes_out_the_same(ref, root):
    packed = Packer(root).pack(ref)
    assert packed
    assert Packer(root).unpack(packed) == ref


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    name=TEXT,
    root=st.text(),
    caption=st.none() | TEXT,
    group=st.just("") | TEXT,
    ordinal=st.integers(0, 2**40),
)
def test_any_reference_comes_out_the_same(name, root, caption, group, ordinal):
    ref = reference(name, caption=caption, group=group, ordinal=ordinal)
    packed = Packer(root).pack(ref)
    assert packed
    assert Packer(root).unpack(packed) == ref


def test_a_reference_of_a_bucket_takes_half_of_its_pickle_or_less():
    packer = Packer(ROOT)
    refs = [
        reference(f"{n % 997:03d}/{n:010d}.jpg", caption_place=Place(uri=f"{ROOT}/{n:010d}.txt"))
        for n in range(100)
    ]
    small = sum(len(packer.pack(ref)) for ref in refs)
    assert small < sum(len(pickle.dumps(ref, 5)) for ref in refs) / 2
    assert small / len(refs) < 110  # bytes
