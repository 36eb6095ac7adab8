"""Captions by BLIP, BLIP-2 or Florence-2, whichever the model's folder holds."""

import dataclasses
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from annotators.captions.guard import guarded
from annotators.captions.search import Nucleus, quicken, shared_cache
from annotators.options import need
from annotators.pretrained import captioning_processor_of, kind_of, model_of
from annotators.protocol import Captioner
from annotators.runtime import Precision, Runtime, torch_dtype
from annotators.weights import Weights, locate, model
from schemas.errors import ConfigError, Reason, Rejected
from schemas.pixels import RgbU8

if TYPE_CHECKING:
    import torch

_SUPPORTED = {"blip": "BLIP", "blip-2": "BLIP-2", "florence2": "Florence-2"}
_FLORENCE_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
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
        return (model(self.model),)

    def load(self, runtime: Runtime) -> Captioner:
        """Read model and processor from their folder; nothing is asked of the network.

        Raises:
            ConfigError: not there, damaged, incomplete, of a family that is not supported, or a
                prompt that is no task of Florence-2.
        """
        folder = locate(model(self.model), runtime)
        with _QUIET:
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
        return _Captioner(
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
    if family == "blip-2":
        config = network.config
        images = torch.full((1, config.num_query_tokens), config.image_token_id)
        if prompt is None:
            words = torch.tensor([[config.text_config.bos_token_id]])
        else:
            words = processor.tokenizer(prompt, return_tensors="pt")["input_ids"]
        return torch.cat([images, words], dim=1)
    black = torch.zeros((3, 64, 64), dtype=torch.uint8)
    return processor(images=[black], text=[prompt], return_tensors="pt")["input_ids"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Captioner:
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
        with _QUIET, torch.inference_mode():
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
        extra: dict[str, Any] = {"no_repeat_ngram_size": 3}
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
        if self.family == "blip" and self.prompt is not None:
            if text.casefold().split() == self.prompt.casefold().split():
                return Rejected(Reason.NO_CAPTION, f"need more than the prompt, got {text!r}")
        return guarded(text)


class _Quiet:
    """No advice and no progress bars of transformers on the terminal, while any thread is inside.

    Both are settings of the process: the first one in changes them, the last one out restores them.
    """

    def __init__(self) -> None:
        self._change = threading.Lock()
        self._inside = 0
        self._level = logging.NOTSET
        self._bars = False

    def __enter__(self) -> None:
        from transformers.utils import logging as library

        with self._change:
            if self._inside == 0:
                self._level, self._bars = library.get_verbosity(), library.is_progress_bar_enabled()
                library.set_verbosity(logging.CRITICAL)
                if self._bars:
                    library.disable_progress_bar()
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        from transformers.utils import logging as library

        with self._change:
            self._inside -= 1
            if self._inside == 0:
                library.set_verbosity(self._level)
                if self._bars:
                    library.enable_progress_bar()


_QUIET = _Quiet()
