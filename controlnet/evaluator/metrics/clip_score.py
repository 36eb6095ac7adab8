"""Whether a picture shows what its caption says: by CLIP, and by the words of drawn scenes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from controlnet.architecture.backbone import fingerprint
from controlnet.architecture.model_folder import refusing, whole, without_bars
from controlnet.evaluator.metrics.base import Measure
from controlnet.nano.reading import text_scores
from schemas.model_files import NO_CODE, no_questions
from schemas.pixels import RgbU8

_BATCH = 16  # bounds memory only


class ClipScore:
    """100 * max(cos, 0) of a picture's and its caption's embedding.

    Args:
        name: a CLIP model: folder, or name on the hub. Scores of two models do not compare:
            ControlNet++ and HumanSD use `openai/clip-vit-base-patch16`.
        device: where it runs.
        offline: never ask the hub.

    Raises:
        ConfigError: it is not there, or no CLIP model.

    Source: Hessel et al. 2021 without their factor 2.5 and prefix, as torchmetrics has it; but
        each pair's score is cut at 0, not the mean of all.
    """

    def __init__(self, name: str, *, device: str = "cpu", offline: bool = False) -> None:
        model, self._processor = _loaded(name, offline)
        self._model, self._device = model.requires_grad_(False).eval().to(device), device
        self._tokens: int = model.config.text_config.max_position_embeddings
        self.name = (
            f"CLIP {Path(name).name if Path(name).is_dir() else name} "
            f"(weights {fingerprint(model)}), 100 * max(cos, 0), captions cut at {self._tokens} "
            "tokens"
        )

    @torch.no_grad()
    def __call__(self, pictures: Sequence[RgbU8], texts: Sequence[str]) -> list[float]:
        """Score each picture against its own text.

        Args:
            pictures: of any sizes.
            texts: as many.

        Returns:
            0..100 of each picture.

        Raises:
            ValueError: not as many texts as pictures.
        """
        if len(pictures) != len(texts):
            raise ValueError(f"need a text for each picture, got {len(pictures)} and {len(texts)}")
        scores: list[float] = []
        for start in range(0, len(pictures), _BATCH):
            chosen = slice(start, start + _BATCH)
            scores += self._of_batch(pictures[chosen], texts[chosen])
        return scores

    def _of_batch(self, pictures: Sequence[RgbU8], texts: Sequence[str]) -> list[float]:
        inputs = self._processor(
            # Pillow's pictures are uint8 RGB beyond doubt: floats would be divided by 255 again,
            # and of an array the processor guesses which axis the colours are.
            images=[Image.fromarray(picture) for picture in pictures],
            text=list(texts),
            padding=True,
            truncation=True,
            max_length=self._tokens,
            return_tensors="pt",
        ).to(self._device)
        found = self._model(**inputs)
        cosine_B = torch.cosine_similarity(found.image_embeds, found.text_embeds)
        return (100 * cosine_B.float().clamp(min=0)).tolist()


@without_bars()
def _loaded(name: str, offline: bool) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPProcessor

    unusable = (
        f"--clip {name}: need a CLIP model in transformers' folder format, found none that is"
    )
    advice = "give its folder or its name on the hub with --clip NAME"
    with refusing(lambda said: f"{unusable} usable ({said}); {advice}"):
        model = whole(CLIPModel, name, "", offline=offline)
        with no_questions():
            processor = CLIPProcessor.from_pretrained(name, local_files_only=offline, **NO_CODE)
        tokenizer = processor.tokenizer
        if tokenizer.vocab_size <= len(tokenizer.all_special_ids):  # its answer to no files
            raise FileNotFoundError("no vocabulary")
    return model, processor


class Words:
    """Whether the words of a caption came true in a drawn scene: nano's captions only."""

    protocol = "drawn scenes: regions of the named colour; shape by IoU >= 0.75 with drawn masks"
    measures = tuple(
        Measure(name=f"words_{name}", label=label, higher_is_better=True, kind="text")
        for name, label in (
            ("colors", "colours come true"),
            ("shapes", "coloured shapes come true"),
            ("background", "backgrounds come true"),
        )
    )

    def __call__(
        self, pictures: Sequence[RgbU8], keys: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[np.ndarray]]:
        """See `Extra`."""
        found = [text_scores(*pair) for pair in zip(pictures, texts, strict=True)]
        return {
            measure.name: [
                np.array([shares[measure.name.removeprefix("words_")]]) for shares in found
            ]
            for measure in self.measures
        }


class Clip:
    """CLIP score of a picture and its caption.

    Args:
        score: the model.
    """

    measures = (Measure(name="clip_score", label="CLIP score", higher_is_better=True, kind="text"),)

    def __init__(self, score: ClipScore) -> None:
        self._score = score

    @property
    def protocol(self) -> str:
        """Model and definition."""
        return f"CLIP score: 100 max(cos, 0) of each picture and its caption, {self._score.name}"

    def __call__(
        self, pictures: Sequence[RgbU8], keys: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[np.ndarray]]:
        """See `Extra`."""
        return {"clip_score": [np.array([score]) for score in self._score(pictures, texts)]}
