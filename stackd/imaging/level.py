"""Skies of different frames brought to one level: no frame's gradient or glow may look like an outlier.

Takes sky-subtracted images (H, W) on one grid, NaN where nothing was seen.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from stackd.imaging.cells import cells_of, medians_of
from stackd.imaging.quality import MAD_TO_SIGMA

Image = NDArray[np.float32]
CELL_PX = 32
LEAST_CELLS = 12
ROUNDS = 4


def tilt_between(image: Image, reference: Image) -> Image:
    """The plane (H, W) by which `image` lies above `reference`: level and tilt of the difference of two skies.

    Fitted to the medians of cells, outlying cells (clouds' edges, stars that differ by seeing) held down.
    Zero where the two have too little in common.
    """
    height, width = image.shape
    cells = cells_of(image - reference, (CELL_PX, CELL_PX))
    down, across, _ = cells.shape
    medians = medians_of(cells).ravel()
    rows, columns = np.mgrid[:down, :across] * CELL_PX + CELL_PX / 2
    y, x = _unit(rows.ravel(), height), _unit(columns.ravel(), width)
    known = np.isfinite(medians)
    if known.sum() < LEAST_CELLS:
        return np.zeros_like(image)
    design = np.stack([np.ones_like(x), x, y], 1)[known]
    terms = _robust_fit(design, medians[known])
    plane = (
        terms[0]
        + terms[1] * _unit(np.arange(width), width)[None]
        + terms[2] * _unit(np.arange(height), height)[:, None]
    )
    return plane.astype(np.float32)


def light_ratio(image: Image, reference: Image) -> float:
    """How much of the reference's light a frame has where there are no stars to tell: the slope of one's
    pixels on the other's, both smoothed so that seeing and noise hardly matter."""
    seen = np.isfinite(image) & np.isfinite(reference)
    a, b = (cv2.GaussianBlur(np.where(seen, v, 0), (0, 0), 3)[seen] for v in (image, reference))
    a, b = a - a.mean(), b - b.mean()
    power = float((b * b).sum())
    slope = float((a * b).sum()) / power if power > 0 else 1.0
    return slope if 0.05 < slope < 20 else 1.0


def _unit(position, size: int) -> NDArray[np.float64]:
    return 2 * np.asarray(position, np.float64) / size - 1


def _robust_fit(design: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares, re-weighted so that what lies far off counts little (Huber 1964)."""
    weight = np.ones(len(values))
    for _ in range(ROUNDS):
        terms, *_ = np.linalg.lstsq(design * weight[:, None], values * weight, rcond=None)
        residual = np.abs(values - design @ terms)
        scale = MAD_TO_SIGMA * np.median(residual) + 1e-9
        weight = np.sqrt(1 / np.maximum(1, residual / (1.5 * scale)))
    return terms
