"""Which peaks of a picture are points, so that their width is the telescope's and the air's, not their own.

Among nebulae and galaxies most peaks are knots, wider than any star. Every peak is measured as a star upon a curved
ground, and the narrowest group of widths that many peaks share is the stars'. Takes one sky-subtracted image (H, W),
best the plain stack of a set; must not know frames.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stackd.imaging.psf import DEFAULT_BETA, FWHM_PER_SIGMA, Psf
from stackd.imaging.quality import robust_scatter

Image = NDArray[np.float32]

WIDTH_STEP = 0.06  # of the logarithm of a width: finer than a width can be known
WIDTHS_PX = np.exp(np.arange(np.log(1.1), np.log(14), WIDTH_STEP))
PHASES = 5  # places of a star's centre within its pixel, per axis
MOST_PEAKS = 1000  # knots of a bright nebula may be clearer than every star: 300 of them hid the stars beside the Crab
FIRST_RADIUS_PX = 6
LEAST_POINTS = 3
PEAK_SIGMA = 2.1  # of the stack's noise, after the peak filter, which leaves about 0.35 of it
CLEAR_SIGMA = 8.0  # of a star's light: fainter ones do not tell their width
SURE_WIDTH = 0.1  # relative error up to which a width counts
STAR_SHAPED = 0.12  # rms of what a star leaves of its peak, relative to it
SAME_WIDTH = 0.03  # relative scatter of the widths of true stars over a field
GROUP_SHARE, GROUP_LEAST = 0.05, 4.0  # of the largest group, and stars: less is an accident
VALLEY = 0.97  # of a top's height, to the next one
WIDE_SPREAD, MANY = 0.05, 40  # so many peaks so spread in width are no one group
NARROW_QUANTILE = 0.05
NEIGHBOUR_PX, RIVAL_SHARE, LONELY_ENOUGH = 13.0, 0.03, 6  # a rival's light passes for wings


@dataclass(frozen=True, slots=True)
class Points:
    """Stars that are points, in px and the image's unit; columns of one length."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    fwhm_px: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True)
class _Widths:
    """What fitting each peak told: logarithm of its width and that's error, flux, clearness and misfit."""

    log_px: NDArray[np.float64]
    error: NDArray[np.float64]
    flux: NDArray[np.float64]
    snr: NDArray[np.float64]
    misfit: NDArray[np.float64]


def find_points(
    image: Image,
    noise_adu: float,
    saturation_adu: float,
    usual_fwhm_px: float,
    shown: NDArray[np.bool_] | bool = True,
) -> Points:
    """The peaks (of the thousand clearest) that are as narrow as stars; none where no group of widths stands out.

    `usual_fwhm_px` is what peaks of this picture measure at first sight: only its rough size matters. `shown` (H,
    W) tells where a peak stands in several frames: others are no stars.
    """
    rows, columns, contrast = _peaks(image, noise_adu, saturation_adu, usual_fwhm_px, shown)
    if len(rows) < LEAST_POINTS:
        return Points(*(np.zeros(0) for _ in range(4)))
    dx, dy = _within_pixel(contrast, rows, columns)
    widths = _measure(image, noise_adu, rows, columns, dx, dy)
    points = _lonely_first(_narrowest_group(widths), columns + dx, rows + dy, widths.flux)
    return Points(
        columns[points] + dx[points], rows[points] + dy[points], widths.flux[points], np.exp(widths.log_px[points])
    )


