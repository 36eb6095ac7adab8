"""Does it obey yet? Fixed validation rows, fixed noise, every N steps.

The loss does not show it: it hardly moves when control snaps in. What does: the loss with the true
condition against that with somebody else's (condition gain), and whether sampled pictures,
annotated again, have the edges that they were asked for (adherence).

Control snaps in at the first crossing of half the way that lasts: the paper sees it appear
suddenly, within few steps.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from controlnet.architecture.backbone import Base
from controlnet.architecture.control import ControlNet
from controlnet.architecture.sampling import (
    SampleOptions,
    Steering,
    casting,
    sampled,
    to_pictures,
)
from controlnet.architecture.unet import embedding, encode, predict
from controlnet.trainer.batch import Batch
from controlnet.trainer.log import ProbeReading
from controlnet.trainer.step import Diffusion, Inputs, Texts, inputs_of
from schemas.pixels import MapU8, MapU16, RgbU8

BINS = 5
"""Equal parts of the noise schedule: losses at different noise differ by a factor of hundred."""

Map = MapU8 | MapU16 | RgbU8

# Pictures, the maps that each should obey, and keys of the rows that the maps came from (an
# annotator may draw its thresholds by key) -> one score a picture, 0..1, higher is better; NaN
# where a map asks for nothing that could be scored (a depth map that is black all over).
Score = Callable[[Sequence[RgbU8], Sequence[Map], Sequence[str]], list[float]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """How a picture is compared with the map that it should obey.

    Handed in, since training never annotates: `controlset train` makes it of the annotator whose
    maps the data set holds.
    """

    name: str  # of the score, e.g. `Canny F1 (1 px)`
    score: Score


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What adherence can be: without control, and at best."""

    floor: float
    ceiling: float


