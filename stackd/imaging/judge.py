"""How well the stars of a simulated sky are kept: found again, at their flux, and none invented.

Takes planes (H, W) in the truth's unit (electrons; see truth.matched), NaN where nothing was seen. For the golden set
that a new model must pass, and for the benchmark. Knows no network.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter, median_filter
from scipy.spatial import cKDTree

from stackd.imaging.cells import cells_of, medians_of
from stackd.imaging.psf import FWHM_PER_SIGMA, Psf
from stackd.imaging.quality import robust_scatter
from stackd.imaging.skies import Sky, blur, splat, splat_otf

Image = NDArray[np.float32]
Ground = Callable[[Image], Image]  # the level under the stars of a plane (H, W), NaN where unseen
FALSE_PER_MPX = 10.0
GROUND_PX = 20
SAME_STAR_PX = 1.5
HALO = Psf(4.5, 2.5)  # wider than any star of the nights: what lies outside it is empty sky
STACK_STAR_FWHM_PX = 3.0
WORTH_FINDING_SIGMA = 2.5  # of an ideal stack's error of a star's flux
ENOUGH_TO_FIND = 20  # stars; a share of fewer says nothing
BRIGHT_SIGMA = 60.0
LONELY_PX = 14.0
FLUX_RADIUS_PX, FLUX_RING_PX = 6.0, (9.0, 13.0)
CLAIM_RADIUS_PX, CLAIM_RING_PX, CLAIM_SIGMA = 3.0, (6.0, 10.0), 5.0
EDGE_PX = 10  # so near what was not seen a ground is a guess, and what it leaves on a slope looks like peaks


@dataclass(frozen=True, slots=True)
class Truth:
    """A sky on a picture's grid. `noise` (electrons) is that of one pixel of an ideal stack of the same frames."""

    planes: Image  # (bands, H, W)
    sky: Sky
    noise: float
    frame_noise: float  # of one average frame: the softening of the asinh scale
    has_detail: bool  # the diffuse part has knots that may pass for stars, so peaks are not judged

    @property
    def flux(self) -> NDArray[np.float64]:
        """Of the catalogue's stars, mean of the bands."""
        return self.sky.flux.mean(0)

    @property
    def flux_error(self) -> float:
        """1 sigma of a star's flux in an ideal stack, by the best weights (a Gaussian star's noise area)."""
        return self.noise * float(np.sqrt(4 * np.pi)) * STACK_STAR_FWHM_PX / FWHM_PER_SIGMA

    def empty(self) -> NDArray[np.bool_]:
        """(H, W): no star's widest halo stands above half the ideal stack's noise; only there is a peak false."""
        shape = self.planes.shape[1:]
        stars = splat(shape, self.sky.x, self.sky.y, self.flux)
        return blur(stars, HALO.otf(shape) / splat_otf(shape)) < 0.5 * self.noise


def share_found(light: Image, truth: Truth, width_px: float | None, ground: Ground | None = None) -> float:
    """Share of the stars worth finding that stand above the height at which FALSE_PER_MPX false peaks do too; NaN with
    too few of them."""
    worth = _worth_finding(light, truth)
    if worth.sum() < ENOUGH_TO_FIND:
        return np.nan
    x, y, _ = peaks(light, width_px, ground or ground_of)
    near = cKDTree(np.stack([truth.sky.x, truth.sky.y], 1))
    empty = truth.empty() & _well_seen(light)
    allowed, false = FALSE_PER_MPX * empty.sum() / 1e6, 0
    found = np.zeros(len(truth.flux), bool)
    for column, row in zip(x, y):
        stars = [k for k in near.query_ball_point((column, row), SAME_STAR_PX) if not found[k]]
        if stars:
            found[max(stars, key=lambda k: truth.flux[k])] = True
        elif empty[row, column] and not near.query_ball_point((column, row), SAME_STAR_PX):
            false += 1
            if false > allowed:
                break
    return float(found[worth].mean())


def stars_worth_finding(light: Image, truth: Truth) -> int:
    """How many stars `share_found` asks for; with fewer than ENOUGH_TO_FIND it is NaN."""
    return int(_worth_finding(light, truth).sum())


def _worth_finding(light: Image, truth: Truth) -> NDArray[np.bool_]:
    row, column = np.rint(truth.sky.y).astype(int), np.rint(truth.sky.x).astype(int)
    inside = (row >= 0) & (row < light.shape[0]) & (column >= 0) & (column < light.shape[1])
    inside[inside] = _well_seen(light)[row[inside], column[inside]]
    return inside & (truth.flux > WORTH_FINDING_SIGMA * truth.flux_error)


