"""The plain stack: outliers rejected, then a weighted mean. Baseline, fall-back and first input of the network.

Takes frames that already lie on one grid in one unit (sky subtracted, scaled to the reference's
transparency), NaN where a frame saw nothing. Knows nothing of where they come from.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
FEWEST_TO_REJECT = 3  # frames; of fewer none can be told to be wrong
SMOOTH_PX = 3  # faint trails stand out of the mean over a small box first
SMOOTH_NOISE = 0.45  # of a pixel's noise, in that mean: warped pixels share some of theirs
FLANK_SIGMA = 0.9  # of a pixel's noise, in that mean: beside an outlier this much belongs to it
FLANK_PX = 7
SCALE_ACCURACY = 0.02  # of the light: transparency is known no better


@dataclass(frozen=True, slots=True)
class Stack:
    """A stacked plane; planes are (H, W), NaN where no frame saw the sky.

    `noise` is 1 sigma as the sky alone gives it, `spread` the frames' scatter about the mean in units of their noise
    (1 where they agree), `good` (N, H, W) which samples were used.
    """

    mean: Image
    noise: Image
    spread: Image
    good: NDArray[np.bool_]


def clipped_stack(frames: Image, noise_adu: NDArray[np.float64], kappa: float, photon_gain: float = 1.0) -> Stack:
    """The weighted mean of (N, H, W) frames without what `find_outliers` tells."""
    return combine(frames, noise_adu, find_outliers(frames, noise_adu, kappa, photon_gain))


def find_outliers(
    frames: Image, noise_adu: NDArray[np.float64], kappa: float, photon_gain: float = 1.0
) -> NDArray[np.bool_]:
    """Which samples of (N, H, W) frames do not belong: trails, cosmic rays, planes, leftover hot pixels.

    A sample is out beyond kappa sigma of the median over frames, sigma being its own sky noise (N,) and the photon
    noise of the light there (`photon_gain`, electrons per unit). Where the picture is steep the seeing
    differs from frame to frame, so the local range of the median is allowed on top: without it the
    cores of the sharpest frames would go first. Fewer than three frames give no verdict.
    """
    if len(frames) < FEWEST_TO_REJECT:
        return np.zeros(frames.shape, bool)
    centre = _median(frames)
    level = np.nan_to_num(centre)
    centre_noise = 1.25 * float(np.median(noise_adu)) / np.sqrt(len(frames))
    steep = np.maximum(cv2.dilate(level, _box(5)) - cv2.erode(level, _box(5)) - 4 * centre_noise, 0)
    light = np.maximum(level, 0)
    out = np.zeros(frames.shape, bool)
    for k, frame in enumerate(frames):
        sigma = np.sqrt(noise_adu[k] ** 2 + light / photon_gain + (SCALE_ACCURACY * light) ** 2)
        off = np.nan_to_num(frame - centre)
        wide = np.abs(cv2.blur(off, (SMOOTH_PX, SMOOTH_PX))) - steep
        strong = (np.abs(off) - steep > kappa * sigma) | (wide > kappa * SMOOTH_NOISE * sigma)
        if strong.any():
            near = cv2.dilate(strong.astype(np.uint8), _box(FLANK_PX)).astype(bool)
            out[k] = strong | (near & (wide > FLANK_SIGMA * sigma))
    return out


def _box(size: int) -> NDArray[np.uint8]:
    return np.ones((size, size), np.uint8)


def _median(frames: Image) -> Image:
    """Median over frames, NaN only where no frame saw anything. Without NaN numpy is ten times faster."""
    if not np.isnan(frames).any():
        return np.median(frames, axis=0)
    centre = np.median(frames, axis=0)
    partly = np.isnan(centre) & np.isfinite(frames).any(0)
    if partly.any():
        centre[partly] = np.nanmedian(frames[:, partly], axis=0)
    return centre


def combine(frames: Image, noise_adu: NDArray[np.float64], outliers: NDArray[np.bool_]) -> Stack:
    """Inverse-variance weighted mean of (N, H, W) frames without their outliers."""
    good = np.isfinite(frames) & ~outliers
    seen = np.isfinite(frames).any(0)
    rejected_everywhere = seen & ~good.any(0)
    good[:, rejected_everywhere] = np.isfinite(frames)[:, rejected_everywhere]
    weight = np.zeros(frames.shape[1:])
    total = np.zeros(frames.shape[1:])
    for k, frame in enumerate(frames):
        w = good[k] / noise_adu[k] ** 2
        weight += w
        total += w * np.nan_to_num(frame)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(seen, total / weight, np.nan)
        noise = np.where(seen, weight**-0.5, np.nan)
        chi2 = sum(np.where(good[k], (frame - mean) ** 2 / noise_adu[k] ** 2, 0) for k, frame in enumerate(frames))
        # the mean itself took one degree of freedom; a lone sample has no scatter to show
        freedom = good.sum(0) - 1
        spread = np.where(seen, np.sqrt(np.where(freedom > 0, chi2 / np.maximum(freedom, 1), 1.0)), np.nan)
    return Stack(mean.astype(np.float32), noise.astype(np.float32), spread.astype(np.float32), good)
