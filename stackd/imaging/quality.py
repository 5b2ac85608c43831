"""Numbers about one image: its sky level and the noise on it.

Takes an image (any shape, NaN where nothing was seen), gives plain figures in the image's own unit.
Must not know what the figures are used for.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_SAMPLES = 300_000  # more pixels than this add nothing to a median
MAX_DISTINCT = 20_000
CLIP_SIGMA = 3.0
CLIP_ROUNDS = 12
MAD_TO_SIGMA = 1.4826
CLIPPED_SPREAD = 0.9866  # standard deviation of what 3-sigma clipping leaves of a normal distribution


@dataclass(frozen=True, slots=True)
class Sky:
    """The empty sky of one image: its level and the standard deviation of one pixel around it."""

    level_adu: float
    noise_adu: float


def robust_scatter(values: NDArray[np.float64], axis: int | None = None) -> np.float64 | NDArray[np.float64]:
    """Standard deviation, of all or along an axis, by the median absolute deviation from the median, which outliers
    leave alone."""
    return MAD_TO_SIGMA * np.median(np.abs(values - np.median(values, axis=axis, keepdims=True)), axis=axis)


def measure_sky(image: NDArray[np.float32]) -> Sky:
    """Sky level and pixel noise by sigma clipping about the median; NaN and infinities are left out.

    The level is the mode as SExtractor estimates it, 2.5 median - 1.5 mean of what the clipping leaves
    (Bertin and Arnouts 1996), or the median where a crowd of sources skews that. The noise falls back
    from the median absolute deviation to the standard deviation where most pixels hold one value, as
    in an 8-bit picture whose sky is clipped at zero, and is never less than that of rounding to the
    image's own steps. An image without a finite pixel has Sky(0, 0).
    """
    values = _sample(image)
    if values.size == 0:
        return Sky(0.0, 0.0)
    kept = _clip(values)
    median, mean, spread = float(np.median(kept)), float(kept.mean()), float(kept.std())
    robust = MAD_TO_SIGMA * float(np.median(np.abs(kept - median)))
    noise = max(robust if robust > 0 else spread, rounding_noise(image))
    skewed = spread <= 0 or abs(mean - median) > 0.3 * spread
    level = median if skewed else 2.5 * median - 1.5 * mean
    return Sky(level, noise)


def rounding_noise(image: NDArray[np.float32]) -> float:
    """Standard deviation of rounding to the steps that the image's values come in; next to nothing for real numbers."""
    flat = np.asarray(image).ravel()
    values = np.unique(flat[:: max(1, flat.size // MAX_DISTINCT) | 1])
    steps = np.diff(values[np.isfinite(values)])
    return float(steps.min() / np.sqrt(12)) if steps.size else 0.0


def share_at_black(image: NDArray[np.float32]) -> float:
    """Share of the seen pixels that hold the lowest value, if that is commoner than the next one, as where a sky was
    cut off there; else 0."""
    _, counts = np.unique(_sample(image), return_counts=True)
    return float(counts[0] / counts.sum()) if len(counts) > 1 and counts[0] > counts[1] else 0.0


def pixel_noise(image: NDArray[np.float32]) -> float:
    """Robust noise (1 sigma) at pixel scale of (H, W), from second differences, which are blind to whatever is smooth
    (Immerkaer 1996).

    The median absolute difference only says what to clip: of whole numbers it is itself a whole number.
    """
    rows = image[:, 1:] - image[:, :-1]
    cross = (rows[1:] - rows[:-1]).ravel()
    cross = cross[np.isfinite(cross)]
    if cross.size == 0:
        return 0.0
    rough = MAD_TO_SIGMA * float(np.median(np.abs(cross))) or float(cross.std())
    kept = cross[np.abs(cross) <= CLIP_SIGMA * rough]
    return float(np.sqrt(np.mean(kept.astype(np.float64) ** 2))) / CLIPPED_SPREAD / 2


def _sample(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Every n-th finite pixel, n odd so that a Bayer mosaic's four colours stay in proportion."""
    flat = np.asarray(image).ravel()
    step = max(1, flat.size // MAX_SAMPLES) | 1
    values = flat[::step]
    return values[np.isfinite(values)].astype(np.float64)


def _clip(values: NDArray[np.float64]) -> NDArray[np.float64]:
    for _ in range(CLIP_ROUNDS):
        centre = np.median(values)
        spread = min(values.std(), 2 * MAD_TO_SIGMA * np.median(np.abs(values - centre)) or np.inf)
        kept = values[np.abs(values - centre) <= CLIP_SIGMA * spread]
        if kept.size == values.size or kept.size == 0:
            break
        values = kept
    return values
