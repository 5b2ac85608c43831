"""The sky behind the stars, on ever larger scales: what is left of a stack when its sources are cut out.

A network that sees a hundred pixels cannot average over more of them; these maps have already. Takes planes (H, W) of
one grid in units of noise, NaN where nothing was seen. Must not know what the maps are used for.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from stackd.imaging.cells import cells_of, medians_of

Image = NDArray[np.float32]
SCALES_PX = (5.0, 12.0, 30.0)  # sigma of the Gaussians that average what is no source
REDUCTION = 4  # such smooth maps need no more than every fourth pixel
CELL_PX = 16  # of the coarse level against which sources stand out
CUT_PX = ((2.5, 9), (30.0, 19), (300.0, 37))  # a source above so many sigma is cut out with so many px around it
LEAST_WEIGHT = 0.02  # of a Gaussian's pixels that are no source; with fewer, the coarse level stands in


def backgrounds(plane: Image, score: Image) -> Image:
    """(len(SCALES_PX), H, W): means of the pixels that belong to no source, under Gaussians of SCALES_PX.

    `score` is the matched filter's answer in sigma; what stands out in it is a source. A mean under a Gaussian is wrong
    where the sky curves, so the mean of what it leaves is added (twicing, Tukey 1977).
    """
    coarse = _coarse_level(plane)
    sky = (np.isfinite(plane) & ~_sources(score - _coarse_level(score))).astype(np.float32)
    size = tuple(max(1, -(-n // REDUCTION)) for n in plane.shape[::-1])
    light, weight, level = (
        cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (np.nan_to_num(plane) * sky, sky, coarse)
    )
    out = []
    for scale_px in SCALES_PX:
        sigma_px = scale_px / REDUCTION
        pixels = cv2.GaussianBlur(weight, (0, 0), sigma_px) + LEAST_WEIGHT
        mean = (cv2.GaussianBlur(light, (0, 0), sigma_px) + LEAST_WEIGHT * level) / pixels
        left = cv2.GaussianBlur(light - weight * mean, (0, 0), sigma_px)
        out.append(cv2.resize(mean + left / pixels, plane.shape[::-1], interpolation=cv2.INTER_CUBIC))
    return np.array(out, np.float32)


def _coarse_level(plane: Image) -> Image:
    """A smooth (H, W) through the medians of cells and of what they leave."""
    level = _through_medians(plane)
    return level + _through_medians(plane - level)


def _through_medians(plane: Image) -> Image:
    """(H, W) through the medians of cells; a cell that nobody saw is as its nearest neighbour."""
    more = [(0, -n % CELL_PX) for n in plane.shape]
    whole = np.pad(plane, more, mode="edge")
    cells = cells_of(whole, (CELL_PX, CELL_PX))
    medians = medians_of(cells, 0.0)
    unseen = np.isnan(medians)
    if unseen.all():
        return np.zeros_like(plane)
    medians = medians[tuple(distance_transform_edt(unseen, return_distances=False, return_indices=True))]
    smooth = cv2.resize(medians, whole.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return smooth[: plane.shape[0], : plane.shape[1]]


def _sources(significance: Image) -> NDArray[np.bool_]:
    """The pixels of sources and their surroundings."""
    cut = np.zeros(significance.shape, np.uint8)
    for sigma, reach_px in CUT_PX:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach_px, reach_px))
        cut |= cv2.dilate((significance > sigma).astype(np.uint8), disc)
    return cut.astype(bool)
