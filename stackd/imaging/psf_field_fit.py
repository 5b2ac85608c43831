"""How star shapes change over the field, measured on the mean of a set's frames: cell by cell, and a surface through
what the cells tell. Takes one plane (H, W) on the reference's grid; must not know frames.
"""

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from stackd.imaging.points import find_points
from stackd.imaging.psf import Psf
from stackd.imaging.psf_field import Image, PsfField, Window, powers, squared_widths
from stackd.imaging.psf_fit import fit_psf

CELL_PX, MOST_CELLS = 120, 5  # least side of a cell that stars are measured in, and how many to a side of the picture
CELL_STARS = 5  # lonely and bright ones; fewer tell no shape
KNOWN_CELLS, LEAST_CELLS = 0.65, 11  # share of all, and number: fewer tell no surface of six terms
SAME_SHAPE = 0.05  # relative scatter of squared widths between cells of one shape
FARTHEST_OFF = 0.3  # a cell that is farther off says only that it is
NOTABLE = 0.12  # relative change of a squared width over the field, from which on it is worth following
EXPLAINED = 0.65  # of the cells' variance about one shape, that the surface has to tell: knots come to half by chance
SHARPEST, SOFTEST = -0.3, 1.5  # what a place may add to the usual squared width: no lens draws more, knots do
FIRMNESS = 0.02  # holds terms that no cell tells at 0


def measure_field(
    mean: Image, noise_adu: float, saturation_adu: float, usual: Psf, shown: NDArray[np.bool_], stars: int
) -> PsfField | None:
    """How star shapes change over the mean (H, W) of a set's frames; None where they do not, or too few stars tell.

    `usual` is the star shape of the mean as the set's points tell it: the surface is what other places add to that.
    `shown` (H, W) as for find_points, `stars` about how many there are.
    """
    cells = list(_cells(mean.shape))
    if stars < CELL_STARS * KNOWN_CELLS * len(cells):
        return None
    told = [_shape_in(cell, mean, noise_adu, saturation_adu, usual, shown) for cell in cells]
    known = [one for one in told if one is not None]
    if len(known) < max(KNOWN_CELLS * len(cells), LEAST_CELLS):
        return None
    places, psfs = np.array([place for place, _ in known]), [psf for _, psf in known]
    weights = np.sqrt([psf.stars for psf in psfs])
    unit = usual.fwhm_px**2
    added = np.array([squared_widths(psf) - squared_widths(usual) for psf in psfs]) / unit
    at_cells = powers(*places.T, mean.shape)
    terms, level = (_surface(at_cells, added, weights, free) for free in (6, 1))
    surface = terms @ at_cells.T
    left, whole = (_variance(added - at_cells @ t.T, free) for t, free in ((terms, 6), (level, 1)))
    if np.ptp(surface, axis=1).max() < NOTABLE or left > (1 - EXPLAINED) * whole:
        return None
    if surface[[0, 2]].min() < SHARPEST or surface[[0, 2]].max() > SOFTEST:
        return None
    return PsfField(terms * unit, mean.shape)


def _shape_in(
    cell: Window, mean: Image, noise_adu: float, saturation_adu: float, usual: Psf, shown
) -> tuple[tuple[float, float], Psf] | None:
    """Where the stars of a cell stand in the middle (x, y; px), and their shape; None where too few tell it."""
    points = find_points(mean[cell], noise_adu, saturation_adu, usual.fwhm_px, shown[cell])
    psf = fit_psf(mean[cell], points.x, points.y, points.flux, noise_adu, peak_below_adu=saturation_adu)
    if psf is None or psf.stars < CELL_STARS:
        return None
    return (cell[1].start + float(points.x.mean()), cell[0].start + float(points.y.mean())), psf


def _variance(left: NDArray[np.float64], free: int) -> float:
    """Of cells (n, 3) about a surface of so many free terms."""
    return float(np.sum(np.minimum(np.abs(left), FARTHEST_OFF) ** 2)) / (len(left) - free)


def _cells(shape: tuple[int, int]) -> Iterator[Window]:
    """The picture in up to MOST_CELLS parts a side."""
    return product(*(_parts(size, int(np.clip(size // CELL_PX, 1, MOST_CELLS))) for size in shape))


def _parts(length: int, count: int) -> list[slice]:
    """A side of so many px in `count` parts."""
    return [slice(*edges) for edges in pairwise(round(n * length / count) for n in range(count + 1))]


def _surface(at_cells, values, weights, free: int) -> NDArray[np.float64]:
    """Terms (3, 6), all but the first `free` 0, that fit values (n, 3) of places whose powers are `at_cells` (n, 6);
    cells whose "stars" are knots of nebula are held down."""
    terms = np.zeros((3, 6))

    def misfit(found: NDArray[np.float64]) -> NDArray[np.float64]:
        left = (values - at_cells[:, :free] @ found.reshape(3, free).T) * (weights / weights.mean())[:, None]
        return np.append(left, FIRMNESS * found)

    terms[:, :free] = least_squares(misfit, np.zeros(3 * free), loss="soft_l1", f_scale=SAME_SHAPE).x.reshape(3, free)
    return terms
