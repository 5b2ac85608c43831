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

CELL_PX = 160  # least side of a cell that stars are measured in
FINEST, COARSEST = 5, 3  # cells to a side of the picture
ENOUGH_STARS = 15  # of all kinds, in a cell: few of them are lonely and bright
CELL_STARS = 5  # lonely and bright ones; fewer tell no shape
KNOWN_CELLS, LEAST_CELLS = 0.7, 8  # share that is known, and number of all: half a field tells no surface
CURVED_CELLS = 8  # fewer tell a plane and no more
SAME_SHAPE = 0.05  # relative scatter of squared widths between cells of one shape
FARTHEST_OFF = 0.3  # a cell that is farther off says only that it is
NOTABLE = 0.12  # relative change of a squared width over the field, from which on it is worth following
EXPLAINED = 0.7  # of the cells' variance about one shape, that the surface has to tell: knots come to half by chance
FIRMNESS = 0.02  # holds terms that no cell tells at 0


def measure_field(
    mean: Image, noise_adu: float, saturation_adu: float, usual: Psf, shown: NDArray[np.bool_], stars: int
) -> PsfField | None:
    """How star shapes change over the mean (H, W) of a set's frames; None where they do not, or too few stars tell.

    `usual` is the star shape of the mean as the set's points tell it: the surface is what other places add to that.
    `shown` (H, W) as for find_points, `stars` about how many there are.
    """
    for cells in _grids(mean.shape, stars):
        told = [_shape_in(cell, mean, noise_adu, saturation_adu, usual, shown) for cell in cells]
        known = [one for one in told if one is not None]
        if len(known) >= KNOWN_CELLS * len(cells):
            break
    else:
        return None
    places, psfs = np.array([place for place, _ in known]), [psf for _, psf in known]
    weights = np.sqrt([psf.stars for psf in psfs])
    unit = usual.fwhm_px**2
    added = np.array([squared_widths(psf) - squared_widths(usual) for psf in psfs]) / unit
    at_cells = powers(*places.T, mean.shape)
    free = 6 if len(known) >= CURVED_CELLS else 3
    terms, level = (_surface(at_cells, added, weights, n) for n in (free, 1))
    change = np.ptp(terms @ at_cells.T, axis=1).max()
    left, whole = (_variance(added - at_cells @ t.T, n) for t, n in ((terms, free), (level, 1)))
    if change < NOTABLE or left > (1 - EXPLAINED) * whole:
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


def _grids(shape: tuple[int, int], stars: int) -> Iterator[list[Window]]:
    """The picture in cells, finer grids first, of those whose cells hold ENOUGH_STARS each."""
    counts = (tuple(min(size // CELL_PX, side) for size in shape) for side in range(FINEST, COARSEST - 1, -1))
    for down, across in dict.fromkeys(counts):
        if down * across >= LEAST_CELLS and stars >= ENOUGH_STARS * down * across:
            yield list(product(_parts(shape[0], down), _parts(shape[1], across)))


def _parts(length: int, count: int) -> list[slice]:
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
