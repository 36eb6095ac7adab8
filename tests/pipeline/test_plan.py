"""Which row goes where: nothing lost, nothing doubled, nothing that depends on chance."""

import dataclasses
import random
from collections import Counter, defaultdict

import apache_beam as beam
import pytest
from apache_beam.testing import test_pipeline, util
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.options import configured
from annotators.registry import all_options, captioner_of, specs_of
from pipeline.config import GenerateConfig
from pipeline.job import Job
from pipeline.plan import (
    PlanShards,
    fingerprint,
    hash_of_references,
    lay_out,
    shard_of,
    shard_plan,
    split_of,
)
from pipeline.sources import SourceKind, SourceSpec
from schemas.errors import Reason
from schemas.records import CaptionFile, ImageRef, Place, Problem, key_of


def refs_of(group, count):
    """References of one container, or of a folder where `group` is empty."""
    return [
        ImageRef(
            key=key_of(f"{group}/{number}"),
            source=f"{group}/{number}",
            place=Place(uri=f"/in/{group}/{number}", file_bytes=9, modified_s=1.5),
            group=group,
            ordinal=number if group else 0,
        )
        for number in range(count)
    ]


def planned(refs, *, shard_rows, validation=0.0):
    """(split, index) -> plan, as the graph makes them, empty shards included."""
    splits = {ref.key: split_of(ref.key, validation=validation, seed=0) for ref in refs}
    layout = lay_out(Counter((splits[ref.key], ref.group) for ref in refs), shard_rows=shard_rows)
    shards = {(split, n): [] for split, total in layout.totals.items() for n in range(total)}
    for ref in refs:
        # A KeyError here is a reference outside 0..total-1.
        shards[splits[ref.key], shard_of(ref, splits[ref.key], layout)].append(ref)
    return {place: shard_plan(*place, inside, layout) for place, inside in shards.items()}


SIZES = st.integers(0, 170)
SOURCES = st.builds(
    lambda folder, tars, row_groups: [
        *refs_of("", folder),
        *(ref for n, size in enumerate(tars) for ref in refs_of(f"part-{n:03d}.tar", size)),
        *(
            ref
            for n, size in enumerate(row_groups)
            for ref in refs_of(f"t.parquet#rg{n:05d}", size)
        ),
    ],
    SIZES,
    st.lists(SIZES, max_size=5),
    st.lists(SIZES, max_size=5),
).filter(len)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(refs=SOURCES, shard_rows=st.integers(1, 60), validation=st.sampled_from([0.0, 0.3]))
def test_every_reference_is_in_exactly_one_shard_of_its_split(refs, shard_rows, validation):
    plans = planned(refs, shard_rows=shard_rows, validation=validation)
    everywhere = Counter(ref.key for plan in plans.values() for ref in plan.refs)
    assert everywhere == Counter(ref.key for ref in refs)
    for split in {split for split, _ in plans}:
        here = sorted(index for of, index in plans if of == split)
        assert here == list(range(plans[split, 0].total))
    places = defaultdict(set)
    for (split, index), plan in plans.items():
        for ref in plan.refs:
            assert split == split_of(ref.key, validation=validation, seed=0)
            places[split, ref.group].add(index)
    cut = [group for (_, group), shards in places.items() if "#rg" in group and len(shards) > 1]
    assert not cut


