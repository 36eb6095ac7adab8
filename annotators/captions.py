"""Captions by BLIP, BLIP-2 or Florence-2, whichever the model's folder holds.

BLIP's attention computes without copies here, and what is drawn at random depends on the key alone.
"""

import dataclasses
import functools
import hashlib
import string
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from annotators.network import captioning_processor_of, kind_of, model_of
from annotators.protocol import Captioner
from annotators.runtime import Precision, Runtime, torch_dtype
from annotators.weights import Weights, locate, model
from schemas.errors import ConfigError, Reason, Rejected, need
from schemas.model_files import quiet
from schemas.pixels import RgbU8

if TYPE_CHECKING:
    import torch

MODELS = {
    "Salesforce/blip-image-captioning-base": ("BSD-3-Clause", 990),
    "Salesforce/blip-image-captioning-large": ("BSD-3-Clause", 1880),
    "Salesforce/blip2-opt-2.7b": ("MIT; its language model OPT is non-commercial", 15000),
    "florence-community/Florence-2-base": ("MIT", 460),
}
"""Models of transformers that we name ourselves -> licence, size in MB."""

_SUPPORTED = {"blip": "BLIP", "blip-2": "BLIP-2", "florence2": "Florence-2"}
_FLORENCE_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
_LONGEST_PHRASE = 12  # words; loops of captioners are shorter
_REPEATED_BY_NOBODY = 3  # words that no caption has twice, unless its model says another number
_ON_A_CPU_AT_ONCE = 8  # reading the decoder's weights is what a step costs; a batch reads them once


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BlipSpec:
    """Which model, and how it looks for words."""

    name: ClassVar[str] = "blip"
    prefix: ClassVar[str] = "caption"  # of its options
    revision: ClassVar[int] = 1
    licence: ClassVar[str] = "Apache-2.0 (transformers)"

    model: str = "Salesforce/blip-image-captioning-base"
    """Model of transformers that writes the captions (BLIP, BLIP-2 or Florence-2): its name on the
    hub, or a folder."""

    prompt: str | None = None
    """What the model is given beside the picture. BLIP: the words that every caption begins with.
    BLIP-2: a question. Florence-2: a task, e.g. <CAPTION>."""

    beams: int = 3
    """How many beginnings of a caption are searched at once, 1 to 32; 1 takes the likeliest word
    each time."""

    top_p: float | None = None
    """Draw each word at random among the likeliest that together have this probability (more than
    0, up to 1), instead of searching."""

    max_tokens: int = 40
    """Tokens (words and parts of words) of the longest caption, 1 to 500."""

    seed: int = 0  # of samples; searches draw nothing
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        top_p = self.top_p
        need(1 <= self.beams <= 32, "--caption-beams", "1 to 32", self.beams)
        need(top_p is None or 0 < top_p <= 1, "--caption-top-p", "0 < probability <= 1", top_p)
        need(1 <= self.max_tokens <= 500, "--caption-max-tokens", "1 to 500", self.max_tokens)

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (model(self.model, MODELS),)

    def load(self, runtime: Runtime) -> Captioner:
        """Read model and processor from their folder; nothing is asked of the network.

        Raises:
            ConfigError: not there, damaged, incomplete, of a family that is not supported, or a
                prompt that is no task of Florence-2.
        """
        folder = locate(self.weights[0], runtime)
        with quiet("transformers"):
            network, processor = _read(folder, self.precision)
        network = network.eval().requires_grad_(False).to(runtime.device)
        family = network.config.model_type
        if family == "blip":
            quicken(network)
        prompt = self.prompt
        if family == "florence2":
            prompt = prompt or _FLORENCE_TASKS[0]
            if prompt not in _FLORENCE_TASKS:
                raise ConfigError(
                    f"--caption-prompt: need one of {', '.join(_FLORENCE_TASKS)} for Florence-2, "
                    f"got {prompt!r}"
                )
        return _LoadedCaptioner(
            spec=self,
            runtime=runtime,
            family=family,
            network=network,
            processor=processor,
            prompt=prompt,
            prompt_ids=_prompt_ids(family, network, processor, prompt),
        )


