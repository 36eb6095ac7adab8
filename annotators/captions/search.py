"""How captioners generate: BLIP's attention without copies, and draws that depend on the key."""

import functools
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def quicken(model: Any) -> None:
    """Give a `BlipForConditionalGeneration` faster attention with the same weights.

    Its vision encoder writes every attention matrix to memory, and its decoder computes, keeps
    and, at every step of a beam search, copies the image's keys and values once for each beam. It
    must then be called with the cache of `shared_cache`.

    Cost: see the table of benchmarks/captioner_throughput.py.
    """
    for layer in model.vision_model.encoder.layers:
        layer.self_attn.forward = functools.partial(_look, layer.self_attn)
    for layer in model.text_decoder.bert.encoder.layer:
        cross = layer.crossattention.self
        cross.forward = functools.partial(_look_back, cross)


def _look(
    attention: Any, hidden_states: "torch.Tensor", **_unused: Any
) -> "tuple[torch.Tensor, None]":
    """`BlipAttention.forward`, fused."""
    from torch.nn.functional import scaled_dot_product_attention

    images, patches, width = hidden_states.shape
    heads = (images, patches, 3, attention.num_heads, attention.head_dim)
    query, key, value = attention.qkv(hidden_states).view(heads).permute(2, 0, 3, 1, 4)
    seen = scaled_dot_product_attention(query, key, value, scale=attention.scale)
    return attention.projection(seen.transpose(1, 2).reshape(images, patches, width)), None


def _look_back(
    attention: Any,
    hidden_states: "torch.Tensor",
    *,
    encoder_hidden_states: "torch.Tensor",
    past_key_values: Any,
    **_unused: Any,
) -> "tuple[torch.Tensor, None]":
    """`BlipTextSelfAttention.forward` across to the image, whose beams ask together.

    Args:
        attention: its module, with the layer's number and projections.
        hidden_states: (B * beams, L, E) words.
        encoder_hidden_states: (B * beams, P, V) patches, those of an image's beams equal.
        past_key_values: from `shared_cache`.
    """
    from torch.nn.functional import scaled_dot_product_attention

    def by_head(states: "torch.Tensor") -> "torch.Tensor":
        shape = (images, -1, attention.num_attention_heads, attention.attention_head_size)
        return states.reshape(shape).transpose(1, 2)

    beams, images = past_key_values.beams, len(hidden_states) // past_key_values.beams
    if attention.layer_idx not in past_key_values.images:
        patches = encoder_hidden_states[::beams]
        both = by_head(attention.key(patches)), by_head(attention.value(patches))
        past_key_values.images[attention.layer_idx] = both
    key, value = past_key_values.images[attention.layer_idx]
    seen = scaled_dot_product_attention(by_head(attention.query(hidden_states)), key, value)
    return seen.transpose(1, 2).reshape(*hidden_states.shape[:2], -1), None


def shared_cache(beams: int) -> Any:
    """A cache for one call of `generate`, in which an image's beams share its keys and values."""
    from transformers import DynamicCache

    return _shared_cache_type()(DynamicCache(), DynamicCache(), beams=beams)


@functools.cache
def _shared_cache_type() -> Any:
    from transformers import Cache, EncoderDecoderCache

    class SharedCache(EncoderDecoderCache):
        def __init__(self, words: Cache, unused: Cache, *, beams: int) -> None:
            super().__init__(words, unused)
            self.beams = beams
            self.images: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

        def reorder_cache(self, beam_idx: "torch.LongTensor") -> None:
            self.self_attention_cache.reorder_cache(beam_idx)

    return SharedCache


class Nucleus:
    """Draws each row's next token out of its most probable ones, by the row's own generator.

    A logits processor for a greedy search: it adds Gumbel noise to the logarithms of the
    probabilities, so that the largest sum is a sample of them (the Gumbel-max trick). torch's own
    sampling takes one generator for the batch, and that one is global: a caption would depend on
    its neighbours and on the other threads.
    """

    def __init__(self, keys: Sequence[str], *, seed: int, top_p: float) -> None:
        """Begin the draws of one batch.

        Args:
            keys: one for each row; with the seed all that the draws depend on.
            seed: of the run.
            top_p: probability mass of the tokens that can be drawn, 0 < top_p <= 1.
        """
        self._draws = [_generator(key, seed) for key in keys]
        self._top_p = top_p

    def __call__(self, _words: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """One step: (B, vocabulary) scores before and after."""
        import torch

        logs = torch.log_softmax(scores.float(), dim=-1)
        ordered, places = logs.sort(dim=-1, descending=True, stable=True)
        masses = ordered.exp()
        # A token stays if those before it do not fill the nucleus; so the first one always does.
        outside = masses.cumsum(-1) - masses >= self._top_p
        logs = logs.masked_fill(outside.scatter(-1, places, outside), -torch.inf)
        size = scores.shape[-1]
        # On the CPU: a GPU's generator gives other numbers.
        waits = [torch.empty(size).exponential_(generator=draw) for draw in self._draws]
        return logs - torch.stack(waits).to(logs.device).log()


def _generator(key: str, seed: int) -> "torch.Generator":
    import torch

    digest = hashlib.sha256(f"caption:{seed}:{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
