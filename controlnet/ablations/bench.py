"""What every variant is asked for: the same validation rows, noise and sampler."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from controlnet.ablations.config import AblationConfig
from controlnet.ablations.variants import Variant
from controlnet.architecture.backbone import Base, Embedded, load_base
from controlnet.architecture.control import ControlNet
from controlnet.architecture.sampling import SampleOptions, Steering, sampled, to_pictures
from controlnet.trainer.devices import new_accelerator
from controlnet.trainer.draws import DrawOptions
from controlnet.trainer.index import scan
from controlnet.trainer.judge import Map
from controlnet.trainer.loader import Loader
from controlnet.trainer.probe import maps_of
from controlnet.trainer.step import Texts, inputs_of
from schemas.errors import ConfigError
from schemas.pixels import RgbU8

_AT_ONCE = 64  # pictures; guidance doubles them


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Pictures of one look, (N, H, W, 3) uint8 each, in the order of the rows."""

    prompted: np.ndarray  # under control, with prompts
    empty: np.ndarray  # under control, with empty prompts
    free: np.ndarray | None  # of the variant's base without control; None: the base is locked


class Bench:
    """Rows, noise and the untouched base.

    Args:
        config: of the table.
        base: folder of the base.

    Raises:
        ConfigError: no such data set, split or condition; too few rows.
    """

    def __init__(self, config: AblationConfig, base: str) -> None:
        index = scan(
            config.data, split="validation", condition=config.condition, wants_latents=False
        )
        (width, height), count = next(iter(index.sizes.items()))
        if count < config.images:
            raise ConfigError(
                f"{config.data}: need {config.images} validation rows of one size, got {count} of "
                f"{width}x{height} px; give fewer --images, or generate with a larger --validation"
            )
        self.device = new_accelerator(config.training(base=base, output="-", seed=0)).device
        torch.set_flush_denormal(True)  # as in training: fresh zero convolutions make denormals
        whole = load_base(base, offline=True)
        assert whole.text is not None
        self.base: Base = dataclasses.replace(whole, text=None)
        for module in (whole.unet, whole.vae, *whole.text.models):
            module.to(self.device)
        self.base.unet.to(memory_format=torch.channels_last)
        of_size = (index.widths == width) & (index.heights == height)
        loader = Loader(
            index,
            seed=0,
            batch_size=1,
            options=DrawOptions(prompt_dropout=0.0),
            latent_channels=self.base.space.channels,
            latent_factor=self.base.space.factor,
        )
        batch = loader.rows([int(row) for row in of_size.nonzero()[0][: config.images]])
        self.keys, self.captions = batch.keys, batch.texts
        self.maps: list[Map] = maps_of(batch.hint_BCHW)
        texts = Texts(whole.text, [*batch.texts, ""])
        self._prompted, self._empty = texts(batch.texts), texts([""] * len(batch))
        self._inputs = inputs_of(
            batch,
            self._prompted,
            self.base,
            device=self.device,
            channels_last=True,
            noise_offset=0.0,
        )
        self._with_prompts = SampleOptions(steps=config.sample_steps, guidance=config.guidance)
        self._without = SampleOptions(steps=config.sample_steps, guidance=1.0)

    def real(self) -> np.ndarray:
        """The rows' own pictures, through the VAE and back: the best that can be reached."""
        return np.stack(to_pictures(self.base.pictures(self._inputs.clean_BCHW)))

    def before(self) -> np.ndarray:
        """Samples of the untouched base without control: where every variant starts."""
        return self._sampled(None, None, self._prompted, self._with_prompts)

    @torch.no_grad()
    def look(self, variant: Variant, control: ControlNet) -> Samples:
        """Samples of a variant as it stands.

        Args:
            variant: whose.
            control: what was built and trained for it, on the bench's device.
        """
        control.eval()
        return Samples(
            prompted=self._sampled(variant, control, self._prompted, self._with_prompts),
            empty=self._sampled(variant, control, self._empty, self._without),
            free=None
            if variant.is_locked
            else self._sampled(
                None,
                None,
                self._prompted,
                self._with_prompts,
                base=variant.free(self.base, control),
            ),
        )

    @torch.no_grad()
    def _sampled(
        self,
        variant: Variant | None,
        control: ControlNet | None,
        prompts: Embedded,
        options: SampleOptions,
        *,
        base: Base | None = None,
    ) -> np.ndarray:
        parts: list[RgbU8] = []
        for rows in _slices(len(self.keys)):
            hint_BCHW = self._inputs.hint_BCHW[rows]
            asked, net = base or self.base, None
            if variant is not None and control is not None:
                asked, net = variant.under_control(self.base, control, hint_BCHW)
            parts += sampled(
                asked,
                [] if net is None else [Steering(control=net, hint_BCHW=hint_BCHW)],
                Embedded(text_BLD=prompts.text_BLD[rows], pooled_BP=None),
                Embedded(text_BLD=self._empty.text_BLD[rows], pooled_BP=None),
                self._inputs.noise_BCHW[rows],
                options,
            )
        return np.stack(parts)


def _slices(count: int) -> Sequence[slice]:
    return [slice(start, start + _AT_ONCE) for start in range(0, count, _AT_ONCE)]