def _peaks(image: Image, noise_adu: float, saturation_adu: float, usual_fwhm_px: float, shown):
    """Rows and columns of local maxima between two blurs, clearest first, and that contrast (H, W)."""
    seen = np.isfinite(image)
    filled = np.where(seen, image, 0).astype(np.float32)
    sigma_px = float(np.clip(usual_fwhm_px / FWHM_PER_SIGMA / 1.3, 1.2, 6.0)) if usual_fwhm_px > 6 else 1.2
    contrast = cv2.GaussianBlur(filled, (0, 0), sigma_px) - cv2.GaussianBlur(filled, (0, 0), 2 * sigma_px)
    highest = cv2.dilate(contrast, np.ones((5, 5), np.uint8))
    window = np.ones((2 * FIRST_RADIUS_PX + 1,) * 2, np.uint8)
    inside = cv2.erode(seen.astype(np.uint8), window, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    threshold = PEAK_SIGMA * noise_adu / (sigma_px / 1.2)
    found = (contrast >= highest) & (inside > 0) & (contrast > threshold) & (filled < saturation_adu) & shown
    rows, columns = np.nonzero(found)
    order = np.argsort(-contrast[rows, columns], kind="stable")[:MOST_PEAKS]
    return rows[order], columns[order], contrast


def _within_pixel(contrast: Image, rows, columns) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offsets (dx, dy) of the maxima from their pixels' middles: tops of parabolas."""

    def top(before, at, after):
        curvature = before - 2 * at + after
        return np.where(curvature < 0, np.clip(0.5 * (before - after) / np.minimum(curvature, -1e-12), -0.49, 0.49), 0)

    at = contrast[rows, columns].astype(np.float64)
    return (
        top(contrast[rows, columns - 1], at, contrast[rows, columns + 1]),
        top(contrast[rows - 1, columns], at, contrast[rows + 1, columns]),
    )


def _measure(image: Image, noise_adu: float, rows, columns, dx, dy) -> _Widths:
    """Each peak's best width: first in a window of one size for all, then in one that suits it."""
    radius = np.full(len(rows), FIRST_RADIUS_PX)
    for _ in range(2):
        out = np.full((5, len(rows)), np.nan)
        phase = [np.floor((d + 0.5) * PHASES).astype(int).clip(0, PHASES - 1) for d in (dx, dy)]
        kinds, kind_of = np.unique(np.stack([radius, *phase]), axis=1, return_inverse=True)
        for number, (reach, phase_x, phase_y) in enumerate(kinds.T):
            these = np.nonzero(kind_of.ravel() == number)[0]
            out[:, these] = _fit_widths(image, noise_adu, rows[these], columns[these], reach, (phase_x, phase_y))
        fitting = np.clip(np.round(1.5 * np.exp(out[0])), 4, 20)
        radius = np.where(np.isfinite(fitting), fitting, FIRST_RADIUS_PX).astype(int)
    return _Widths(*out)


def _fit_widths(image: Image, noise_adu: float, rows, columns, radius: int, phase) -> NDArray[np.float64]:
    """(log width, its error, flux, clearness, misfit) x n of peaks that sit alike in their pixels.

    For every width a Moffat star on a ground of second order is fitted by linear least squares; the width with the
    least residual wins, refined by a parabola.
    """
    out = np.full((5, len(rows)), np.nan)
    stamps = [_cut(image, row, column, radius) for row, column in zip(rows, columns)]
    whole = [n for n, stamp in enumerate(stamps) if stamp is not None and np.isfinite(stamp).all()]
    if not whole:
        return out
    grid = np.arange(-radius, radius + 1)
    off = (np.array(phase) + 0.5) / PHASES - 0.5
    inside = np.hypot(grid[None, :] - off[0], grid[:, None] - off[1]) <= radius + 0.3
    x, y = np.broadcast_to(grid / radius, inside.shape), np.broadcast_to(grid[:, None] / radius, inside.shape)
    ground, _ = np.linalg.qr(np.stack([np.ones(inside.shape), x, y, x * x, x * y, y * y], -1)[inside])
    data = np.array([stamps[n][inside] for n in whole], np.float64).T
    data -= ground @ (ground.T @ data)
    widths = WIDTHS_PX[2.2 * radius > WIDTHS_PX]
    stars = np.array([Psf(w, DEFAULT_BETA).at(off[:1], off[1:], radius)[0] for w in widths])
    peaks = stars.max((1, 2))
    stars = stars[:, inside].T
    stars -= ground @ (ground.T @ stars)
    power = (stars**2).sum(0)[:, None]
    fluxes = (stars.T @ data) / power
    squares = (data**2).sum(0) - fluxes**2 * power
    best, each = np.clip(np.argmin(squares, 0), 1, len(widths) - 2), np.arange(len(whole))
    before, at, after = (np.maximum(squares[best + step, each], 0) for step in (-1, 0, 1))
    left_over = at / max(len(data) - 9, 1)
    deviation = np.sqrt(np.maximum(noise_adu**2, left_over))
    curvature = np.maximum(before - 2 * at + after, 1e-12)
    flux = fluxes[best, each]
    out[:, whole] = (
        np.log(widths[best]) + WIDTH_STEP * np.clip(0.5 * (before - after) / curvature, -1, 1),
        WIDTH_STEP * np.sqrt(2 / curvature) * deviation,
        flux,
        flux * np.sqrt(power[best, 0]) / deviation,
        np.sqrt(np.maximum(left_over - noise_adu**2, 0)) / np.maximum(flux * peaks[best], 1e-9),
    )
    return out


def _cut(image: Image, row: int, column: int, radius: int) -> Image | None:
    """The stamp around a pixel, None where it reaches over the image's edge."""
    top, left = row - radius, column - radius
    if top < 0 or left < 0 or row + radius >= image.shape[0] or column + radius >= image.shape[1]:
        return None
    return image[top : row + radius + 1, left : column + radius + 1]


def _narrowest_group(widths: _Widths) -> NDArray[np.intp]:
    """Indices of the peaks of the narrowest width that many share.

    The density of widths has one peak where there are only stars, one for stars and a broad one for knots elsewhere.
    Where widths run on without a gap, as in crowded clusters, the low end of them is taken.
    """
    sure = (widths.error < SURE_WIDTH) & (widths.snr > CLEAR_SIGMA) & (widths.misfit < STAR_SHAPED)
    log_px, error = widths.log_px[sure], np.maximum(widths.error[sure], SAME_WIDTH)
    if len(log_px) < LEAST_POINTS:
        return np.zeros(0, np.intp)
    grid = np.arange(np.log(WIDTHS_PX[0]), np.log(WIDTHS_PX[-1]), 0.01)
    # the better known a width, the more it tells: the blurred edge of the knots' widths must not bury the stars'
    closeness = np.exp(-0.5 * ((grid[:, None] - log_px) / np.minimum(error, 2 * SAME_WIDTH)) ** 2)
    density = (SAME_WIDTH / error * closeness).sum(1)
    enough = max(GROUP_SHARE * density.max(), min(GROUP_LEAST, 0.5 * density.max()))
    width, reach = grid[_first_top(density, enough)], np.minimum(2 * error, 4 * SAME_WIDTH)
    near = log_px[np.abs(log_px - width) < 0.25]
    spread = robust_scatter(near)
    if spread > WIDE_SPREAD and len(near) >= MANY:
        width = np.quantile(log_px[np.abs(log_px - width) < 0.45], NARROW_QUANTILE)
    return np.nonzero(sure)[0][np.abs(log_px - width) < reach]


def _first_top(density: NDArray[np.float64], enough: float) -> int:
    """The first top of this height that a valley parts from the next higher one; the highest, if none is.

    Without the valley a field whose stars are not all of one width would be judged by its sharpest corner.
    """
    highest = int(np.argmax(density))
    for top in range(1, highest):
        is_top = density[top - 1] <= density[top] > density[top + 1] and density[top] >= enough
        if is_top:
            higher = top + int(np.argmax(density[top:] > density[top]))
            if density[top:higher].min() < VALLEY * density[top]:
                return top
    return highest


def _lonely_first(points: NDArray[np.intp], x, y, flux: NDArray[np.float64]) -> NDArray[np.intp]:
    """Of these peaks those without a rival near by, unless too few of them are left."""
    light = np.nan_to_num(flux).clip(0)
    near = cKDTree(np.column_stack([x, y])).query_ball_point(np.column_stack([x, y])[points], NEIGHBOUR_PX)
    rivals = np.array([light[these].sum() for these in near]) - light[points]
    lonely = points[rivals < RIVAL_SHARE * light[points]]
    return lonely if len(lonely) >= LONELY_ENOUGH else points
