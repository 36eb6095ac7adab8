"""CLIP score: the formula by hand on a tiny CLIP, and models that are not there."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    CLIPTokenizer,
)

from controlnet.evaluator.metrics.clip_score import ClipScore
from controlnet.nano.build import TOKENS, write_tokenizer
from schemas.errors import ConfigError
from tests.controlnet.tiny_bases import one_thread  # noqa: F401

SIDE = 32  # of what the tiny CLIP sees, px
TEXTS = ["a red circle on a white background", "a blue star", "a heart, a moon and a ring"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP of two layers of width 32, loud enough that pictures and texts point anywhere."""
    folder = tmp_path_factory.mktemp("clip") / "tiny"
    write_tokenizer(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    layers = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = CLIPConfig(
        text_config=layers
        | {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": TOKENS,
            "bos_token_id": len(tokenizer) - 2,
            "eos_token_id": len(tokenizer) - 1,
            "pad_token_id": len(tokenizer) - 1,
        },
        vision_config=layers | {"image_size": SIDE, "patch_size": 8},
        projection_dim=4,
    )
    model = CLIPModel(config)
    rng = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        # Its own beginnings would leave every picture where the class token points.
        if name.endswith("weight") and "norm" not in name:
            weight.data = 0.3 * torch.randn(weight.shape, generator=rng)
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def score(folder):
    return ClipScore(folder, offline=True)


def pictures_of(count, *, side=SIDE, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return [np.asarray(Image.fromarray(one).resize((side, side), 0)) for one in coarse]


def by_hand(folder, picture, text):
    """100 * max(cos, 0), pixels prepared as OpenAI's CLIP prepares them."""
    model = CLIPModel.from_pretrained(folder).eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels_HWC = (torch.from_numpy(picture / 255).float() - mean) / deviation
    tokens = CLIPTokenizer.from_pretrained(folder)(text)["input_ids"]
    with torch.no_grad():
        seen = model.vision_model(pixels_HWC.permute(2, 0, 1)[None]).pooler_output
        read = model.text_model(torch.tensor([tokens])).pooler_output
        image_D, text_D = model.visual_projection(seen)[0], model.text_projection(read)[0]
    cosine = image_D @ text_D / (image_D.norm() * text_D.norm())
    return 100 * max(cosine.item(), 0.0)


def test_each_picture_has_the_score_of_its_own_text(score, folder):
    pictures, texts = pictures_of(12), TEXTS * 4
    found = score(pictures, texts)
    expected = [by_hand(folder, *pair) for pair in zip(pictures, texts, strict=True)]
    assert found == pytest.approx(expected, abs=1e-2)
    assert len({round(one, 3) for one in found}) > 3


def test_a_picture_that_contradicts_its_text_scores_zero_and_none_is_below(score):
    found = score(pictures_of(30), TEXTS * 10)
    assert min(found) == 0
    assert 0 < max(found) <= 100


def test_pictures_of_two_sizes_in_two_batches_score_as_they_do_alone(score):
    pictures = [*pictures_of(15), *pictures_of(3, side=48)]
    texts = TEXTS * 6
    alone = [score([picture], [text])[0] for picture, text in zip(pictures, texts, strict=True)]
    assert score(pictures, texts) == pytest.approx(alone, abs=1e-2)


def test_a_picture_three_pixels_high_is_not_taken_for_one_of_three_colours(score):
    strip = np.random.default_rng(0).integers(0, 256, (3, 3, 3), np.uint8)
    enlarged = np.asarray(Image.fromarray(strip).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    assert score([strip], TEXTS[:1]) == pytest.approx(score([enlarged], TEXTS[:1]), abs=2)


def test_a_caption_that_is_too_long_is_cut_where_the_model_ends(score):
    picture = pictures_of(1)
    start = ["a red circle", *["and a red circle"] * 20]
    other_end = [*start, "and a blue star"]
    assert score(picture, [" ".join(start)]) == score(picture, [" ".join(other_end)])


def test_an_empty_caption_has_a_score(score):
    assert 0 <= score(pictures_of(1), [""])[0] <= 100


def test_no_pictures_have_no_scores(score):
    assert score([], []) == []


def test_every_picture_needs_a_text(score):
    with pytest.raises(ValueError, match="need a text for each picture, got 2 and 3"):
        score(pictures_of(2), TEXTS)


def test_its_name_says_model_weights_and_formula_but_no_place(score, folder):
    assert score.name.startswith("CLIP tiny (weights ")
    assert "100 * max(cos, 0)" in score.name
    assert folder not in score.name


def test_loading_shows_no_bars(folder, capfd):
    ClipScore(folder, offline=True)
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------- not there


def refused(name):
    with pytest.raises(ConfigError) as caught:
        ClipScore(name, offline=True)
    message = str(caught.value)
    assert message.startswith(f"--clip {name}: need a CLIP model in transformers' folder format, ")
    assert message.endswith("; give its folder or its name on the hub with --clip NAME")
    assert "\n" not in message
    return message


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    refused(str(tmp_path / "none"))
    refused("nobody/no-clip-of-this-name")


def test_weights_that_are_not_in_the_file_are_not_made_up(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "clip")
    CLIPTextModel.from_pretrained(folder).save_pretrained(tmp_path / "text")
    shutil.copy(tmp_path / "text" / "model.safetensors", broken)
    refused(str(broken))


@pytest.mark.parametrize("cut", ["model.safetensors", "config.json"])
def test_a_torn_file_is_one_line(cut, folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "clip")
    (broken / cut).write_bytes((broken / cut).read_bytes()[:100])
    refused(str(broken))


def test_a_folder_without_words_or_image_settings_is_refused(folder, tmp_path):
    for missing in ("tokenizer.json", "processor_config.json"):
        broken = shutil.copytree(folder, tmp_path / missing)
        for name in ("vocab.json", "merges.txt", missing):
            (broken / name).unlink(missing_ok=True)
        refused(str(broken))