def _read(folder: Path, precision: Precision) -> tuple[Any, Any]:
    """The model on the CPU in its number format, and its processor."""
    from transformers import AutoModelForImageTextToText

    if kind_of(folder) not in tuple(_SUPPORTED):
        raise ConfigError(
            f"--caption-model {folder}: need {', '.join(_SUPPORTED.values())} "
            f"(model_type {', '.join(_SUPPORTED)} in its config.json), got another kind of model"
        )
    network = model_of(AutoModelForImageTextToText, folder, precision=precision)
    return network, captioning_processor_of(folder)


def _prompt_ids(
    family: str, network: Any, processor: Any, prompt: str | None
) -> "torch.Tensor | None":
    """(1, L) tokens that each image's generation starts with; None: what the model starts with."""
    import torch

    if family == "blip":
        if prompt is None:
            return None
        return processor.tokenizer(prompt, return_tensors="pt")["input_ids"]
    # BLIP-2 stands pictures in as so many tokens before the words.
    if family == "blip-2":
        config = network.config
        images = torch.full((1, config.num_query_tokens), config.image_token_id)
        if prompt is None:
            words = torch.tensor([[config.text_config.bos_token_id]])
        else:
            words = processor.tokenizer(prompt, return_tensors="pt")["input_ids"]
        return torch.cat([images, words], dim=1)
    # Its processor writes a task out as a question, and wants a picture with it.
    black = torch.zeros((3, 64, 64), dtype=torch.uint8)
    return processor(images=[black], text=[prompt], return_tensors="pt")["input_ids"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _LoadedCaptioner:
    """A loaded model. Nothing in it changes, so threads can share it.

    A caption does not depend on its batch: rows never mix, and on a CPU batches of 1 and 8 gave
    equal captions in fp32 and bf16 (tests/annotators/test_blip.py). Their logits can differ in
    the last bit where a matrix product sums in another order; on a GPU that may turn a near tie.
    """

    spec: BlipSpec
    runtime: Runtime
    family: str
    network: Any
    processor: Any
    prompt: str | None
    prompt_ids: "torch.Tensor | None"

    def __call__(self, images: Sequence[RgbU8], keys: Sequence[str]) -> list[str | Rejected]:
        import torch

        at_once = max(_ON_A_CPU_AT_ONCE, self.runtime.images_at_once)
        results: list[str | Rejected] = []
        with quiet("transformers"), torch.inference_mode():
            for start in range(0, len(images), at_once):
                together = slice(start, start + at_once)
                words = self._generate(self._pixels(images[together]), keys[together])
                # Florence-2's own post-processing of captions does no more than this.
                texts = self.processor.tokenizer.batch_decode(words, skip_special_tokens=True)
                results += [self._checked(text) for text in texts]
        return results

    def _pixels(self, images: Sequence[RgbU8]) -> "torch.Tensor":
        """(B, 3, S, S) as the model wants them, whatever the images' sizes."""
        import numpy as np
        import torch

        # Copied: decoded pictures are read-only, which torch does not know.
        channels_first = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
        pixels = self.processor.image_processor(
            images=channels_first,
            input_data_format="channels_first",
            device=self.runtime.device,
            return_tensors="pt",
        )["pixel_values"]
        return pixels.to(torch_dtype(self.spec.precision))

    def _generate(self, pixels: "torch.Tensor", keys: Sequence[str]) -> "torch.Tensor":
        """(B, L) new tokens; BLIP's with those of the prompt."""
        spec = self.spec
        beams = spec.beams if spec.top_p is None else 1
        # Captioners fall into loops; what still repeats itself is rejected by `guarded`.
        own = self.network.generation_config.no_repeat_ngram_size
        extra: dict[str, Any] = {"no_repeat_ngram_size": own or _REPEATED_BY_NOBODY}
        if spec.top_p is not None:
            draws = Nucleus(keys, seed=spec.seed, top_p=spec.top_p)
            # The penalty of BLIP's authors for samples, which repeat words more than searches do.
            extra |= {"logits_processor": [draws], "repetition_penalty": 1.1}
        if self.family == "blip":
            extra |= {"past_key_values": shared_cache(beams)}
        if self.prompt_ids is not None:
            ids = self.prompt_ids.repeat(len(pixels), 1).to(pixels.device)  # BLIP writes into them
            extra |= {"input_ids": ids, "attention_mask": ids.new_ones(ids.shape)}
        words = self.network.generate(
            pixel_values=pixels,
            max_new_tokens=spec.max_tokens,
            num_beams=beams,
            # Also for samples, which `Nucleus` draws.
            do_sample=False,
            **extra,
        )
        if self.family == "blip-2" and self.prompt_ids is not None:
            length = self.prompt_ids.shape[1]
            # A language model that is a decoder alone (OPT) repeats the question first.
            if words.shape[1] >= length and bool((words[:, :length] == extra["input_ids"]).all()):
                return words[:, length:]
        return words

    def _checked(self, text: str) -> str | Rejected:
        prompt = self.prompt if self.family == "blip" else None  # which BLIP's captions begin with
        if prompt is not None and text.casefold().split() == prompt.casefold().split():
            return Rejected(Reason.NO_CAPTION, f"need more than the prompt, got {text!r}")
        return guarded(text)


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

        def reorder_cache(self, beam_idx: Any) -> None:  # LongTensor by name, int32 at times
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


# Which words are a caption ----------------------------------------------------------------------


def guarded(text: str) -> str | Rejected:
    """The caption in a model's decoded output, or why there is none.

    Words are compared without case and without punctuation around them. The rule, in order:

    1. White space is collapsed. Nothing left, or nothing but punctuation: NO_CAPTION.
    2. A phrase of 1 to 12 words that follows itself is said once: anywhere if it stands there
       three times or more, at the end already if it stands there twice. "a cat cat cat on a mat"
       becomes "a cat on a mat" and "a red bus bus" becomes "a red bus"; "a very very tall tower"
       stays.
    3. If that cut something and a single word is left: BAD_CAPTION.
    4. If one phrase of three words or more still stands in it three times or more (not
       overlapping), and these make up half of its words or more: BAD_CAPTION. "a dog on a bench
       and a dog on a bench with a dog on a bench" goes; a paragraph that says "in the background"
       three times stays.

    Args:
        text: one caption without special tokens.

    Returns:
        The caption, never empty; or the reject, which holds the model's text.
    """
    said = text.split()
    if not any(_plain(said)):
        return Rejected(Reason.NO_CAPTION, f"need words, got {' '.join(said)[:200]!r}")
    words = _without_runs(said)
    if (len(words) == 1 < len(said)) or _circles(_plain(words)):
        return Rejected(
            Reason.BAD_CAPTION,
            f"need a caption that does not repeat itself, got {' '.join(said)[:400]!r}",
        )
    return " ".join(words)


def _plain(words: list[str]) -> list[str]:
    return [word.strip(string.punctuation).casefold() for word in words]


def _without_runs(words: list[str]) -> list[str]:
    """Rule 2, until nothing changes: a cut can bring equal phrases together."""
    shorter = _one_run_less(words)
    while shorter is not None:
        words, shorter = shorter, _one_run_less(shorter)
    return words


def _one_run_less(words: list[str]) -> list[str] | None:
    plain = _plain(words)
    for length in range(1, min(_LONGEST_PHRASE, len(words) // 2) + 1):
        for start in range(len(words) - 2 * length + 1):
            phrase = plain[start : start + length]
            end = start + length
            while plain[end : end + length] == phrase:
                end += length
            times = (end - start) // length
            if times >= 3 or (times == 2 and end == len(words)):
                # The last one is kept: the punctuation behind it belongs to what follows.
                return words[:start] + words[end - length :]
    return None


def _circles(plain: list[str]) -> bool:
    """Rule 4."""
    for length in range(3, len(plain) // 3 + 1):
        for start in range(len(plain) - 3 * length + 1):
            times = _count(plain, plain[start : start + length])
            if times >= 3 and 2 * times * length >= len(plain):
                return True
    return False


def _count(plain: list[str], phrase: list[str]) -> int:
    """How often a phrase stands among words, not overlapping."""
    times = place = 0
    while place <= len(plain) - len(phrase):
        found = plain[place : place + len(phrase)] == phrase
        times += found
        place += len(phrase) if found else 1
    return times
