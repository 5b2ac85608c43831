"""A picture against the simulated sky that it shows: the truth on its grid, and how close it came.

Takes planes (bands, H, W) in any linear unit, NaN where nothing was seen; gives decibels and pixels. For
the demo and the benchmark. Neither the unit nor the sky's level and tilt nor the colour balance is
judged, so they are fitted first.
"""

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label, zoom
from scipy.spatial import cKDTree

from stackd.imaging.quality import MAD_TO_SIGMA, robust_scatter
from stackd.imaging.skies import Sky

Image = NDArray[np.float32]
BLOCK_PX = 8  # scale, level and tilt are fitted on means of so many pixels a side: a star's width must not matter
PEAK_QUANTILE = 0.9995  # of the truth: a few stars' cores do not set the range
ROUNDS, RELATIVE = 12, 0.1  # of that fit
WIDTH_STARS, LEAST_STARS = 40, 3
WIDTH_REACH_PX = 8
FINER = 4  # half of the peak is looked for on pixels so much smaller
STANDS_OUT = 10.0  # a star's peak over the spread around it


def seen_from(sky: Sky, matrix: NDArray[np.float64]) -> Sky:
    """The sky on the grid of a frame whose pixels `matrix` (2, 3) maps to the sky's."""
    inverse = cv2.invertAffineTransform(matrix)
    x, y = inverse[:, :2] @ np.stack([sky.x, sky.y]) + inverse[:, 2:]
    size = sky.diffuse.shape[:0:-1]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REFLECT_101
    diffuse = np.array([cv2.warpAffine(band, matrix, size, flags=flags, borderMode=border) for band in sky.diffuse])
    return replace(sky, diffuse=diffuse, x=x, y=y)


def matched(image: Image, truth: Image) -> tuple[Image, NDArray[np.float64]]:
    """(the image in the truth's unit, the factor of each band): per band the scale, level and tilt that fit best."""
    fits = [_fit_of(*pair) for pair in zip(image, truth)]
    return np.array([plane for plane, _ in fits]), np.array([scale for _, scale in fits])


def psnr_db(image: Image, truth: Image, softening: float) -> float:
    """Peak signal to noise of an image in the truth's unit on the scale asinh(v / softening), on which people look at
    such pictures: differences in faint nebula and in bright stars both count (Lupton et al. 2004)."""
    shown, wanted = shown_asinh(image, softening), shown_asinh(truth, softening)
    peak = np.quantile(wanted, PEAK_QUANTILE) - wanted.min()
    return float(10 * np.log10(peak**2 / np.nanmean((shown - wanted) ** 2)))


def shown_asinh(image: Image, softening: float) -> Image:
    """asinh(v / softening): linear below the softening, logarithmic above it."""
    return np.arcsinh(image / np.float32(softening))


def star_width_px(plane: Image, sky: Sky, saturation: float = np.inf) -> float | None:
    """Median FWHM (px) of the catalogue's brightest lonely stars on a plane (H, W) of the sky's grid: the width of the
    disc above half of a star's peak. None with too few of them.

    `saturation`: stars whose peak reaches it, in the plane's unit, are passed over.
    """
    flux, places = sky.flux.mean(0), np.stack([sky.x, sky.y], 1)
    tree = cKDTree(places)
    widths: list[float] = []
    for k in np.argsort(-flux):
        if flux[tree.query_ball_point(places[k], 2 * WIDTH_REACH_PX)].sum() > 1.1 * flux[k]:
            continue
        width = _width_at(plane, *places[k], saturation)
        if width is not None:
            widths.append(width)
        if len(widths) == WIDTH_STARS:
            break
    return float(np.median(widths)) if len(widths) >= LEAST_STARS else None


def _width_at(plane: Image, x: float, y: float, saturation: float) -> float | None:
    """FWHM (px) of the star at x, y; None where it does not stand out well of what is around it."""
    row, column, reach = round(y), round(x), WIDTH_REACH_PX
    stamp = plane[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
    if stamp.shape != (2 * reach + 1,) * 2 or not np.isfinite(stamp).all():
        return None
    edge = np.concatenate([stamp[:2].ravel(), stamp[-2:].ravel(), stamp[:, :2].ravel(), stamp[:, -2:].ravel()])
    around, spread = np.median(edge), robust_scatter(edge)
    fine = zoom(stamp - around, FINER, order=3)
    peak = float(fine[3 * FINER : -3 * FINER, 3 * FINER : -3 * FINER].max())
    if peak < STANDS_OUT * spread or peak + around > saturation:
        return None
    lit, _ = label(fine > peak / 2)
    area = np.count_nonzero(lit == lit[np.unravel_index(fine.argmax(), fine.shape)])
    return 2 * float(np.sqrt(area / np.pi)) * (len(stamp) - 1) / (len(fine) - 1)


def _fit_of(image: Image, truth: Image) -> tuple[Image, float]:
    """(a band in the truth's unit, the factor), by fitting the image to the truth and turning that round: the truth has
    no noise that could pull the slope down.

    Iteratively reweighted, each block trusted to the blocks' usual residual and to RELATIVE of its own light, so that
    neither a saturated star nor a hot pixel decides.
    """
    got, light = _block_means(image).astype(np.float64), _block_means(truth).astype(np.float64)
    seen = np.isfinite(got)
    middle = float(np.median(light[seen]))
    rows, columns = (np.linspace(-1, 1, size, dtype=np.float32) for size in image.shape)
    y, x = np.meshgrid(*(_means(axis) for axis in (rows, columns)), indexing="ij")
    design = np.stack([light - middle, np.ones_like(x), x, y], -1)[seen]
    weight = np.ones(len(design))
    for _ in range(ROUNDS):
        terms, *_ = np.linalg.lstsq(design * weight[:, None], got[seen] * weight, rcond=None)
        residual = got[seen] - design @ terms
        trust = np.hypot(MAD_TO_SIGMA * np.median(np.abs(residual)) + 1e-12, RELATIVE * terms[0] * design[:, 0])
        weight = 1 / (trust * (1 + (residual / trust) ** 2) ** 0.25)
    scale = 1 / terms[0] if terms[0] > 0 else 1.0  # not above zero: nothing of the truth is in this picture
    ground = terms[1] + terms[2] * columns + terms[3] * rows[:, None]
    return (scale * (image - ground) + middle).astype(np.float32), scale


def _block_means(plane: Image) -> Image:
    """Means of BLOCK_PX x BLOCK_PX pixels; NaN where any was not seen."""
    height, width = (n // BLOCK_PX for n in plane.shape)
    blocks = plane[: height * BLOCK_PX, : width * BLOCK_PX].reshape(height, BLOCK_PX, width, BLOCK_PX)
    return blocks.mean((1, 3))


def _means(axis: NDArray[np.float32]) -> NDArray[np.float32]:
    """The coordinate of each block's middle."""
    count = len(axis) // BLOCK_PX
    return axis[: count * BLOCK_PX].reshape(count, BLOCK_PX).mean(1)
