"""Text encoders of the Stable Diffusion family: captions in, embeddings out."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """Captions as a U-Net reads them."""

    text_BLD: Tensor
    pooled_BP: Tensor | None  # SDXL only


class TextEncoder:
    """One CLIP text encoder (SD1.5, SD2.1, nano) or two (SDXL), frozen.

    Args:
        tokenizers: transformers' CLIP tokenizers.
        models: the text encoder of each; two mean SDXL.
    """

    def __init__(self, tokenizers: Sequence[Any], models: Sequence[Any]) -> None:
        self._tokenizers = tokenizers
        self.models = [model.requires_grad_(False).eval() for model in models]

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Embedded:
        """Embed captions, padded and cut to the tokenizer's length; "" is a caption like any other.

        Args:
            captions: at least one.

        Returns:
            Embeddings in the models' precision, on their device. SD: the last hidden state. SDXL:
            the last but one of both encoders side by side, and the second one's pooled projection.
        """
        if len(self.models) == 1:
            hidden_BLD = self.models[0](self._ids(0, captions))[0]
            return Embedded(text_BLD=hidden_BLD, pooled_BP=None)
        outputs = [
            model(self._ids(index, captions), output_hidden_states=True)
            for index, model in enumerate(self.models)
        ]
        return Embedded(
            text_BLD=torch.cat([output.hidden_states[-2] for output in outputs], dim=-1),
            pooled_BP=outputs[1][0],
        )

    def _ids(self, index: int, captions: Sequence[str]) -> Tensor:
        tokenizer, model = self._tokenizers[index], self.models[index]
        encoded = tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            # Without its config a tokenizer has no limit; the positions always have one.
            max_length=min(tokenizer.model_max_length, model.config.max_position_embeddings),
            return_tensors="pt",
        )
        return encoded.input_ids.to(model.device)
