"""Star shapes that change over the field, and pieces of a picture to follow them with.

Second moments of blurs add up. So what the field adds to the squared widths of a frame's stars is alike in all frames,
whatever their seeing, and it is smooth: a surface of second order. Pieces of the picture are worked on with the star
shapes of one place each, and joined. Knows nothing of how the surface was measured (psf_field_fit.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stackd.imaging.psf import FWHM_PER_SIGMA, STAMP_RADIUS_PX, Psf, frequencies

Image = NDArray[np.float32]
Window = tuple[slice, slice]
STEPS = 5  # to a side, edges among them, between which shapes are interpolated
LEAST_SHARE = 0.5  # of a frame's star width: none is narrower anywhere
REACH_PX = 16  # beyond where a piece counts, for its edges to be none


@dataclass(frozen=True, slots=True)
class PsfField:
    """What the place adds to squared star widths (px²): `terms` (3, 6) of the surfaces of the xx, xy and yy parts over
    a picture (H, W) of `shape`."""

    terms: NDArray[np.float64]
    shape: tuple[int, int]

    def fwhm_px_at(self, psf: Psf, x: float, y: float) -> float:
        """Width of a frame's star at x, y (px): the geometric mean along and across."""
        xx, xy, yy = squared_widths(psf) + self._added(x, y)
        return float(max(xx * yy - xy**2, 0.0) ** 0.25)

    def psf_at(self, psf: Psf, x: float, y: float) -> Psf:
        """A frame's star as it looks at x, y (px): blurred further, which leaves its wings as they are. Where it is
        sharper than the frame's own, that is made narrower first."""
        xx, xy, yy = self._added(x, y)
        added = np.array([[xx, xy], [xy, yy]])
        least = min(float(np.linalg.eigvalsh(added)[0]), 0.0)
        narrow_px = np.sqrt(max(psf.fwhm_px**2 + least, (LEAST_SHARE * psf.fwhm_px) ** 2))
        narrow = replace(psf, fwhm_px=float(narrow_px))
        star = _blurred(narrow.stamp(), added - least * np.eye(2))
        beside = star - replace(narrow, table=None).stamp()
        return replace(narrow, table=narrow.share_within(STAMP_RADIUS_PX) * beside)

    def _added(self, x: float, y: float) -> NDArray[np.float64]:
        return self.terms @ powers(np.array([x]), np.array([y]), self.shape)[0]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a picture around a place, the frames' star shapes there, and how much it counts at each pixel."""

    window: Window
    share: Image
    psfs: tuple[Psf, ...]


def pieces(shape: tuple[int, int], psfs: tuple[Psf, ...], field: PsfField) -> Iterator[Piece]:
    """The pieces of a picture (H, W) around a grid of places; between them results are mixed, and the shares of all add
    up to 1."""
    for y, rows, down in _steps(shape[0]):
        for x, columns, across in _steps(shape[1]):
            there = tuple(field.psf_at(psf, x, y) for psf in psfs)
            yield Piece((rows, columns), (down[:, None] * across).astype(np.float32), there)


def _steps(length: int) -> Iterator[tuple[float, slice, NDArray[np.float64]]]:
    """(place, where it counts, how much there) of each of STEPS along a side: all at its place, nothing at the next."""
    places, at = np.linspace(0, length - 1, STEPS), np.arange(length)
    for n, place in enumerate(places):
        share = np.interp(at, places, np.eye(STEPS)[n])
        counts = np.nonzero(share)[0]
        part = slice(max(0, int(counts[0]) - REACH_PX), int(counts[-1]) + 1 + REACH_PX)
        yield float(place), part, share[part]


def powers(x: NDArray[np.float64], y: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """(n, 6): the terms of second order of places in px, from -1 to 1 over the longer side."""
    half = max(shape) / 2
    u, v = (x - (shape[1] - 1) / 2) / half, (y - (shape[0] - 1) / 2) / half
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], -1)


def _blurred(stamp: NDArray[np.float64], squared_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """A stamp under a Gaussian of these squared widths (2, 2)."""
    ky, kx = frequencies(stamp.shape)
    exponent = squared_px[0, 0] * kx**2 + 2 * squared_px[0, 1] * kx * ky + squared_px[1, 1] * ky**2
    return fft.irfft2(fft.rfft2(stamp) * np.exp(-2 * np.pi**2 / FWHM_PER_SIGMA**2 * exponent), stamp.shape)


def squared_widths(psf: Psf) -> NDArray[np.float64]:
    """xx, xy and yy parts of the squared widths (px²) of an elliptical star."""
    longer, shorter = psf.fwhm_px**2 / (1 - psf.ellipticity), psf.fwhm_px**2 * (1 - psf.ellipticity)
    c, s = np.cos(psf.angle_rad), np.sin(psf.angle_rad)
    return np.array([longer * c * c + shorter * s * s, (longer - shorter) * c * s, longer * s * s + shorter * c * c])
