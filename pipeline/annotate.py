"""Condition maps and captions of one batch of stored images, whatever a picture does to a model."""

import contextlib
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from annotators.border import inside_borders
from annotators.latents import LatentSpec, Moments
from annotators.protocol import Annotation, Annotator, Captioner, CaptionSpec, HintMode, Spec
from annotators.runtime import Runtime
from pipeline.progress import Stopwatch
from schemas.errors import ConfigError, Reason, Rejected
from schemas.machine import has_room, lacks_memory
from schemas.pixels import MapU8, MapU16, RgbU8, encode_bilevel_png, encode_map_png
from schemas.records import RejectRow, reject_of
from schemas.triple import Border

Result = TypeVar("Result", Annotation, str, Moments)

_LITTLE_BYTES = 64 << 20  # every picture needs as much; with less, none would fit
_ON_A_GPU_AT_ONCE = 2  # one batch computes while the next one is copied; more only cost memory


class LoadedModel(Generic[Result]):
    """A loaded annotator or captioner that all threads of a process call.

    A batch that fails is tried again one by one, so that only the guilty picture is rejected. One
    that does not fit into memory is halved, and later batches are cut to what did fit.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[Sequence[RgbU8], Sequence[str]], list[Result | Rejected]],
        *,
        on_gpu: bool = False,
    ) -> None:
        """Wrap what `Spec.load` returned."""
        self.name = name
        self._look = look
        self._turn = threading.Semaphore(_ON_A_GPU_AT_ONCE) if on_gpu else contextlib.nullcontext()
        self._at_once: int | None = None  # None: no batch was too large yet
        self._has_worked = False

    def __call__(self, images: Sequence[RgbU8], keys: Sequence[str]) -> list[Result | Rejected]:
        """One result for each image, in order.

        Raises:
            RuntimeError: another number of results than images (a bug of the annotator).
            ConfigError: it fails on every picture that it gets.
        """
        results: list[Result | Rejected] = []
        while len(results) < len(images):
            part = slice(len(results), len(results) + (self._at_once or len(images)))
            results += self._part(images[part], keys[part])
        return results

    def _part(self, images: Sequence[RgbU8], keys: Sequence[str]) -> list[Result | Rejected]:
        try:
            with self._turn:
                results = self._look(images, keys)
        except Exception as error:  # third-party code: any failure is one picture's
            if _is_outage(error):
                raise
            out_of_memory = lacks_memory(error)
            if len(images) == 1:
                if out_of_memory and not has_room(_LITTLE_BYTES):
                    raise  # no picture would fit: it is the machine that has too little
                return [_failed(error, out_of_memory=out_of_memory)]
            if out_of_memory:
                # The exception's frames hold the tensors that did not fit: first let them go.
                self._at_once = max(1, len(images) // 2)
            # Nor may a traceback live on: it holds the batch's pictures.
            where, failure = _last_line(error), error.with_traceback(None)
        else:
            if len(results) != len(images):
                raise RuntimeError(
                    f"annotator {self.name}: need {len(images)} results for {len(images)} "
                    f"images, got {len(results)}"
                )
            self._has_worked = True
            return results
        if out_of_memory:
            _free_memory()
            return self(images, keys)
        return self._one_by_one(images, keys, failure, where)

    def _one_by_one(
        self, images: Sequence[RgbU8], keys: Sequence[str], failure: Exception, where: str
    ) -> list[Result | Rejected]:
        results: list[Result | Rejected] = []
        for image, key in zip(images, keys, strict=True):
            results += self._part([image], [key])
        # What fails on everything is a bug, not to be hidden behind rejects (decision 13).
        broken = all(isinstance(result, Rejected) for result in results)
        if broken and not self._has_worked:
            raise ConfigError(
                f"annotator {self.name}: need maps, got {type(failure).__name__} for every picture "
                f"({where}): {failure}"
            ) from failure
        return results


def load_annotator(spec: Spec, runtime: Runtime) -> LoadedModel[Annotation]:
    """An annotator, loaded."""
    look: Annotator = spec.load(runtime)
    return LoadedModel(spec.name, look, on_gpu=runtime.device != "cpu")


def load_captioner(spec: CaptionSpec, runtime: Runtime) -> LoadedModel[str]:
    """A captioner, loaded."""
    look: Captioner = spec.load(runtime)
    return LoadedModel(spec.name, look, on_gpu=runtime.device != "cpu")


def load_encoder(spec: LatentSpec, runtime: Runtime) -> LoadedModel[Moments]:
    """A VAE's encoder, loaded."""
    return LoadedModel(spec.name, spec.load(runtime), on_gpu=runtime.device != "cpu")


