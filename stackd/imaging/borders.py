"""Borders that no sensor saw: black bars, overscan that reads as nothing, corners of a frame that was turned.

Takes raw frames, gives them with such parts as NaN, which everybody else leaves alone. Left as they are, they would
be the darkest sky of the picture.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from stackd.imaging.quality import measure_sky

Image = NDArray[np.float32]
BELOW_SKY_SIGMA = 5.0  # a sky that is itself clipped at the lowest value has no border to tell from it


def without_borders(pixels: Image) -> Image:
    """The frame (H, W) or (3, H, W), NaN where it holds its lowest value from the edge on without a gap.

    The same array where there is nothing of the kind; else a copy.
    """
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    lowest = np.fmin.reduce(pixels, axis=None)
    at_lowest = (planes == lowest).all(axis=0)
    edge = np.ones(at_lowest.shape, bool)
    edge[1:-1, 1:-1] = False
    if not (at_lowest & edge).any():
        return pixels
    sky = measure_sky(np.where(at_lowest, np.nan, planes.mean(0)))
    if sky.level_adu - lowest < BELOW_SKY_SIGMA * sky.noise_adu:
        return pixels
    parts, _ = label(at_lowest)
    unseen = at_lowest & np.isin(parts, np.unique(parts[edge & at_lowest]))
    return np.where(unseen, np.float32(np.nan), pixels)
