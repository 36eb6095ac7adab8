"""Agreement of two soft maps: structural similarity at one and at several scales, and RMSE."""

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from controlnet.evaluator.scores import Measure, Seen

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the scales, finest first (Wang, Simoncelli and Bovik 2003)."""

_WINDOW_PX, _SIGMA_PX = 11, 1.5
_K1, _K2 = 0.01, 0.03


def ssim(found_HW: np.ndarray, wanted_HW: np.ndarray) -> float:
    """Structural similarity with an 11-px Gaussian window of sigma 1.5.

    Args:
        found_HW: (H, W) floats in [0, 1], at least 11 px each way.
        wanted_HW: likewise.

    Returns:
        -1..1, 1 where they are equal. The picture is mirrored at its edges.

    Source: Wang et al. 2004; equal to torchmetrics' `structural_similarity_index_measure`.
    """
    similarity, _ = _of_scale(_tensor(found_HW), _tensor(wanted_HW))
    return similarity


def ms_ssim(found_HW: np.ndarray, wanted_HW: np.ndarray) -> float:
    """Structural similarity at several scales: what ControlNet++ calls SSIM.

    Args:
        found_HW: (H, W) floats in [0, 1], at least 11 px each way.
        wanted_HW: likewise.

    Returns:
        0..1; negative terms count as 0. Five scales where the coarsest still holds a window (more
        than 160 px), else as many as fit, their weights scaled to the same sum.

    Source: torchmetrics' `multiscale_structural_similarity_index_measure` with the same betas.
    """
    found, wanted = _tensor(found_HW), _tensor(wanted_HW)
    betas = betas_of(min(found_HW.shape))
    product = 1.0
    for number, beta in enumerate(betas):
        similarity, contrast = _of_scale(found, wanted)
        term = similarity if number == len(betas) - 1 else contrast
        product *= max(term, 0.0) ** beta
        found, wanted = functional.avg_pool2d(found, 2), functional.avg_pool2d(wanted, 2)
    return product


def betas_of(side_px: int) -> tuple[float, ...]:
    """Weights of the scales that fit a picture whose shorter side is `side_px`."""
    fitting = [number for number in range(len(BETAS)) if side_px // 2**number >= _WINDOW_PX]
    chosen = BETAS[: max(1, len(fitting))]
    return tuple(beta * sum(BETAS) / sum(chosen) for beta in chosen)


def _tensor(map_HW: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(map_HW, np.float64))[None, None]


def _of_scale(found: Tensor, wanted: Tensor) -> tuple[float, float]:
    """Mean similarity, and mean of its contrast and structure term inside the picture."""
    if found.shape != wanted.shape:
        raise ValueError(f"need maps of one size, got {found.shape[2:]} and {wanted.shape[2:]}")
    if min(found.shape[2:]) < _WINDOW_PX:
        raise ValueError(f"need at least {_WINDOW_PX} px each way, got {tuple(found.shape[2:])}")
    offsets = torch.arange(_WINDOW_PX, dtype=torch.float64) - _WINDOW_PX // 2
    row = torch.exp(-0.5 * (offsets / _SIGMA_PX) ** 2)
    row = row / row.sum()
    window = (row[:, None] * row[None])[None, None]
    edge = _WINDOW_PX // 2
    found, wanted = (functional.pad(one, (edge,) * 4, mode="reflect") for one in (found, wanted))
    stacked = torch.cat([found, wanted, found * found, wanted * wanted, found * wanted])
    mean_a, mean_b, aa, bb, ab = functional.conv2d(stacked, window).unbind(0)
    variance_a = (aa - mean_a**2).clamp(min=0)
    variance_b = (bb - mean_b**2).clamp(min=0)
    covariance = ab - mean_a * mean_b
    c1, c2 = _K1**2, _K2**2
    contrast = (2 * covariance + c2) / (variance_a + variance_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    inside = contrast[..., edge:-edge, edge:-edge]
    return float((luminance * contrast).mean()), float(inside.mean())


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityScorer:
    """MS-SSIM, SSIM and RMSE of grey maps; RGB ones by their luminance."""

    @property
    def protocol(self) -> str:
        """Definition in one line."""
        return (
            "MS-SSIM (11-px Gaussian, sigma 1.5, 5 scales or as many as fit, range 1), SSIM, RMSE "
            "(0..255), of each image; nothing found is black"
        )

    @property
    def measures(self) -> tuple[Measure, ...]:
        """MS-SSIM first."""
        return (
            Measure(name="ms_ssim", label="MS-SSIM", higher_is_better=True),
            Measure(name="ssim", label="SSIM", higher_is_better=True),
            Measure(name="rmse", label="RMSE", higher_is_better=False, unit="of 255"),
        )

    def __call__(self, found: Seen | None, wanted: Seen) -> dict[str, np.ndarray]:
        """See `Scorer`."""
        asked = unit_grey(wanted.pixels)
        there = np.zeros_like(asked) if found is None else unit_grey(found.pixels)
        rmse = 255 * float(np.sqrt(np.mean((there - asked) ** 2)))
        values = {"ms_ssim": ms_ssim(there, asked), "ssim": ssim(there, asked), "rmse": rmse}
        return {name: np.array([value]) for name, value in values.items()}


def unit_grey(pixels: np.ndarray) -> np.ndarray:
    """A stored map as (H, W) float64 in [0, 1]; of RGB the luminance (ITU-R 601).

    Args:
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8.
    """
    unit = pixels.astype(np.float64) / np.iinfo(pixels.dtype).max
    return unit if unit.ndim == 2 else unit @ np.array([0.299, 0.587, 0.114])