def invented_per_mpx(light: Image, truth: Truth, ground: Ground | None = None) -> float:
    """Peaks on empty sky that claim the flux of a star of 5 sigma or more, by an ideal stack's error; NaN without any
    empty sky."""
    empty = truth.empty() & _well_seen(light)
    if not empty.any():
        return np.nan
    x, y, _ = peaks(light, None, ground or ground_of)
    claims = aperture_flux(light, x.astype(float), y.astype(float), CLAIM_RADIUS_PX, CLAIM_RING_PX)
    return float((empty[y, x] & (claims > CLAIM_SIGMA * truth.flux_error)).sum() / (empty.sum() / 1e6))


def flux_error(light: Image, truth: Truth) -> tuple[float, float]:
    """(median, robust scatter) in mag of bright lonely stars' aperture fluxes, measured against those of the truth.

    Light outside of the aperture counts as lost: wide stars come out too faint.
    """
    flux = truth.flux
    near = cKDTree(np.stack([truth.sky.x, truth.sky.y], 1))
    bright = np.flatnonzero(flux > BRIGHT_SIGMA * truth.flux_error)
    around = near.query_ball_point(np.stack([truth.sky.x, truth.sky.y], 1)[bright], LONELY_PX)
    alone = np.array([k for k, stars in zip(bright, around) if flux[stars].sum() < 1.03 * flux[k]], int)
    if len(alone) < 5:
        return np.nan, np.nan
    x, y = truth.sky.x[alone], truth.sky.y[alone]
    got, wanted = (aperture_flux(v, x, y, FLUX_RADIUS_PX, FLUX_RING_PX) for v in (light, truth.planes.mean(0)))
    good = (got > 0) & (wanted > 0)
    if good.sum() < 5:
        return np.nan, np.nan
    error = -2.5 * np.log10(got[good] / wanted[good])
    return float(np.median(error)), robust_scatter(error)


def peaks(
    light: Image, width_px: float | None, ground: Ground
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """x, y and height of local maxima, highest first, above the ground around, through a filter as wide as the
    picture's own stars."""
    sigma_px = float(np.clip((width_px or 2.0) / FWHM_PER_SIGMA, 0.8, 2.5))
    unseen = ~np.isfinite(light)
    plane = np.where(unseen, 0, light).astype(np.float32)
    contrast = gaussian_filter(np.where(unseen, 0, plane - ground(light)), sigma_px)
    y, x = np.nonzero((contrast == maximum_filter(contrast, 5)) & (contrast > 0) & np.isfinite(light))
    order = np.argsort(-contrast[y, x], kind="stable")
    return x[order], y[order], contrast[y, x][order]


def aperture_flux(
    light: Image, x: NDArray[np.float64], y: NDArray[np.float64], radius_px: float, ring_px: tuple[float, float]
) -> NDArray[np.float64]:
    """Sums within a radius less the median of a ring; NaN where any pixel of it was not seen."""
    reach = int(np.ceil(ring_px[1]))
    padded = np.pad(light.astype(np.float64), reach, constant_values=np.nan)
    steps = np.arange(-reach, reach + 1)
    row, column = np.rint(y).astype(int), np.rint(x).astype(int)
    inside = (row >= 0) & (row < light.shape[0]) & (column >= 0) & (column < light.shape[1])
    fluxes = np.full(len(x), np.nan)
    for k in np.flatnonzero(inside):
        stamp = padded[row[k] : row[k] + 2 * reach + 1, column[k] : column[k] + 2 * reach + 1]
        away = np.hypot(steps[:, None] - (y[k] - row[k]), steps - (x[k] - column[k]))
        ring = stamp[(away >= ring_px[0]) & (away < ring_px[1])]
        fluxes[k] = (stamp[away <= radius_px] - np.median(ring)).sum()
    return fluxes


def _well_seen(light: Image) -> NDArray[np.bool_]:
    """(H, W): nothing unseen, nor the picture's end, within EDGE_PX."""
    around = np.ones((2 * EDGE_PX + 1,) * 2, np.uint8)
    seen = np.isfinite(light).astype(np.uint8)
    return cv2.erode(seen, around, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def ground_of(light: Image) -> Image:
    """What lies under the stars: medians of cells of GROUND_PX, smoothed over their neighbours and drawn out."""
    rows, columns = (min(GROUND_PX, n) for n in light.shape)
    cells = cells_of(light, (rows, columns))
    medians = medians_of(cells, 0.0)
    known = np.isfinite(medians)
    levels = np.where(known, medians, np.nanmedian(light) if known.any() else 0.0)
    smooth = median_filter(levels, 3, mode="nearest").astype(np.float32)
    # a cell's median stands at its middle
    x = (np.arange(light.shape[1], dtype=np.float32) + 0.5) / columns - 0.5
    y = (np.arange(light.shape[0], dtype=np.float32) + 0.5) / rows - 0.5
    return cv2.remap(smooth, *np.meshgrid(x, y), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
