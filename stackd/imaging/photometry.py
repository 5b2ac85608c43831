"""Star fluxes by fitting a known PSF, and what they tell: a frame's transparency.

Takes sky-subtracted images (H, W), NaN where nothing was seen. Fitting the whole profile gives a star's total light
whatever the seeing was, where an aperture loses more of a wide star's wings than of a narrow one's
(Stetson 1987).
"""

import numpy as np
from numpy.typing import NDArray

from stackd.imaging.psf import Psf

Image = NDArray[np.float32]
FIT_RADIUS_PX = 7
LEAST_STARS = 3


def star_fluxes(image: Image, psf: Psf, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light (ADU) within the PSF's light radius of each star at x, y (px); NaN where pixels are unseen.

    By least squares of PSF and a level. Light farther out is what the fitted wings say of places nobody looked at.
    """
    radius = FIT_RADIUS_PX
    fluxes = np.full(len(x), np.nan)
    column, row = np.round(x).astype(int), np.round(y).astype(int)
    inside = (column >= radius) & (column < image.shape[1] - radius) & (row >= radius) & (row < image.shape[0] - radius)
    if not inside.any():
        return fluxes
    grid = np.arange(-radius, radius + 1)
    rows, columns = row[inside][:, None, None] + grid[:, None], column[inside][:, None, None] + grid
    data = image[rows, columns].reshape(inside.sum(), -1).astype(np.float64)
    model = psf.at(x[inside] - column[inside], y[inside] - row[inside], radius).reshape(inside.sum(), -1)
    centred = model - model.mean(1, keepdims=True)
    fluxes[inside] = (centred * data).sum(1) / (centred**2).sum(1) * psf.share_within(psf.light_radius_px)
    return fluxes


def relative_light(fluxes: NDArray[np.float64], reference_fluxes: NDArray[np.float64]) -> float | None:
    """How much of the reference's light a frame has, from the same stars' fluxes in both; None with too few.

    The median of the ratios weighted by brightness: bright stars are measured best, one odd star decides nothing.
    """
    usable = np.isfinite(fluxes) & np.isfinite(reference_fluxes) & (fluxes > 0) & (reference_fluxes > 0)
    if usable.sum() < LEAST_STARS:
        return None
    ratio, weight = fluxes[usable] / reference_fluxes[usable], np.sqrt(reference_fluxes[usable])
    order = np.argsort(ratio)
    cumulative = np.cumsum(weight[order])
    return float(ratio[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