def annotate(
    spec: Spec,
    annotator: LoadedModel[Annotation],
    images: Sequence[RgbU8],
    keys: Sequence[str],
    borders: Sequence[Border | None] | None = None,
) -> list[Annotation | Rejected]:
    """Run an annotator and hold each of its maps to the contract.

    Args:
        spec: what the annotator was loaded from.
        annotator: the loaded annotator.
        images: each (H, W, 3) uint8, decoded from the bytes that are stored.
        keys: one for each image.
        borders: likewise, None for none at all; an annotator never sees them.

    Returns:
        One result for each image, in order; each map has its image's height and width and the type
        that the spec promises, or is rejected.
    """

    def look(parts: Sequence[RgbU8], keys: Sequence[str]) -> list[Annotation | Rejected]:
        return [
            _held_to_contract(spec, rgb, result) if isinstance(result, Annotation) else result
            for rgb, result in zip(parts, annotator(parts, keys), strict=True)
        ]

    return inside_borders(spec, look, images, keys, borders or [None] * len(images))


def encode_map(pixels: MapU8 | MapU16 | RgbU8, hint_mode: HintMode) -> bytes:
    """PNG of a map in the form of its condition, drawn here or imported."""
    return encode_bilevel_png(pixels) if hint_mode == "bilevel" else encode_map_png(pixels)


def stat_columns(spec: Spec, annotation: Annotation | None) -> Mapping[str, Any]:
    """`<condition>_<stat>` -> value; null where there is no map."""
    return {
        f"{spec.name}_{stat}": None if annotation is None else annotation.stats[stat]
        for stat in spec.stats
    }


def _held_to_contract(spec: Spec, rgb: RgbU8, annotation: Annotation) -> Annotation | Rejected:
    pixels = annotation.pixels
    # First, since NaN in a map of floats says more than its wrong type does.
    if np.issubdtype(pixels.dtype, np.floating) and not np.isfinite(pixels).all():
        return Rejected(Reason.NOT_FINITE, "need finite values, got NaN or infinity in the map")
    expected = np.dtype(np.uint16 if spec.hint_mode == "grey16" else np.uint8)
    channels = (3,) if spec.hint_mode == "rgb" else ()
    if pixels.dtype != expected or pixels.shape != rgb.shape[:2] + channels:
        return Rejected(
            Reason.BAD_MAP,
            f"need a {spec.hint_mode} map of {rgb.shape[1]}x{rgb.shape[0]} px and {expected}, "
            f"got shape {pixels.shape} and {pixels.dtype}",
        )
    if annotation.stats.keys() != spec.stats.keys():
        return Rejected(
            Reason.BAD_MAP,
            f"need the statistics {sorted(spec.stats)}, got {sorted(annotation.stats)}",
        )
    return annotation


def _failed(error: Exception, *, out_of_memory: bool) -> Rejected:
    reason = Reason.OUT_OF_MEMORY if out_of_memory else Reason.ANNOTATOR_FAILED
    # A line: the messages of torch and CUDA can be pages.
    return Rejected(reason, " ".join(f"{type(error).__name__}: {error}".split())[:500])


def _last_line(error: Exception) -> str:
    """Where it was raised: `file.py:12`."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"


def _is_outage(error: Exception) -> bool:
    """Not the picture's fault: configuration, network, or a GPU whose context is lost."""
    if isinstance(error, (ConfigError, ConnectionError, TimeoutError)):
        return True
    return "CUDA error" in str(error) and not lacks_memory(error)


def _free_memory() -> None:
    import gc
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


# Captions -----------------------------------------------------------------------------------------


def add_captions(
    rows: Sequence[dict[str, Any]],
    images: Sequence[RgbU8],
    captioner: LoadedModel[str],
    watch: Stopwatch,
) -> list[RejectRow]:
    """Describe the images of rows without text.

    Args:
        rows: with at least `key`, `source`, `text` and `caption_source`; changed in place.
        images: what the `image` of each row decodes to.
        captioner: the loaded captioner.
        watch: gets the seconds.

    Returns:
        One reject for each row that still has no text.
    """
    silent = [number for number, row in enumerate(rows) if row["text"] is None]
    if not silent:
        return []
    with watch.stage("caption"):
        results = captioner(
            [images[number] for number in silent], [rows[number]["key"] for number in silent]
        )
    rejects: list[RejectRow] = []
    for number, result in zip(silent, results, strict=True):
        row = rows[number]
        if isinstance(result, Rejected):
            rejects.append(reject_of(row, "caption", result, kind="text"))
        else:
            row["text"], row["caption_source"] = result, captioner.name
    return rejects
