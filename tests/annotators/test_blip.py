import collections
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import skimage
import torch

from annotators.captions import BlipSpec, Nucleus, guarded
from annotators.options import AnnotateConfig, configured
from annotators.protocol import weights_of
from annotators.registry import captioner_of, record_of_captioner
from annotators.runtime import Runtime
from schemas.errors import ConfigError, Reason, Rejected
from schemas.model_files import quiet
from tests.annotators.tiny_captioners import MAKERS, VOCABULARY, make_blip

FAMILIES = tuple(MAKERS)
KEYS = [f"key-{number}" for number in range(8)]
SEARCHES = {"beams": {"beams": 3}, "greedy": {"beams": 1}, "nucleus": {"top_p": 0.9}}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """As in a job; two threads of torch on a busy machine wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All three models, where `--weights` would have them."""
    folder = tmp_path_factory.mktemp("weights")
    for family, make in MAKERS.items():
        make(folder / family)
    return folder


@pytest.fixture(scope="module")
def photographs():
    """Eight, of four sizes, read-only as decoded pictures are."""
    whole = [getattr(skimage.data, n)() for n in ("astronaut", "coffee", "chelsea", "rocket")]
    pictures = [*whole, *(one[:200, 50:350] for one in whole)]
    for one in pictures:
        one.flags.writeable = False
    return pictures


def load(folder, family="blip", **changes):
    return BlipSpec(**{"model": family, "max_tokens": 10} | changes).load(
        Runtime(weights=str(folder), offline=True)
    )


# What the models say


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_caption_does_not_depend_on_its_batch(folder, photographs, family, search, precision):
    captioner = load(folder, family, precision=precision, **SEARCHES[search])
    together = captioner(photographs, KEYS)
    alone = [captioner([one], [key])[0] for one, key in zip(photographs, KEYS, strict=True)]
    assert list(map(str, together)) == list(map(str, alone))
    assert len(set(map(str, together))) > 4  # the pictures matter
    words = {word for caption in together if isinstance(caption, str) for word in caption.split()}
    assert len(words) > 3
    assert words <= set(VOCABULARY[5:])  # no special tokens


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("prompt", [None, "a photo of"])
def test_blip_says_what_the_transformers_loop_says(folder, photographs, beams, prompt):
    from transformers import AutoProcessor, BlipForConditionalGeneration

    with quiet("transformers"):
        model = BlipForConditionalGeneration.from_pretrained(folder / "blip").eval()
        processor = AutoProcessor.from_pretrained(folder / "blip")
    expected = []
    for photograph in photographs:
        inputs = processor(photograph.copy(), text=prompt, return_tensors="pt")
        words = model.generate(**inputs, max_new_tokens=10, num_beams=beams, no_repeat_ngram_size=3)
        expected.append(str(guarded(processor.decode(words[0], skip_special_tokens=True))))
    ours = load(folder, beams=beams, prompt=prompt)(photographs, KEYS)
    assert list(map(str, ours)) == expected


def test_red_and_blue_are_not_swapped(folder, photographs):
    captioner = load(folder)
    swapped = [np.ascontiguousarray(one[..., ::-1]) for one in photographs]
    assert captioner(photographs, KEYS) != captioner(swapped, KEYS)


def test_threads_share_a_model(folder, photographs):
    captioner = load(folder, top_p=0.9)
    expected = list(map(str, captioner(photographs, KEYS)))
    with ThreadPoolExecutor(4) as pool:
        for several in pool.map(lambda _: captioner(photographs, KEYS), range(12)):
            assert list(map(str, several)) == expected


# Draws


def test_a_drawn_caption_depends_on_seed_and_key_alone(folder, photographs):
    captioner = load(folder, top_p=0.9, seed=1)
    captions = captioner(photographs, KEYS)
    torch.manual_seed(5)
    assert captioner(photographs[::-1], KEYS[::-1]) == captions[::-1]
    assert captioner(photographs, KEYS[::-1]) != captions
    assert load(folder, top_p=0.9, seed=2)(photographs, KEYS) != captions


def test_tokens_are_drawn_by_their_probability_inside_the_nucleus_alone():
    probabilities = torch.tensor([0.4, 0.05, 0.3, 0.2, 0.05])
    keys = [f"key-{number}" for number in range(8000)]
    draw = Nucleus(keys, seed=0, top_p=0.8)
    drawn = draw(torch.empty(0), probabilities.log().repeat(len(keys), 1)).argmax(-1)
    shares = {token: n / len(keys) for token, n in collections.Counter(drawn.tolist()).items()}
    assert shares.keys() == {0, 2, 3}
    for token, expected in {0: 0.4 / 0.9, 2: 0.3 / 0.9, 3: 0.2 / 0.9}.items():
        assert abs(shares[token] - expected) < 0.02


