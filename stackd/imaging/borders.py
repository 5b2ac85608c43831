"""Borders that no sensor saw: black bars, overscan that reads as nothing, corners of a frame that was turned.

Takes raw frames, gives them with such parts as NaN, which everybody else leaves alone. Left as they are, they would
be the darkest sky of the picture.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from stackd.imaging.quality import measure_sky

Image = NDArray[np.float32]
BELOW_SKY_SIGMA = 5.0  # a sky that is itself clipped at this value has no border to tell from it
# Of its smallest upright or turned box, what was seen fills so much or more. A frame turned within its own canvas fills
# 0.83 (an octagon) or more; the Sun before a black sky 0.79, and 0.82 where it is 40 px wide.
LEAST_FILL = 0.825


def without_borders(pixels: Image) -> Image:
    """The frame (H, W) or (3, H, W), NaN where it holds one value, far below the sky, from the edge on without a gap.

    The same array where there is nothing of the kind; else a copy.
    """
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    edge = np.ones(planes.shape[1:], bool)
    edge[1:-1, 1:-1] = False
    values, counts = np.unique(planes[:, edge], return_counts=True)
    value = values[counts.argmax()]
    empty = (planes == value).all(axis=0)
    if not (empty & edge).any():
        return pixels
    sky = measure_sky(np.where(empty, np.nan, planes.mean(0)))
    if sky.level_adu - value < BELOW_SKY_SIGMA * sky.noise_adu:
        return pixels
    parts, _ = label(empty)
    unseen = empty & np.isin(parts, np.unique(parts[edge & empty]))
    if _fill(~unseen) < LEAST_FILL:
        return pixels
    return np.where(unseen, np.float32(np.nan), pixels)


def _fill(seen: NDArray[np.bool_]) -> float:
    """How much of the smallest box around them, turned as it may be, the seen pixels (H, W) fill."""
    rows = np.flatnonzero(seen.any(axis=1))
    first, last = seen[rows].argmax(axis=1), seen.shape[1] - 1 - seen[rows, ::-1].argmax(axis=1)
    outline = np.concatenate([np.stack([first, rows], 1), np.stack([last, rows], 1)]).astype(np.float32)
    _, (across, along), _ = cv2.minAreaRect(outline)
    return float(np.count_nonzero(seen) / ((across + 1) * (along + 1)))
