"""Captions: a BLIP of transformers that knows the words of the drawn world."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from controlnet.nano.eyes.training import (
    Recipe,
    Scenes,
    TrainConfig,
    as_input,
    class_weights,
    initialise,
    learn,
)
from controlnet.nano.world import CLASSES, WORDS

FOLDER = "Salesforce--blip-image-captioning-base"
RECIPE = Recipe(steps=8_000, batch=64, peak=1e-3)
_TOKENS = 40
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MARKS = (",", ":")
_WIDTH = 96
_PATCH_PX = 8
_MOST_PX = 4  # that a picture is moved while it is learned
_PATCHES = 0.5  # weight of each patch's classes: a caption alone says little of where things are


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
        vision_config={**common, "num_hidden_layers": 4, "image_size": 64, "patch_size": _PATCH_PX},
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
    initialise(model.vision_model)
    _know_where_patches_are(model)
    classes_of = nn.Linear(_WIDTH, len(CLASSES))  # of each patch; thrown away after the training
    weights_C = torch.from_numpy(class_weights(scenes))

    def loss(numbers: np.ndarray) -> Tensor:
        rgb_BHWC, classes_BHW, ids = scenes.rgb_NHWC[numbers], scenes.classes_NHW[numbers], ids_NL
        if rng.random() < 0.5:
            rgb_BHWC, classes_BHW = rgb_BHWC[:, :, ::-1], classes_BHW[:, :, ::-1]
            ids = mirrored_ids_NL
        rgb_BHWC, classes_BHW = _shifted(rng, rgb_BHWC, classes_BHW)
        ids_BL = torch.from_numpy(ids[numbers])
        ids_BL = ids_BL[:, : int((ids_BL != 0).sum(1).max())]
        said_BL = ids_BL != 0
        answer = model(
            pixel_values=as_input(rgb_BHWC) / 127.5 - 1,
            input_ids=ids_BL,
            attention_mask=said_BL.long(),
            labels=ids_BL.masked_fill(~said_BL, -100),
        )
        found_BPC = classes_of(answer.last_hidden_state[:, 1:]).log_softmax(-1)
        wanted_BPC = _shares(classes_BHW) * weights_C
        return answer.loss - _PATCHES * (found_BPC * wanted_BPC).sum(-1).mean()

    learn(nn.ModuleList([model, classes_of]), loss, scenes, config, RECIPE)
    # People stand in one caption as they do in another: three words may come twice.
    model.generation_config.no_repeat_ngram_size = _TOKENS
    model.save_pretrained(folder)
    images = BlipImageProcessor(
        size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def _know_where_patches_are(model: BlipForConditionalGeneration) -> None:
    """Begin with waves across and down as position embeddings: neighbours are alike at once."""
    side = int((model.vision_model.embeddings.num_positions - 1) ** 0.5)
    place_S = torch.arange(side, dtype=torch.float32)
    turns_S4 = place_S[:, None] * torch.pi / 2 ** torch.arange(_WIDTH // 4).div(_WIDTH / 16)
    waves_SW = torch.cat([turns_S4.sin(), turns_S4.cos()], 1)
    across_SSW, down_SSW = waves_SW.expand(side, -1, -1), waves_SW[:, None].expand(-1, side, -1)
    positions = torch.cat([across_SSW, down_SSW], -1).reshape(side * side, _WIDTH)
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding[0, 1:] = 0.5 * positions


def _shifted(
    rng: np.random.Generator, rgb_BHWC: np.ndarray, classes_BHW: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each picture moved by up to half a patch, its edge repeated: other patches, same caption."""
    batch, side = classes_BHW.shape[:2]
    down_BH, across_BW = (
        np.clip(rng.integers(-_MOST_PX, _MOST_PX + 1, (batch, 1)) + np.arange(side), 0, side - 1)
        for _ in range(2)
    )
    picked = np.arange(batch)[:, None, None], down_BH[:, :, None], across_BW[:, None, :]
    return rgb_BHWC[picked], classes_BHW[picked]


def _shares(classes_BHW: np.ndarray) -> Tensor:
    """(B, patches, classes) float32: of each patch's pixels."""
    classes_BHWC = functional.one_hot(torch.from_numpy(classes_BHW).long(), len(CLASSES)).float()
    shares_BCHW = functional.avg_pool2d(classes_BHWC.permute(0, 3, 1, 2), _PATCH_PX)
    return shares_BCHW.flatten(2).transpose(1, 2)


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
