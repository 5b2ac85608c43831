"""Stars of one frame, brightest first: positions, fluxes, widths.

Takes a sky-subtracted image (NaN where nothing was seen) and its noise, gives one record of arrays.
What is sharper than a star (hot pixels, cosmic rays) or wider (knots of a nebula) is left out. Must
not know the frame's neighbours.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stackd.imaging.moments import measure
from stackd.imaging.psf import FWHM_PER_SIGMA
from stackd.imaging.quality import measure_sky

DETECTION_SIGMA = 5.0
MAX_STARS = 5000
BROAD_PX = 4.0
NEIGHBOUR_SHARE = 0.12  # of its peak: what a star's third brightest neighbour has at least (in the middle of a pixel
NEIGHBOUR_SIGMA = 0.65  # one of 1.2 px has 0.15), and of noise more than that: as the third of a hot pixel's eight
WIDTH_RANGE = (0.6, 1.7)  # of the frame's typical width
BRIGHTEST = 20
MAX_MOVE_PX = 2.0  # of a centroid from its peak; farther, two sources were mixed up
SAME_STAR_PX = 2.0


@dataclass(frozen=True, slots=True)
class Stars:
    """Point sources of one frame, brightest first; columns of one length."""

    x: NDArray[np.float64]  # px, 0 is the centre of the first pixel
    y: NDArray[np.float64]
    flux: NDArray[np.float64]  # ADU, in an aperture of about 2.5 times the width
    peak: NDArray[np.float64]  # ADU above the local sky, of the brightest pixel
    fwhm_px: NDArray[np.float64]  # of the Gaussian that fits the core
    ellipticity: NDArray[np.float64]  # 1 - b / a
    error_px: NDArray[np.float64]  # 1-sigma of the position along one axis
    saturated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.x)

    def take(self, which: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Stars":
        """The stars that an index, a mask or a slice picks, in that order."""
        return Stars(*(getattr(self, column)[which] for column in self.__dataclass_fields__))


def find_stars(image: NDArray[np.float32], noise_adu: float, saturation_adu: float = np.inf) -> Stars:
    """Stars of a sky-subtracted image (H, W), at most 5,000, brightest first.

    Peaks of the image between two Gaussian blurs, which removes both noise and everything wide, then
    windowed centroids and adaptive Gaussian moments (Bertin 1996; Bernstein and Jarvis 2002) above the
    sky around each. `saturation_adu` is above the sky as well: such stars are flagged, not left out.
    """
    seen = np.isfinite(image)
    filled = np.where(seen, image, 0).astype(np.float32)
    stars = _measure(filled, find_peaks(filled, seen, 1.2), 7, noise_adu, saturation_adu)
    width = _typical_width(stars)
    if width > BROAD_PX:  # broad stars are found fainter, and measured whole, in wider windows
        radius = int(np.clip(np.ceil(2.5 * width), 7, 20))
        peaks = find_peaks(filled, seen, min(width, 8.0) / FWHM_PER_SIGMA)
        stars = _measure(filled, peaks, radius, noise_adu, saturation_adu)
        width = _typical_width(stars)
    stars = stars.take(_looks_like_a_star(stars, width))
    return _without_doubles(stars.take(np.argsort(-stars.flux, kind="stable"))).take(slice(MAX_STARS))


def find_peaks(
    image: NDArray[np.float32], seen: NDArray[np.bool_], sigma_px: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of local maxima at least 5 sigma high, highest first."""
    narrow = cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT)
    wide = cv2.GaussianBlur(image, (0, 0), 3.5 * sigma_px, borderType=cv2.BORDER_REFLECT)
    contrast = narrow - wide
    sky = measure_sky(np.where(seen, contrast, np.nan))
    size = 2 * int(np.ceil(1.5 * sigma_px)) + 1
    highest = cv2.dilate(contrast, np.ones((size, size), np.uint8))
    margin = 3
    inside = cv2.erode(
        seen.astype(np.uint8), np.ones((2 * margin + 1,) * 2, np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    rows, columns = np.nonzero((contrast >= highest) & (contrast > DETECTION_SIGMA * sky.noise_adu) & (inside > 0))
    order = np.argsort(-contrast[rows, columns], kind="stable")[: 2 * MAX_STARS]
    return rows[order], columns[order]


def _measure(
    image: NDArray[np.float32],
    peaks: tuple[NDArray[np.intp], NDArray[np.intp]],
    radius: int,
    noise_adu: float,
    saturation_adu: float,
) -> Stars:
    """What is no single hot pixel, nor so faint that nothing is left above the sky around it."""
    found = measure(image, *peaks, radius, noise_adu)
    stars = Stars(
        found.x,
        found.y,
        found.flux,
        found.peak,
        found.fwhm_px,
        found.ellipticity,
        found.error_px,
        found.peak >= 0.95 * saturation_adu,
    )
    least = NEIGHBOUR_SHARE + NEIGHBOUR_SIGMA * noise_adu / np.maximum(found.peak, 1e-30)
    return stars.take((found.neighbour_share > least) & (found.moved_px < MAX_MOVE_PX) & (found.flux > 0))


def _typical_width(stars: Stars) -> float:
    """Median width of the clearest stars that are not saturated, px; NaN without any."""
    clear = stars.fwhm_px[~stars.saturated & (stars.ellipticity < 0.5)][:200]
    if clear.size == 0:
        clear = stars.fwhm_px[:200]
    return float(np.median(clear)) if clear.size else float("nan")


def _looks_like_a_star(stars: Stars, width: float) -> NDArray[np.bool_]:
    """Of the frame's usual width and roundness; a trailed frame's stars are all long and may stay.

    Where leftover defects outnumber the stars, the usual width is theirs: what is as wide as the brightest
    sources may stay as well.
    """
    if len(stars) == 0:
        return np.zeros(0, bool)
    low, high = WIDTH_RANGE
    brightest = stars.take(np.argsort(-stars.flux, kind="stable")[:BRIGHTEST])
    widest = max(width, float(np.median(brightest.fwhm_px)))
    wide_enough = stars.fwhm_px > low * width
    not_too_wide = stars.fwhm_px < high * widest * np.where(stars.saturated, 2.5, 1.0)
    usual = float(np.median(stars.ellipticity[:200]))
    return wide_enough & not_too_wide & (stars.ellipticity < max(0.5, usual + 0.25))


def _without_doubles(stars: Stars) -> Stars:
    """Of two peaks whose centroids fell together, the brighter stays."""
    if len(stars) < 2:
        return stars
    pairs = cKDTree(np.column_stack([stars.x, stars.y])).query_pairs(SAME_STAR_PX, output_type="ndarray")
    keep = np.ones(len(stars), bool)
    keep[pairs.max(axis=1)] = False
    return stars.take(keep)
