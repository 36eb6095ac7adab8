"""Colours that a file tells by numbers instead of a profile, as the ICC profile that says the same.

Source: ITU-T H.273 (code points), ICC.1:2001-04 (matrix and curve profiles), the PNG specification
(gAMA, cHRM, cICP).
"""

import functools
import struct

import numpy as np

from schemas.errors import Reason, Rejected
from schemas.picture_headers import ColorCoding

_D65 = (0.3127, 0.3290)
_SRGB = (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
_PRIMARIES: dict[int, tuple[float, ...]] = {  # white, red, green, blue
    1: _SRGB,
    4: (0.310, 0.316, 0.670, 0.330, 0.210, 0.710, 0.140, 0.080),
    5: (*_D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_HDR = {16: "PQ", 18: "HLG"}
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
# Cameras' curves (BT.709 and its siblings) are shown as sRGB by everything that shows pictures.
_AS_SRGB = frozenset({1, 2, 6, 13, 14, 15})
_ALIKE = 0.05  # relative, of gammas; libpng's own threshold
_ALIKE_PLACES = 0.01  # of chromaticities
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


@functools.lru_cache(maxsize=64)
def profile_of(coding: ColorCoding, *, is_grey: bool) -> bytes | None:
    """An ICC profile for what a file tells by numbers; None if that is sRGB, or unknown.

    Args:
        coding: code points, or PNG's gamma and chromaticities.
        is_grey: whether the picture has no colours, only a curve.

    Raises:
        Rejected: UNSUPPORTED_PIXELS for a curve of high dynamic range (PQ, HLG), whose bright half
            sRGB cannot hold.
    """
    if coding.transfer in _HDR:
        raise Rejected(
            Reason.UNSUPPORTED_PIXELS,
            f"high dynamic range ({_HDR[coding.transfer]}); map its tones to sRGB first",
        )
    places = coding.chromaticities or _PRIMARIES.get(coding.primaries, _SRGB)
    gamma = _GAMMAS.get(coding.transfer)
    if coding.gamma is not None:
        gamma = 1 / coding.gamma
    if coding.transfer not in _AS_SRGB | _GAMMAS.keys():
        gamma = None
    is_srgb_curve = gamma is None or abs(gamma / 2.2 - 1) < _ALIKE
    if is_srgb_curve and (is_grey or np.abs(np.subtract(places, _SRGB)).max() < _ALIKE_PLACES):
        return None
    curve = _curve(None if is_srgb_curve else gamma)
    if is_grey:
        return _profile(b"GRAY", {b"wtpt": _xyz(_D50), b"kTRC": curve})
    matrix = _to_d50(places)
    if matrix is None:
        return None  # nonsense, ignored like any broken profile
    columns = {name: _xyz(matrix[:, n]) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _profile(b"RGB ", {b"wtpt": _xyz(_D50), **columns, **curves})


def _to_d50(places: tuple[float, ...]) -> np.ndarray | None:
    """(3, 3): light of red, green and blue -> XYZ under D50; None if there is none."""
    if min(places[1::2]) <= 0:
        return None
    white, *colors = (
        np.array([x / y, 1.0, (1 - x - y) / y])
        for x, y in zip(places[0::2], places[1::2], strict=True)
    )
    primaries = np.stack(colors, axis=1)
    if abs(np.linalg.det(primaries)) < 1e-6:
        return None
    matrix = primaries * np.linalg.solve(primaries, white)
    gain = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ (gain[:, None] * (_BRADFORD @ matrix))


def _xyz(values: np.ndarray) -> bytes:
    fixed = [max(-(2**31), min(2**31 - 1, round(float(value) * 65536))) for value in values]
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *fixed)


def _curve(gamma: float | None) -> bytes:
    """A power, or sRGB's curve in 1024 steps."""
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IHxx", 1, max(1, min(65535, round(gamma * 256))))
    value = np.linspace(0, 1, 1024)
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    steps = np.round(light * 65535).astype(">u2").tobytes()
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + steps


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    start = 128 + 4 + 12 * len(tags)
    table = struct.pack(">I", len(tags))
    body = b""
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value
    header = struct.pack(">I4sI4s4s4s12s4s", start + len(body), b"", 0x02100000, b"mntr", space,
                         b"XYZ ", b"", b"acsp")  # fmt: skip
    header += b"\0" * 28 + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body
