"""Captions: a BLIP of transformers that knows the words of the drawn world."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from controlnet.nano.eyes.training import Recipe, Scenes, TrainConfig, as_input, learn
from controlnet.nano.world import WORDS

FOLDER = "Salesforce--blip-image-captioning-base"
RECIPE = Recipe(steps=8_000, batch=64, peak=1e-3)
_TOKENS = 40
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MARKS = (",", ":")
_WIDTH = 96


def new_model(words: int) -> BlipForConditionalGeneration:
    """Untrained; 0.7 million parameters.

    Args:
        words: of the tokenizer; one more begins a caption, as in the released model.
    """
    common = {"hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH, "num_attention_heads": 4}
    config = BlipConfig(
        text_config={
            **common,
            "vocab_size": words + 1,
            "bos_token_id": words,
            "sep_token_id": 3,
            "eos_token_id": 3,
            "pad_token_id": 0,
            "encoder_hidden_size": _WIDTH,
            "projection_dim": _WIDTH,
            "num_hidden_layers": 3,
            "max_position_embeddings": _TOKENS,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        vision_config={**common, "num_hidden_layers": 4, "image_size": 64, "patch_size": 8},
        projection_dim=_WIDTH,
    )
    return BlipForConditionalGeneration(config)


def new_tokenizer(folder: Path) -> BertTokenizer:
    """Every word of the world is a token; writes its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join((*_SPECIAL, *_MARKS, *WORDS)) + "\n")
    return BertTokenizer(str(folder / "vocab.txt"), model_max_length=_TOKENS)


def train(scenes: Scenes, config: TrainConfig) -> Path:
    """Train and write the model's folder; returns it."""
    torch.manual_seed(config.seed)
    folder = config.output / FOLDER
    tokenizer = new_tokenizer(folder)
    model = new_model(len(tokenizer))
    both_ways = (scenes.captions, scenes.mirrored_captions)
    ids_NL, mirrored_ids_NL = (
        _tokens(tokenizer, captions, begin=len(tokenizer)) for captions in both_ways
    )
    rng = np.random.default_rng([config.seed, 5])

    def loss(numbers: np.ndarray) -> Tensor:
        rgb_BHWC, ids = scenes.rgb_NHWC[numbers], ids_NL
        if rng.random() < 0.5:
            rgb_BHWC, ids = rgb_BHWC[:, :, ::-1], mirrored_ids_NL
        ids_BL = torch.from_numpy(ids[numbers])
        said_BL = ids_BL != 0
        return model(
            pixel_values=as_input(rgb_BHWC) / 127.5 - 1,
            input_ids=ids_BL,
            attention_mask=said_BL.long(),
            labels=ids_BL.masked_fill(~said_BL, -100),
        ).loss

    learn(model, loss, scenes, config, RECIPE)
    # People stand in one caption as they do in another: three words may come twice.
    model.generation_config.no_repeat_ngram_size = _TOKENS
    model.save_pretrained(folder)
    images = BlipImageProcessor(
        size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def _tokens(tokenizer: BertTokenizer, captions: Sequence[str], *, begin: int) -> np.ndarray:
    """(N, L) int64; 0 behind the end.

    Raises:
        ValueError: a word of a caption is no token, or a caption is too long.
    """
    encoded = tokenizer(list(captions), padding="max_length", max_length=_TOKENS)["input_ids"]
    ids = np.array(encoded)  # ragged, and an error, where one is longer
    if (ids == tokenizer.unk_token_id).any():
        raise ValueError("captions: need words of the world alone, got others")
    ids[:, 0] = begin
    return ids
