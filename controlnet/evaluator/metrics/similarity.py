"""Agreement of two soft maps: structural similarity at one and at several scales, and RMSE."""

import dataclasses

import cv2
import numpy as np

from controlnet.evaluator.metrics.base import Measure, Seen

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the scales, finest first (Wang, Simoncelli and Bovik 2003)."""

_WINDOW_PX, _SIGMA_PX = 11, 1.5
_K1, _K2 = 0.01, 0.03  # keep the ratios finite where both maps are flat
_EDGE = _WINDOW_PX // 2

_ROW = np.exp(-0.5 * (np.arange(-_EDGE, _EDGE + 1) / _SIGMA_PX) ** 2)
_ROW /= _ROW.sum()


def ssim(found_HW: np.ndarray, wanted_HW: np.ndarray) -> float:
    """Structural similarity with an 11-px Gaussian window of sigma 1.5.

    Args:
        found_HW: (H, W) floats in [0, 1], at least 11 px each way.
        wanted_HW: likewise.

    Returns:
        -1..1, 1 where they are equal. The picture is mirrored at its edges.

    Raises:
        ValueError: maps of different sizes, or too small for the window.

    Source: Wang et al. 2004; equal to torchmetrics' `structural_similarity_index_measure`.
    """
    return _of_scale(found_HW, wanted_HW)[0]


def ms_ssim(found_HW: np.ndarray, wanted_HW: np.ndarray) -> float:
    """Structural similarity at several scales: what ControlNet++ calls SSIM.

    Args:
        found_HW: (H, W) floats in [0, 1], at least 11 px each way.
        wanted_HW: likewise.

    Returns:
        0..1; negative terms count as 0. Five scales where the coarsest still holds a window (from
        176 px), else as many as fit, their weights scaled to the same sum.

    Raises:
        ValueError: maps of different sizes, or too small for one window.

    Source: torchmetrics' `multiscale_structural_similarity_index_measure` with the same betas.
    """
    betas = betas_of(min(found_HW.shape))
    product = 1.0
    for number, beta in enumerate(betas):
        similarity, contrast = _of_scale(found_HW, wanted_HW)
        # Luminance counts at the coarsest scale alone (Wang, Simoncelli and Bovik 2003, eq. 7).
        term = similarity if number == len(betas) - 1 else contrast
        product *= max(term, 0.0) ** beta
        found_HW, wanted_HW = _halved(found_HW), _halved(wanted_HW)
    return product


def betas_of(side_px: int) -> tuple[float, ...]:
    """Weights of the scales that fit a picture whose shorter side is `side_px`."""
    fitting = [number for number in range(len(BETAS)) if side_px // 2**number >= _WINDOW_PX]
    chosen = BETAS[: max(1, len(fitting))]
    return tuple(beta * sum(BETAS) / sum(chosen) for beta in chosen)


def _of_scale(found_HW: np.ndarray, wanted_HW: np.ndarray) -> tuple[float, float]:
    """Mean similarity, and mean of its contrast and structure term inside the picture."""
    if found_HW.shape != wanted_HW.shape:
        raise ValueError(f"need maps of one size, got {found_HW.shape} and {wanted_HW.shape}")
    if min(found_HW.shape) < _WINDOW_PX:
        raise ValueError(f"need at least {_WINDOW_PX} px each way, got {found_HW.shape}")
    mean_a, mean_b = _blurred(found_HW), _blurred(wanted_HW)
    # Rounding makes the variance of a flat patch slightly negative.
    variance_a = (_blurred(found_HW * found_HW) - mean_a**2).clip(min=0)
    variance_b = (_blurred(wanted_HW * wanted_HW) - mean_b**2).clip(min=0)
    covariance = _blurred(found_HW * wanted_HW) - mean_a * mean_b
    c1, c2 = _K1**2, _K2**2
    contrast = (2 * covariance + c2) / (variance_a + variance_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    # As torchmetrics: only the multi-scale term leaves out where the window was mirrored.
    inside = contrast[_EDGE:-_EDGE, _EDGE:-_EDGE]
    return float((luminance * contrast).mean()), float(inside.mean())


def _blurred(map_HW: np.ndarray) -> np.ndarray:
    # One 11 x 11 convolution in float64 would cost torch 50 times as much, and 1.2 GB at 512 px.
    mirrored = cv2.BORDER_REFLECT_101
    return cv2.sepFilter2D(map_HW, cv2.CV_64F, _ROW, _ROW, borderType=mirrored)


def _halved(map_HW: np.ndarray) -> np.ndarray:
    height, width = (side // 2 for side in map_HW.shape)
    even = map_HW[: 2 * height, : 2 * width]
    return even.reshape(height, 2, width, 2).mean((1, 3))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityScorer:
    """MS-SSIM, SSIM and RMSE of grey maps; of RGB ones the similarities see the luminance alone."""

    protocol = (
        "MS-SSIM (11-px Gaussian, sigma 1.5, 5 scales from 176 px, below as many as fit with "
        "betas of the same sum, range 1) and SSIM of the luminance, RMSE (0..255) of all "
        "channels, of each image; nothing found is black"
    )
    measures = (
        Measure(name="ms_ssim", label="MS-SSIM", higher_is_better=True),
        Measure(name="ssim", label="SSIM", higher_is_better=True, span=2.0),
        Measure(name="rmse", label="RMSE", higher_is_better=False, unit="of 255", span=255.0),
    )

    def __call__(self, found: Seen | None, wanted: Seen) -> dict[str, np.ndarray]:
        """See `Scorer`."""
        pixels = np.zeros_like(wanted.pixels) if found is None else found.pixels
        if pixels.shape != wanted.pixels.shape:
            raise ValueError(f"need maps of one size, got {pixels.shape} and {wanted.pixels.shape}")
        there, asked = unit_grey(pixels), unit_grey(wanted.pixels)
        rmse = 255 * float(np.sqrt(np.mean((_unit(pixels) - _unit(wanted.pixels)) ** 2)))
        values = {"ms_ssim": ms_ssim(there, asked), "ssim": ssim(there, asked), "rmse": rmse}
        return {name: np.array([value]) for name, value in values.items()}


def unit_grey(pixels: np.ndarray) -> np.ndarray:
    """A stored map as (H, W) float64 in [0, 1]; of RGB the luminance (ITU-R 601).

    Args:
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8.
    """
    unit = _unit(pixels)
    return unit if unit.ndim == 2 else unit @ np.array([0.299, 0.587, 0.114])


def _unit(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float64) / np.iinfo(pixels.dtype).max