class Probe:
    """Validation rows of one size, and how they are looked at.

    Args:
        base: with its VAE.
        control: is trained meanwhile.
        texts: knows the rows' captions and "".
        batch: the rows, nothing dropped.
        judge: scores samples; None where nobody can annotate this condition here.
        diffusion: of training.
        options: of sampling.
        device: of the networks.
        channels_last: memory layout.
        autocast: number format of products.
    """

    def __init__(
        self,
        *,
        base: Base,
        control: ControlNet,
        texts: Texts,
        batch: Batch,
        judge: Judge | None,
        diffusion: Diffusion,
        options: SampleOptions,
        device: torch.device,
        channels_last: bool,
        autocast: torch.dtype,
    ) -> None:
        self._base, self._control, self._judge = base, control, judge
        self._diffusion, self._options, self._autocast = diffusion, options, autocast
        self._device, self._keys = device, batch.keys
        self._embedded = texts(batch.texts)
        with casting(device.type, autocast):
            self._empty = texts([""])
        self._inputs: Inputs = inputs_of(
            batch,
            self._embedded,
            base,
            device=device,
            channels_last=channels_last,
            noise_offset=0.0,
        )
        self.maps = maps_of(batch.hint_BCHW)
        # one draw of the posterior, as in training
        self.real = to_pictures(base.pictures(self._inputs.clean_BCHW))

    @property
    def judge_name(self) -> str | None:
        """Name of the score."""
        return None if self._judge is None else self._judge.name

    def bounds(self) -> Bounds | None:
        """Adherence without control and of the real pictures; None: as in `ProbeReading`."""
        if self._judge is None:
            return None
        floor = self._scored(self._sampled(control=False), 0)
        ceiling = self._scored(self.real, 0)
        return None if floor is None or ceiling is None else Bounds(floor=floor, ceiling=ceiling)

    def measure(self, step: int) -> tuple[ProbeReading, list[RgbU8]]:
        """Probe the present weights.

        Returns:
            The reading, and the sampled pictures.
        """
        with torch.no_grad(), casting(self._device.type, self._autocast):
            true, shuffled = self._losses(0), self._losses(1)
            ratios = self._ratios()
        pictures = self._sampled(control=True)
        return ProbeReading(
            step=step,
            loss_bins=true,
            shuffled_bins=shuffled,
            gain=float(np.mean(shuffled) - np.mean(true)),
            zero_norms=tuple(_rms(conv.weight) for conv in self._control.zero_convs),
            ratios=ratios,
            adherence=self._scored(pictures, 0) if self._judge else None,
            shuffled=self._scored(pictures, 1) if self._judge else None,
        ), pictures

    def _losses(self, shift: int) -> tuple[float, ...]:
        """Mean loss in each timestep bin, the hints rolled by `shift` rows."""
        inputs, count = self._inputs, len(self._inputs.clean_BCHW)
        hint_BCHW = inputs.hint_BCHW.roll(shift, dims=0)
        # Weights of training would hide the bins that they make small.
        unweighted = dataclasses.replace(self._diffusion, min_snr=None)
        steps = len(unweighted.alpha_T)
        means = []
        for number in range(BINS):
            # evenly over the bin, the same in every probe
            places = (number + (np.arange(count) + 0.5) / count) * steps / BINS
            timestep_B = torch.tensor(places.astype(np.int64), device=self._device)
            noisy_BCHW = self._diffusion.noisy(inputs.clean_BCHW, inputs.noise_BCHW, timestep_B)
            noisy_BCHW = noisy_BCHW.to(self._base.unet.dtype)
            residuals = self._control(noisy_BCHW, timestep_B, inputs.prompt, hint_BCHW)
            predicted = predict(self._base.unet, noisy_BCHW, timestep_B, inputs.prompt, residuals)
            error_B = unweighted.loss(predicted, inputs.clean_BCHW, inputs.noise_BCHW, timestep_B)
            means.append(error_B.mean().item())
        return tuple(means)

    def _ratios(self) -> tuple[float, ...]:
        """How loud each residual is against what it is added to."""
        inputs, unet = self._inputs, self._base.unet
        timestep_B = torch.full_like(inputs.timestep_B, len(self._diffusion.alpha_T) // 2)
        noisy_BCHW = self._diffusion.noisy(inputs.clean_BCHW, inputs.noise_BCHW, timestep_B)
        noisy_BCHW, prompt = noisy_BCHW.to(unet.dtype), inputs.prompt
        said = self._control(noisy_BCHW, timestep_B, prompt, inputs.hint_BCHW).all
        emb_BE = embedding(unet, timestep_B, prompt, noisy_BCHW.dtype)
        skips, middle = encode(unet, unet.conv_in(noisy_BCHW), emb_BE, prompt.text_BLD)
        pairs = zip(said, (*skips, middle), strict=True)
        return tuple(_rms(residual) / max(_rms(skip), 1e-12) for residual, skip in pairs)

    def _sampled(self, *, control: bool) -> list[RgbU8]:
        inputs = self._inputs
        steering = [Steering(control=self._control, hint_BCHW=inputs.hint_BCHW)] if control else []
        return sampled(
            self._base,
            steering,
            self._embedded,
            self._empty,
            inputs.noise_BCHW.to(self._base.unet.dtype),
            self._options,
            autocast=self._autocast,
            sizes_B6=inputs.prompt.sizes_B6,
        )

    def _scored(self, pictures: Sequence[RgbU8], shift: int) -> float | None:
        """Mean adherence to one's own map, or to that of the row `shift` places on.

        Returns:
            Of the maps that have a score; None where none has.

        Raises:
            ValueError: the judge gave an infinite score.
        """
        assert self._judge is not None
        maps = [*self.maps[shift:], *self.maps[:shift]]
        keys = [*self._keys[shift:], *self._keys[:shift]]
        scores = [
            score for score in self._judge.score(pictures, maps, keys) if not math.isnan(score)
        ]
        if any(math.isinf(score) for score in scores):
            raise ValueError(f"{self._judge.name}: need finite scores, got {scores}")
        return float(np.mean(scores)) if scores else None


def maps_of(hint_BCHW: Tensor) -> list[Map]:
    """A batch's hints as stored maps: (H, W) or (H, W, 3) uint8; 16-bit ones as uint16."""
    if hint_BCHW.dtype != torch.uint8:
        hint_BCHW = (hint_BCHW * 65535).round().to(torch.int32)
    kind = np.uint8 if hint_BCHW.dtype == torch.uint8 else np.uint16
    maps_BHWC = hint_BCHW.permute(0, 2, 3, 1).cpu().numpy().astype(kind)
    return [pixels[..., 0] if pixels.shape[-1] == 1 else pixels for pixels in maps_BHWC]


def _rms(tensor: Tensor) -> float:
    return tensor.detach().float().square().mean().sqrt().item()


def snap_step(
    steps: Sequence[int], scores: Sequence[float | None], *, floor: float, ceiling: float
) -> int | None:
    """The step at which control snapped in.

    Args:
        steps: of the probes, rising.
        scores: adherence at each; None, which was not measured, is not above.
        floor: adherence of the base without control.
        ceiling: adherence of the real pictures, through the VAE and back.

    Returns:
        The first probe at or above floor + half of (ceiling - floor) whose successor is there, too;
        None if there is none (yet).
    """
    half = floor + 0.5 * (ceiling - floor)
    above = [score is not None and score >= half for score in scores]
    for step, now, then in zip(steps[:-1], above[:-1], above[1:], strict=True):
        if now and then:
            return step
    return None
