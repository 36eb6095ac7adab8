"""Embedded captions: each distinct one once, or, where they are too many, batch by batch."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from controlnet.architecture.prompts import Embedded, TextEncoder

CACHE_BYTES = 2 * 2**30
_AT_ONCE = 32


class Texts:
    """Captions of a data set as embeddings on a device.

    Args:
        encoder: frozen.
        captions: every caption that will be asked for, "" included; None where they are too many
            to be held, then each batch is encoded when it comes.
    """

    def __init__(self, encoder: TextEncoder, captions: Sequence[str] | None) -> None:
        self._encoder = encoder if captions is None else None
        self._rows: dict[str, int] = {}
        self._text_NLD: Tensor | None = None
        self._pooled_NP: Tensor | None = None
        if captions is None:
            return
        distinct = sorted(set(captions))
        self._rows = {caption: row for row, caption in enumerate(distinct)}
        parts = [
            encoder(_filled(distinct[start : start + _AT_ONCE]))
            for start in range(0, len(distinct), _AT_ONCE)
        ]
        self._text_NLD = torch.cat([part.text_BLD for part in parts])
        pooled = [part.pooled_BP for part in parts if part.pooled_BP is not None]
        self._pooled_NP = torch.cat(pooled) if pooled else None

    @property
    def cached(self) -> bool:
        """Whether the encoder is not needed any more."""
        return self._encoder is None

    def __call__(self, captions: Sequence[str]) -> Embedded:
        """Embeddings of a batch's captions.

        Args:
            captions: in any order; out of the known ones, if these were given.
        """
        if self._encoder is not None:
            # The batch's own distinct captions and nothing else, so that a resumed run computes
            # the very same floats.
            distinct = list(dict.fromkeys(captions))
            embedded = self._encoder(distinct)
            places = {caption: row for row, caption in enumerate(distinct)}
            return _picked(
                embedded.text_BLD, embedded.pooled_BP, [places[caption] for caption in captions]
            )
        assert self._text_NLD is not None
        return _picked(
            self._text_NLD, self._pooled_NP, [self._rows[caption] for caption in captions]
        )


def fits_in_memory(captions: Iterable[str], encoder: TextEncoder) -> bool:
    """Whether the embeddings of all distinct captions take less than `CACHE_BYTES`."""
    one = encoder([""]).text_BLD
    return len(set(captions)) * one.nelement() * one.element_size() <= CACHE_BYTES


def _filled(captions: Sequence[str]) -> list[str]:
    """Always as many rows, so that an embedding does not depend on how many captions there are."""
    return [*captions, *[""] * (_AT_ONCE - len(captions))]


def _picked(text_NLD: Tensor, pooled_NP: Tensor | None, rows: Sequence[int]) -> Embedded:
    rows_B = torch.tensor(rows, device=text_NLD.device)
    return Embedded(
        text_BLD=text_NLD[rows_B], pooled_BP=None if pooled_NP is None else pooled_NP[rows_B]
    )
