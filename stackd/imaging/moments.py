"""Positions and shapes of sources by windowed moments.

Takes an image and the pixels where sources peak, gives one row of plain numbers a source. Works on
small stamps cut around the peaks, above the sky in a ring around each. Must not know what is a star.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stackd.imaging.psf import FWHM_PER_SIGMA

ROUNDS = 12
FIRST_SIGMA_PX = 1.5
SIGMA_RANGE_PX = (0.35, 9.0)
# A narrower window sees one pixel of a sharp star in the middle of it, finds it narrower still, and collapses.
LEAST_WINDOW_PX = 1.0
POSITION_FLOOR_PX = 0.02  # no centroid is better: pixels are not flat
CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Moments:
    """Columns of one length, float64, in the order of the peaks."""

    x: NDArray[np.float64]  # px
    y: NDArray[np.float64]
    flux: NDArray[np.float64]  # in the aperture of the stamp
    peak: NDArray[np.float64]  # brightest pixel of the middle 3 x 3
    fwhm_px: NDArray[np.float64]
    ellipticity: NDArray[np.float64]
    error_px: NDArray[np.float64]
    neighbour_share: NDArray[np.float64]  # the brightest pixel's third brightest neighbour relative to it
    moved_px: NDArray[np.float64]  # from the peak pixel to the centroid


def measure(
    image: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp], radius: int, noise_adu: float
) -> Moments:
    """Adaptive Gaussian moments (Bernstein and Jarvis 2002) in stamps of 2 radius + 1 pixels around each peak."""
    padded = np.pad(image, radius, mode="edge")
    chunks = [
        _measure_chunk(padded, rows[k : k + CHUNK], columns[k : k + CHUNK], radius, noise_adu)
        for k in range(0, len(rows), CHUNK)
    ]
    if not chunks:
        return Moments(*(np.empty(0) for _ in Moments.__dataclass_fields__))
    return Moments(*np.concatenate(chunks, axis=1))


def _measure_chunk(
    padded: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp], radius: int, noise_adu: float
) -> NDArray[np.float64]:
    offset = np.arange(-radius, radius + 1)
    stamps = padded[
        rows[:, None, None] + radius + offset[None, :, None], columns[:, None, None] + radius + offset[None, None, :]
    ].astype(np.float64)
    distance = np.hypot(offset[:, None], offset[None, :])
    ring = (distance > radius - 1.5) & (distance <= radius + 0.5)
    stamps -= np.median(stamps[:, ring], axis=1)[:, None, None]
    aperture = distance <= radius - 0.5
    flux = stamps[:, aperture].sum(axis=1)

    dx, dy, sigma, covariance, signal = _adapt(stamps * aperture, offset.astype(float), noise_adu)
    along, across = _principal_axes(*covariance)
    ellipticity = 1 - np.sqrt(np.maximum(across, 1e-3) / np.maximum(along, 1e-3))
    error = np.hypot(np.sqrt(2) * sigma / np.maximum(signal, 1e-3), POSITION_FLOOR_PX)
    peak, share = _sharpness(stamps, radius)
    return np.stack(
        [columns + dx, rows + dy, flux, peak, sigma * FWHM_PER_SIGMA, ellipticity, error, share, np.hypot(dx, dy)]
    )


def _adapt(stamps: NDArray[np.float64], offset: NDArray[np.float64], noise_adu: float):
    """Move and widen a round Gaussian window on each stamp until it matches what it sees.

    Gives the centroid dx, dy, the source's sigma, its own covariance (xx, yy, xy) and the signal-to-noise ratio in the
    window; one number a stamp each.
    """
    dx, dy = np.zeros(len(stamps)), np.zeros(len(stamps))
    variance = np.full(len(stamps), FIRST_SIGMA_PX**2)
    low, high = LEAST_WINDOW_PX**2, SIGMA_RANGE_PX[1] ** 2
    for round_ in range(ROUNDS):
        x, y = offset - dx[:, None], offset - dy[:, None]
        wx, wy = (np.exp(-0.5 * d**2 / variance[:, None]) for d in (x, y))
        rows = np.einsum("nij,nj->ni", stamps, wx)  # weighted sums along x, then their x and x^2 moments
        rows_x = np.einsum("nij,nj->ni", stamps, wx * x)
        rows_xx = np.einsum("nij,nj->ni", stamps, wx * x * x)
        total = np.einsum("ni,ni->n", rows, wy)
        total = np.where(total > 0, total, np.inf)
        mx = np.einsum("ni,ni->n", rows_x, wy) / total
        my = np.einsum("ni,ni->n", rows, wy * y) / total
        xx = np.einsum("ni,ni->n", rows_xx, wy) / total - mx**2
        yy = np.einsum("ni,ni->n", rows, wy * y * y) / total - my**2
        xy = np.einsum("ni,ni->n", rows_x, wy * y) / total - mx * my
        signal = np.where(np.isfinite(total), total, 0) / (
            max(noise_adu, 1e-30) * np.sqrt((wx**2).sum(axis=1) * (wy**2).sum(axis=1))
        )
        covariance = _unwindowed(xx, yy, xy, variance)
        if round_ == ROUNDS - 1:
            break
        dx, dy = (np.clip(d + 2 * m, -4, 4) for d, m in ((dx, mx), (dy, my)))
        variance = np.clip(
            (covariance[0] + covariance[1]) / 2, np.maximum(low, variance / 2), np.minimum(high, variance * 2)
        )
    sigma = np.clip(np.sqrt((covariance[0] + covariance[1]) / 2), *SIGMA_RANGE_PX)
    return dx, dy, sigma, covariance, signal


def _unwindowed(
    xx: NDArray[np.float64], yy: NDArray[np.float64], xy: NDArray[np.float64], window: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The covariance of a Gaussian source from its moments under a Gaussian window: inverses subtract."""
    determinant = np.maximum(xx * yy - xy**2, 1e-6)
    ixx, iyy, ixy = yy / determinant - 1 / window, xx / determinant - 1 / window, -xy / determinant
    ixx, iyy = np.maximum(ixx, 1e-2), np.maximum(iyy, 1e-2)
    back = np.maximum(ixx * iyy - ixy**2, 1e-4)
    return iyy / back, ixx / back, -ixy / back


def _principal_axes(
    xx: NDArray[np.float64], yy: NDArray[np.float64], xy: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    half, swing = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    return half + swing, half - swing


def _sharpness(stamps: NDArray[np.float64], radius: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The brightest of the middle 3 x 3 pixels and what its third brightest neighbour has of it."""
    middle = stamps[:, radius - 1 : radius + 2, radius - 1 : radius + 2].reshape(len(stamps), 9)
    best = middle.argmax(axis=1)
    peak = middle.max(axis=1)
    row, column = best // 3 + radius - 1, best % 3 + radius - 1
    each = np.arange(len(stamps))
    around = np.stack(
        [stamps[each, row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)], axis=1
    )
    third = np.partition(around, 5, axis=1)[:, 5]
    return peak, third / np.maximum(peak, 1e-30)
