"""The printed commands, parsed again, give the very models that made the data set."""

import dataclasses
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.conditions.canny import CannySpec
from annotators.conditions.depth import DepthSpec
from annotators.conditions.soft_edges import HedSpec
from annotators.options import configured
from annotators.registry import (
    all_options,
    captioner_of,
    ours,
    record_of,
    record_of_captioner,
    specs_of,
)
from controlset.commands.generate import parse_config
from pipeline.config import GenerateConfig
from pipeline.output.card import commands_of
from tests.pipeline.handmade import manifest_of

EVERYTHING = tuple(ours())
OTHERWISE = {
    "canny_thresholds": "50-150,160-250",
    "depth_model": "midas",
    "depth_bits": 16,
    "pose": ("hands", "face"),
    "pose_model": "usyd-community/vitpose-base-simple",
    "pose_detector": "/my models/-detector",
    "keep_empty_pose": True,
    "hed_mode": "safe",
    "softedge_mode": "scribble",
    "lineart_coarse": True,
    "mlsd_thresholds": "0.25,12.5",
    "segmentation_model": "somebody/it's a model",
    "tile_factor": 8,
    "caption_model": "Salesforce/blip2-opt-2.7b",
    "caption_prompt": "-a photo of `it`, $HOME",
    "caption_beams": 5,
    "caption_top_p": 0.9,
    "caption_max_tokens": 17,
    "seed": 7,
}
# Hands and faces are OpenPose's alone, the detector ViTPose's.
TOGETHER = {name: value for name, value in OTHERWISE.items() if name != "pose"}


def config_of(**options):
    options = {"conditions": EVERYTHING, "precision": "fp32"} | options
    return configured(GenerateConfig, source="photographs", output="DIR", **options)


def models_of(config):
    captioner = None if config.captioner is None else captioner_of(config.captioner, config)
    return specs_of(config), captioner


def manifest_from(config):
    specs, captioner = models_of(config)
    return manifest_of(
        {"train": []},
        recipe=config.recipe(),
        source=config.source,
        annotators={spec.name: record_of(spec) for spec in specs},
        captioner=None if captioner is None else record_of_captioner(captioner),
    )


def parsed_again(command):
    words = shlex.split(command)
    assert words[:2] == ["controlset", "generate"]
    return parse_config(words[2:])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"caption": "blip"},
        {"caption": "sidecar-else-blip", **TOGETHER},
        {"precision": "bf16", "caption": "blip"},
        {"precision": "auto", "depth_bits": 16, "caption": "blip"},
        {"conditions": ("canny", "tile"), "precision": "auto"},
        {"fit": "pad", "resolution": 768, "min_side": 100, "validation": 0.1, "quality": 80},
    ],
)
def test_a_command_gives_the_models_and_the_recipe_that_it_was_made_from(options):
    config = config_of(**options)
    (command,) = commands_of(manifest_from(config))
    again = parsed_again(command)
    assert models_of(again) == models_of(config)
    assert again.recipe() == config.recipe()
    assert (again.source, again.conditions) == (config.source, config.conditions)


# What a shell, a table of the card or the parser could take for something of its own.
WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("-'\"`$=[]|\\ "), min_size=1
).filter(lambda words: words == words.strip())


# Without numbers so small that a processor may take them for zero, as trainings tell it to.
@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    prompt=WORDS,
    model=WORDS,
    beams=st.integers(1, 32),
    top_p=st.none() | st.floats(0.001, 1, allow_subnormal=False),
    seed=st.integers(0, 2**31),
    low=st.integers(0, 254),
    above=st.integers(1, 255),
    validation=st.floats(0, 0.999, allow_subnormal=False),
)
def test_any_words_and_numbers_come_back(prompt, model, beams, top_p, seed, low, above, validation):
    config = config_of(
        conditions=("canny",),
        caption="blip",
        caption_prompt=prompt,
        caption_model=model,
        caption_beams=beams,
        caption_top_p=top_p,
        seed=seed,
        canny_thresholds=f"{low},{low + above}",
        validation=validation,
    )
    (command,) = commands_of(manifest_from(config))
    again = parsed_again(command)
    assert models_of(again) == models_of(config)
    assert again.recipe() == config.recipe()


def test_no_option_of_the_models_is_forgotten():
    names = {option.name for options in all_options().values() for option in options}
    assert names | {"seed"} == OTHERWISE.keys()
    config = config_of(caption="blip", **TOGETHER)
    (command,) = commands_of(manifest_from(config))
    for name in OTHERWISE.keys() - {"pose"}:
        assert f"--{name.replace('_', '-')}" in command


@pytest.mark.parametrize("name", sorted(OTHERWISE.keys() - {"seed"}))
def test_each_option_alone_comes_back(name):
    names = {name, "pose_model"} if name == "pose_detector" else {name}
    config = config_of(caption="blip", **{one: OTHERWISE[one] for one in names})
    (command,) = commands_of(manifest_from(config))
    assert models_of(parsed_again(command)) == models_of(config)
    assert command.count("--") == len("output conditions precision caption".split()) + len(names)


@pytest.mark.parametrize("name", [*EVERYTHING, "blip"])
def test_every_parameter_of_a_model_is_known_to_the_command(name):
    specs, captioner = models_of(config_of(caption="blip", **TOGETHER))
    (spec,) = [one for one in (*specs, captioner) if one.name == name]
    own = {field.name for field in dataclasses.fields(spec)} - {"seed", "precision"}
    assert own == {part for option in all_options()[name] for part in option.parameters}


def test_what_cannot_have_come_from_one_run_was_added_in_another():
    manifest = manifest_of(
        {"train": []},
        recipe={"caption": "sidecar-else-blip", "resolution": 512, "min_side": 256, "seed": 3},
        annotators={
            "canny": record_of(CannySpec(seed=3)),
            "hed": record_of(HedSpec(precision="bf16")),
            "depth": record_of(DepthSpec(model="midas")),
        },
        captioner=record_of_captioner(captioner_of("blip", config_of(seed=5))),
    )
    assert commands_of(manifest) == [
        "controlset generate /data/photos --output DIR --conditions canny hed --precision bf16 "
        "--seed 3",
        "controlset add DIR --conditions depth --depth-model midas --precision fp32 "
        "--caption blip --seed 5",
    ]


def test_an_annotator_that_is_not_installed_has_no_options():
    theirs = record_of(CannySpec()) | {"parameters": {"seed": 9, "precision": "odd", "model": "x"}}
    manifest = manifest_of({"train": []}, annotators={"checkerboard": theirs})
    assert commands_of(manifest) == [
        "controlset generate /data/photos --output DIR --conditions checkerboard --validation 0.1"
    ]