# Prompts


def test_blip_goes_on_with_the_prompt(folder, photographs):
    for caption in load(folder, prompt="a photo of")(photographs, KEYS):
        assert re.match(r"a photo of \w+", str(caption))


def test_blip2_answers_the_prompt_without_repeating_it(folder, photographs):
    asked = load(folder, "blip-2", prompt="question what is there answer")(photographs, KEYS)
    assert not any("what is there" in str(caption) for caption in asked)
    assert asked != load(folder, "blip-2")(photographs, KEYS)


def test_florence2_takes_a_task_as_its_prompt(folder, photographs):
    plain = load(folder, "florence2")(photographs, KEYS)
    assert load(folder, "florence2", prompt="<CAPTION>")(photographs, KEYS) == plain
    assert load(folder, "florence2", prompt="<DETAILED_CAPTION>")(photographs, KEYS) != plain
    message = "--caption-prompt: need one of <CAPTION>, .* for Florence-2, got '<OD>'"
    with pytest.raises(ConfigError, match=message):
        load(folder, "florence2", prompt="<OD>")


# Models that loop or are silent


def with_favourite(folder, favourite):
    """A BLIP that wants to say one token, whatever the picture."""
    make_blip(folder)
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    state = load_file(path)
    names = [name for name in state if name.endswith("cls.predictions.bias")]
    for name in names or ["text_decoder.cls.predictions.decoder.bias"]:
        state[name][VOCABULARY.index(favourite)] += 1000
    save_file(state, path, metadata={"format": "pt"})


def test_a_model_that_repeats_one_word_is_rejected(tmp_path, photographs):
    with_favourite(tmp_path / "blip", "cat")
    for result in load(tmp_path, max_tokens=3)(photographs[:2], KEYS[:2]):
        assert isinstance(result, Rejected)
        assert result.reason is Reason.BAD_CAPTION
        assert result.detail == "need a caption that does not repeat itself, got 'cat cat cat'"


@pytest.mark.parametrize(
    ("prompt", "detail"),
    [(None, "need words, got ''"), ("a photo of", "need more than the prompt, got 'a photo of'")],
)
def test_a_model_that_says_nothing_is_rejected(tmp_path, photographs, prompt, detail):
    with_favourite(tmp_path / "blip", "[SEP]")
    for result in load(tmp_path, prompt=prompt)(photographs[:2], KEYS[:2]):
        assert isinstance(result, Rejected)
        assert result.reason is Reason.NO_CAPTION
        assert result.detail == detail


# What stands around it


def test_options_become_the_spec_and_the_spec_its_record():
    options = configured(
        AnnotateConfig,
        conditions=(),
        precision="bf16",
        device="cpu",
        caption_model="Somebody/blip",
        caption_prompt="a photo of",
        caption_beams=2,
        caption_top_p=0.5,
        caption_max_tokens=7,
        seed=3,
    )
    spec = captioner_of("blip", options)
    record = record_of_captioner(spec)
    assert json.loads(json.dumps(record)) == record
    assert BlipSpec(**record["parameters"]) == spec
    assert record["parameters"] == {
        "model": "Somebody/blip",
        "prompt": "a photo of",
        "beams": 2,
        "top_p": 0.5,
        "max_tokens": 7,
        "seed": 3,
        "precision": "bf16",
    }
    assert [one.hub_id for one in weights_of(spec)] == ["Somebody/blip"]


def test_settings_of_transformers_are_restored():
    from transformers.utils import logging as library

    library.set_verbosity_info()
    library.enable_progress_bar()
    try:
        with quiet("transformers"), quiet("transformers"):
            assert library.get_verbosity() == library.CRITICAL
            assert not library.is_progress_bar_enabled()
        assert library.get_verbosity() == library.INFO
        assert library.is_progress_bar_enabled()
    finally:
        library.set_verbosity_warning()


PROGRAM = """
import socket, sys
def refuse(*arguments):
    raise SystemExit(f"the network was asked: {arguments}")
socket.socket.connect = socket.getaddrinfo = refuse
import skimage
from annotators.captions import BlipSpec
from annotators.runtime import Runtime
for family in ("blip", "blip-2", "florence2"):
    spec = BlipSpec(model=family, precision="bf16", top_p=0.9 if family == "blip" else None)
    spec.load(Runtime(weights=sys.argv[1]))([skimage.data.rocket()], ["key"])
"""


@pytest.mark.slow
def test_nothing_is_printed_and_no_network_is_asked(folder):
    run = subprocess.run(
        [sys.executable, "-W", "always", "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
