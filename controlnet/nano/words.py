"""The nano base's vocabulary, as a CLIP tokenizer's two files."""

import json
from pathlib import Path

from controlnet.nano.scenes import COLORS, SHAPES

TOKENS = 24
"""Tokens of a prompt, start and end included; the longest scene's caption has 20."""

_WORDS = ("a", "an", "and", "on", "background", ",", *COLORS, *SHAPES)


def write_tokenizer(folder: Path) -> int:
    """Write a byte-pair tokenizer in which every word of a scene is one token.

    Other words still have tokens, letter by letter, so any prompt is accepted.

    Args:
        folder: made if it is not there; gets diffusers' `tokenizer/` files.

    Returns:
        Size of the vocabulary.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(_WORDS, trainer)  # ends when every word is one piece
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += dict.fromkeys(
        piece for piece in (left + right for left, right in merges) if piece not in pieces
    )
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TOKENS
    )
    tokenizer.save_pretrained(folder)
    return len(pieces)