@pytest.mark.parametrize("count", [11, 100, 101, 137, 1009])
def test_a_large_tar_is_cut_into_runs_that_differ_by_one_row_at_most(count):
    plans = planned(refs_of("big.tar", count), shard_rows=10)
    sizes = [len(plan.refs) for plan in plans.values()]
    assert len(sizes) == -(-count // 10)
    assert max(sizes) - min(sizes) <= 1
    ordinals = [ref.ordinal for _, plan in sorted(plans.items()) for ref in plan.refs]
    assert ordinals == list(range(count))


def test_a_tar_thinned_by_the_split_still_fills_its_shards():
    plans = planned(refs_of("big.tar", 1000), shard_rows=50, validation=0.5)
    assert {total for plan in plans.values() for total in [plan.total]} <= {10, 11}
    assert all(25 <= len(plan.refs) <= 75 for plan in plans.values())


def test_small_containers_share_a_shard_up_to_its_rows():
    refs = [ref for number in range(10) for ref in refs_of(f"{number}.tar", 4)]
    plans = planned(refs, shard_rows=12)
    assert [len(plan.refs) for _, plan in sorted(plans.items())] == [12, 12, 12, 4]
    first = [ref.group for ref in plans["train", 0].refs]
    assert first == ["0.tar"] * 4 + ["1.tar"] * 4 + ["2.tar"] * 4


def test_a_folder_is_spread_by_hash_about_evenly():
    plans = planned(refs_of("", 4000), shard_rows=100)
    assert len(plans) == 40
    # Binomial: mean 100, standard deviation 9.9.
    assert all(50 < len(plan.refs) < 150 for plan in plans.values())


def test_rows_lie_in_the_order_of_group_ordinal_and_key():
    refs = refs_of("b.tar", 5) + refs_of("", 20) + refs_of("a.tar", 5)
    random.Random(0).shuffle(refs)
    (plan,) = planned(refs, shard_rows=1000).values()
    assert plan.refs == tuple(sorted(refs, key=lambda ref: (ref.group, ref.ordinal, ref.key)))


@settings(max_examples=10, derandomize=True, deadline=None)
@given(refs=SOURCES, random=st.randoms(use_true_random=False))
def test_neither_the_order_of_counts_nor_that_of_references_matters(refs, random):
    expected = planned(refs, shard_rows=10, validation=0.3)
    counts = Counter((split_of(r.key, validation=0.3, seed=0), r.group) for r in refs)
    shuffled = list(counts.items())
    random.shuffle(shuffled)
    assert lay_out(dict(shuffled), shard_rows=10) == lay_out(counts, shard_rows=10)
    random.shuffle(refs)
    assert planned(refs, shard_rows=10, validation=0.3) == expected


def test_one_more_file_in_a_folder_changes_one_shard():
    refs = refs_of("", 996)
    before, after = (planned(refs[:count], shard_rows=100) for count in (995, 996))
    assert before.keys() == after.keys()
    assert sum(before[place] != after[place] for place in before) == 1


def test_the_split_takes_its_fraction():
    for validation in (0.01, 0.1, 0.5):
        keys = [key_of(str(number)) for number in range(20_000)]
        got = sum(split_of(key, validation=validation, seed=0) == "validation" for key in keys)
        deviation = (20_000 * validation * (1 - validation)) ** 0.5
        assert abs(got - 20_000 * validation) < 4 * deviation


def test_the_split_of_a_key_is_pinned_and_follows_the_seed():
    keys = [key_of(str(number)) for number in range(12)]
    letters = "".join(split_of(key, validation=0.5, seed=0)[0] for key in keys)
    assert letters == "vvvvtvvvvtvv"  # another result would move pictures between splits
    assert letters != "".join(split_of(key, validation=0.5, seed=1)[0] for key in keys)
    assert {split_of(key, validation=0.0, seed=0) for key in keys} == {"train"}


def test_a_larger_fraction_keeps_the_pictures_that_were_in_validation():
    keys = [key_of(str(number)) for number in range(500)]
    small, large = (
        {key for key in keys if split_of(key, validation=fraction, seed=3) == "validation"}
        for fraction in (0.1, 0.2)
    )
    assert small < large


# Fingerprints --------------------------------------------------------------------------------


BASE = ImageRef(
    key="k",
    source="cats/01.jpg",
    place=Place(uri="/in/cats/01.jpg", offset=0, size_bytes=None, file_bytes=9, modified_s=1.5),
    caption_place=Place(uri="/in/cats/01.txt", file_bytes=3, modified_s=2.5),
)


def fingerprint_of(*refs, identity="recipe"):
    layout = lay_out({("train", ""): len(refs)}, shard_rows=1000)
    return fingerprint(hash_of_references(shard_plan("train", 0, refs, layout)), identity)


PLACE_CHANGES = {"offset": 512, "size_bytes": 8, "file_bytes": 10, "modified_s": 1.6}
REF_CHANGES = {
    "maps": (("lines", None),),
    "key": "l",
    "source": "cats/02.jpg",
    "row_group": 0,
    "row": 0,
    "group": "a.tar",
    "ordinal": 1,
    "caption": "a cat",
    "caption_place": None,
    "caption_is_json": True,
    "problem": Problem(reason=Reason.NOT_A_FILE, detail="a folder"),
    "more_captions": (CaptionFile(place=Place(uri="/a/01.json"), is_json=True),),
    "caption_problem": Problem(reason=Reason.BAD_CAPTION, detail="a number"),
    "caption_was_list": True,
    "fields": '{"id": 1}',
    "record": Place(uri="/a/01.json"),
}


def test_every_field_of_a_reference_is_thought_of():
    assert {"uri", *PLACE_CHANGES} == {field.name for field in dataclasses.fields(Place)}
    assert {"place", *REF_CHANGES} == {field.name for field in dataclasses.fields(ImageRef)}


@pytest.mark.parametrize("field", REF_CHANGES)
def test_the_fingerprint_follows_each_field_of_the_reference(field):
    changed = dataclasses.replace(BASE, **{field: REF_CHANGES[field]})
    layout = lay_out({("train", changed.group): 1}, shard_rows=1000)
    plan = shard_plan("train", 0, [changed], layout)
    assert fingerprint(hash_of_references(plan), "recipe") != fingerprint_of(BASE)


@pytest.mark.parametrize("place", ["place", "caption_place"])
@pytest.mark.parametrize("field", PLACE_CHANGES)
def test_the_fingerprint_follows_size_and_time_of_picture_and_caption(place, field):
    there = dataclasses.replace(getattr(BASE, place), **{field: PLACE_CHANGES[field]})
    assert fingerprint_of(dataclasses.replace(BASE, **{place: there})) != fingerprint_of(BASE)


def test_the_fingerprint_follows_the_recipe_and_the_number_of_references():
    assert fingerprint_of(BASE, identity="another") != fingerprint_of(BASE)
    assert fingerprint_of(BASE, BASE) != fingerprint_of(BASE) != fingerprint_of()


def test_a_moved_source_is_the_same_source():
    assert BASE.caption_place is not None
    moved = dataclasses.replace(
        BASE,
        place=dataclasses.replace(BASE.place, uri="/elsewhere/cats/01.jpg"),
        caption_place=dataclasses.replace(BASE.caption_place, uri="/elsewhere/cats/01.txt"),
    )
    assert fingerprint_of(moved) == fingerprint_of(BASE)


def job_of(**changes):
    values = {"source": "/in", "output": "/out", "conditions": ("canny",)} | changes
    config = configured(GenerateConfig, **values)
    spec = SourceSpec(root="/in", kind=SourceKind.IMAGES, selections=())
    captioner = captioner_of(config.captioner, config) if config.captioner else None
    return Job(config=config, specs=specs_of(config), source=spec, captioner=captioner)


CONFIG_CHANGES = {
    "caption": "none",
    "caption_text": "a photograph",
    "caption_list": "random",
    "caption_column": "title",
    "image_column": "picture",
    "source_format": "images",
    "source_split": "train",
    "resolution": 256,
    "fit": "pad",
    "pad_color": "black",
    "import_condition": ("lines=maps/{name}.png",),
    "keep_columns": ("id",),
    "image_format": "png",
    "quality": 90,
    "keep_metadata": True,
    "max_pixels": 1000,
    "min_side": 8,
    "max_aspect": 2.0,
    "shard_rows": 10,
    "validation": 0.1,
    "keep_copies_together": True,
    "limit": 5,
    "seed": 1,
}
ELSEWHERE = {
    "source": "/other",
    "output": "/other",
    "num_workers": 7,
    "overwrite": True,
    "dry_run": True,
    "beam_args": ("--runner=DirectRunner",),
    "device": "cpu",
    "weights": "/other",
    "offline": True,
    "compile": True,
}
OF_A_MODEL = {
    # option -> (condition or captioner whose record it goes into, another value)
    "canny_thresholds": ("canny", "50,100"),
    "depth_model": ("depth", "midas"),
    "depth_bits": ("depth", 16),
    "pose": ("pose", ("hands",)),
    "pose_model": ("pose", "usyd-community/vitpose-base-simple"),
    "keep_empty_pose": ("pose", True),
    "hed_mode": ("hed", "safe"),
    "softedge_mode": ("softedge", "scribble"),
    "lineart_coarse": ("lineart", True),
    "mlsd_thresholds": ("mlsd", "0.2,0.1"),
    "segmentation_model": ("segmentation", "another/model"),
    "tile_factor": ("tile", 8),
    "precision": ("hed", "fp32"),
    "caption_model": ("blip", "another/model"),
    "caption_prompt": ("blip", "a photo of"),
    "caption_beams": ("blip", 1),
    "caption_top_p": ("blip", 0.9),
    "caption_max_tokens": ("blip", 10),
}


def test_every_option_either_belongs_to_a_record_or_cannot_change_a_byte():
    names = {field.name for field in dataclasses.fields(GenerateConfig)}
    names |= {option.name for options in all_options().values() for option in options}
    once_more = {"conditions", "pose_detector"}  # the latter: see the next test but one
    assert {*once_more, *CONFIG_CHANGES, *OF_A_MODEL, *ELSEWHERE} == names - {"options"}


@pytest.mark.parametrize("option", OF_A_MODEL)
def test_the_identity_follows_each_option_of_a_model_that_is_used(option):
    model, value = OF_A_MODEL[option]
    used = {"caption": "blip"} if model == "blip" else {"conditions": (model,)}
    used |= (
        {} if option == "precision" else {"precision": "bf16" if option != "depth_bits" else "auto"}
    )
    base = job_of(**used | ({"precision": "bf16"} if option == "precision" else {}))
    assert job_of(**used | {option: value}).identity != base.identity
    assert job_of(**{option: value}).identity == job_of().identity or model == "canny"


def test_the_detector_of_persons_matters_to_vitpose_alone():
    vitpose = {"conditions": ("pose",), "pose_model": "usyd-community/vitpose-base-simple"}
    other = {"pose_detector": "another/detector"}
    assert job_of(**vitpose, **other).identity != job_of(**vitpose).identity


@pytest.mark.parametrize("option", CONFIG_CHANGES)
def test_the_identity_follows_each_option_of_the_recipe(option):
    changes = {option: CONFIG_CHANGES[option]}
    needed = {"pad_color": {"fit": "pad"}, "keep_copies_together": {"validation": 0.1}}.get(option)
    if needed is not None:
        assert job_of(**needed, **changes).identity != job_of(**needed).identity
        return
    if option == "caption_text":
        changes["caption"] = "fixed"
    base = job_of(caption="fixed", caption_text="another") if len(changes) == 2 else job_of()
    assert job_of(**changes).identity != base.identity


@pytest.mark.parametrize("option", ELSEWHERE)
def test_where_a_run_happens_is_not_in_its_identity(option):
    assert job_of(**{option: ELSEWHERE[option]}).identity == job_of().identity


def test_a_new_revision_of_code_or_annotator_is_another_identity(monkeypatch):
    before = job_of().identity
    with monkeypatch.context() as patch:
        patch.setattr("annotators.conditions.canny.CannySpec.revision", 99)
        assert job_of().identity != before
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.job.PIPELINE_REVISION", 99)
        assert job_of().identity != before
    assert job_of().identity == before


# The graph ------------------------------------------------------------------------------------


def test_the_graph_makes_the_plans_that_the_functions_say():
    refs = refs_of("", 60) + refs_of("a.tar", 25) + refs_of("b.parquet#rg00000", 30)
    expected = planned(refs, shard_rows=2, validation=0.3)
    assert any(not plan.refs for plan in expected.values())  # the hash left one empty
    with test_pipeline.TestPipeline(runner="FnApiRunner") as pipeline:
        plans = (
            pipeline | beam.Create(refs[::-1]) | PlanShards(job_of(shard_rows=2, validation=0.3))
        )
        util.assert_that(plans, util.equal_to(list(expected.values())))
