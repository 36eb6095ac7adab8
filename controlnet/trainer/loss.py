"""The noise-prediction loss and its variants.

L = E || target - prediction ||^2, the target being noise (epsilon), velocity or sample, as the
base's scheduler says.
"""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from schemas.errors import ConfigError

PREDICTIONS = ("epsilon", "v_prediction", "sample")
Prediction = Literal["epsilon", "v_prediction", "sample"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Diffusion:
    """A noise schedule: x_t = alpha_t x_0 + sigma_t noise."""

    alpha_T: Tensor  # float32, sqrt of the cumulative product
    sigma_T: Tensor  # float32
    prediction: Prediction
    min_snr: float | None = None

    @classmethod
    def of(
        cls, cumulative_T: Tensor, prediction: str, *, min_snr: float | None = None
    ) -> "Diffusion":
        """From diffusers' `alphas_cumprod` and `prediction_type`.

        Raises:
            ConfigError: a prediction type that there is no loss for; or a schedule that ends in
                pure noise with one that cannot learn from it.
        """
        if prediction not in PREDICTIONS:
            raise ConfigError(
                f"--base: need a scheduler with prediction_type {', '.join(PREDICTIONS)}, "
                f"got {prediction!r}"
            )
        if prediction == "epsilon" and cumulative_T[-1] <= 0:
            raise ConfigError(
                "--zero-terminal-snr: need a base that predicts v or sample, got epsilon: out of "
                "pure noise nothing can be learnt about noise; leave the option out"
            )
        cumulative_T = cumulative_T.double()
        return cls(
            alpha_T=cumulative_T.sqrt().float(),
            sigma_T=(1 - cumulative_T).sqrt().float(),
            prediction=prediction,
            min_snr=min_snr,
        )

    def to(self, device: torch.device) -> "Diffusion":
        """The same on another device."""
        return dataclasses.replace(
            self, alpha_T=self.alpha_T.to(device), sigma_T=self.sigma_T.to(device)
        )

    def noisy(self, clean_BCHW: Tensor, noise_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """x_t, float32."""
        alpha, sigma = self._at(timestep_B)
        return alpha * clean_BCHW + sigma * noise_BCHW

    def loss(
        self, predicted_BCHW: Tensor, clean_BCHW: Tensor, noise_BCHW: Tensor, timestep_B: Tensor
    ) -> Tensor:
        """Mean squared error of each sample, weighted: (B,) float32."""
        alpha, sigma = self._at(timestep_B)
        if self.prediction == "epsilon":
            target_BCHW = noise_BCHW
        elif self.prediction == "v_prediction":
            target_BCHW = alpha * noise_BCHW - sigma * clean_BCHW
        else:
            target_BCHW = clean_BCHW
        error_B = (predicted_BCHW.float() - target_BCHW).square().mean(dim=(1, 2, 3))
        return error_B if self.min_snr is None else error_B * self.weight(timestep_B)

    def weight(self, timestep_B: Tensor) -> Tensor:
        """Min-SNR weights, (B,) float32.

        Source: Hang et al. 2023 (arXiv 2303.09556), equations 7 to 9: min(SNR, gamma) in terms of
        the sample's error, divided by SNR for noise, by SNR + 1 for velocity.
        """
        assert self.min_snr is not None
        alpha_B, sigma_B = self.alpha_T[timestep_B], self.sigma_T[timestep_B]
        snr_B = (alpha_B / sigma_B).square()
        capped_B = snr_B.clamp(max=self.min_snr)
        if self.prediction == "epsilon":
            return capped_B / snr_B
        return capped_B / (snr_B + 1) if self.prediction == "v_prediction" else capped_B

    def _at(self, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, 1, 1, 1)
        return self.alpha_T[timestep_B].view(shape), self.sigma_T[timestep_B].view(shape)
