"""The star shape of a frame: one profile fitted to all of its bright lonely stars, and a table of what it leaves.

Takes one sky-subtracted image (H, W) and the places of its true stars; must not know frames. Fitting all stars of a
frame with one shape, and keeping what an analytic profile leaves of them as a table, follows Stetson (1987).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift
from scipy.optimize import least_squares
from scipy.spatial import cKDTree

from stackd.imaging.psf import DEFAULT_BETA, Psf
from stackd.imaging.quality import robust_scatter

LEAST_STARS = 3
REACH_FWHM = 2.0  # pixels farther from the centre tell less of the wings than of the neighbours
FEW_STARS = 6  # fewer cannot tell the wings from the core: beta is then not fitted
USUAL_BETA, BETA_SPREAD = 3.3, 0.3  # what is known before looking, and how firmly: stars among nebula tell little more
LEAST_BETA = 2.0
FIT_RADIUS_PX = 9
NARROWEST_PX, WIDEST_PX = 1.0, 18.0
CLEAR_PEAK_SIGMA = 5.0
SHAPE_KNOWN = 0.02  # of a star's peak: without that floor the brightest would decide alone
TABLE_STARS = 8  # fewer do not tell what all have alike from what each has
TABLE_ROUNDS = 3  # on HAT-P-32's undersampled stars one is too few, and six gain nothing
TAPER_PX = 2.0  # over which the table ends
CLEAR_ERRORS = 2.0  # a table that holds what is no clearer makes the maps noisier for nothing


def fit_psf(
    image: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    noise_adu: float,
    *,
    peak_below_adu: float = np.inf,
    most_stars: int = 40,
) -> Psf | None:
    """The one shape that fits the bright lonely stars of a sky-subtracted image (H, W), each on a tilted ground: a
    Moffat profile, and from eight stars on a table of what it leaves of all of them alike.

    x, y, flux are positions (px) and fluxes of its stars, true points all: points.py tells them from knots.
    Stars whose peak reaches `peak_below_adu` (saturation) or that touch unseen pixels are passed over. None where
    fewer than three are left or the fit runs to a bound, which means that they were no stars.
    """
    stamps, offsets = _lonely_stamps(image, x, y, flux, noise_adu, peak_below_adu, most_stars)
    if len(stamps) < LEAST_STARS:
        return None
    guess_px = _half_light_guess(stamps, FIT_RADIUS_PX)
    cut = max(0, FIT_RADIUS_PX - max(5, round(REACH_FWHM * guess_px)))
    stamps = stamps[:, cut : stamps.shape[1] - cut, cut : stamps.shape[2] - cut]
    terms = _fit_shape(stamps, offsets, noise_adu, guess_px, free_beta=len(stamps) >= FEW_STARS)
    if len(terms) > 3 and terms[3] < 1.01 * LEAST_BETA:
        # no atmosphere has such wings: they are the ground's and the neighbours'
        terms = _fit_shape(stamps, offsets, noise_adu, guess_px, free_beta=False)
    psf = _shape(terms, len(stamps))
    at_bound = psf.fwhm_px > 0.98 * WIDEST_PX or psf.fwhm_px < 1.02 * NARROWEST_PX
    return None if at_bound else replace(psf, table=_left_alike(psf, stamps, offsets, noise_adu))


def _fit_shape(stamps, offsets, noise_adu: float, guess_px: float, *, free_beta: bool) -> NDArray[np.float64]:
    """Terms of the one shape (see _shape) that leaves least of all stamps; without beta where that is not free."""
    low = [NARROWEST_PX, -0.5, -0.5] + [LEAST_BETA] * free_beta
    high = [WIDEST_PX, 0.5, 0.5] + [10.0] * free_beta
    start = [guess_px, 0.01, 0.01] + [DEFAULT_BETA] * free_beta
    ground = _tilted_ground(stamps.shape[1])

    def misfit(terms: NDArray[np.float64]) -> NDArray[np.float64]:
        residuals = _residuals(_shape(terms), stamps, offsets, noise_adu, ground)
        return np.append(residuals, (terms[3:] - USUAL_BETA) / BETA_SPREAD)

    # the soft loss keeps faint neighbours from passing for wings
    return least_squares(misfit, start, bounds=(low, high), loss="soft_l1", diff_step=1e-3, max_nfev=40).x


def _shape(terms: NDArray[np.float64], stars: int = 0) -> Psf:
    """Fit terms (fwhm, e cos 2a, e sin 2a[, beta]) as a Psf; the two e terms have no seam at angle 0."""
    ellipticity = min(float(np.hypot(terms[1], terms[2])), 0.7)
    angle = 0.5 * float(np.arctan2(terms[2], terms[1]))
    beta = float(terms[3]) if len(terms) > 3 else DEFAULT_BETA
    return Psf(float(terms[0]), beta, ellipticity, angle, stars)


def _lonely_stamps(image, x, y, flux, noise_adu, peak_below_adu, most_stars):
    """Cut-outs (n, size, size) of stars without a bright neighbour, and their sub-pixel offsets (n, 2)."""
    radius_px = FIT_RADIUS_PX
    tree = cKDTree(np.stack([x, y], 1)) if len(x) else None
    stamps, offsets = [], []
    for i in np.argsort(-flux):
        if len(stamps) == most_stars:
            break
        column, row = round(x[i]), round(y[i])
        rivals = [j for j in tree.query_ball_point((x[i], y[i]), 1.4 * radius_px) if j != i]
        if flux[rivals].sum() > 0.03 * flux[i]:
            continue
        if not (radius_px <= row < image.shape[0] - radius_px and radius_px <= column < image.shape[1] - radius_px):
            continue
        stamp = image[row - radius_px : row + radius_px + 1, column - radius_px : column + radius_px + 1]
        middle = stamp[radius_px - 2 : radius_px + 3, radius_px - 2 : radius_px + 3]
        if np.isfinite(stamp).all() and CLEAR_PEAK_SIGMA * noise_adu < middle.max() < peak_below_adu:
            stamps.append(stamp.astype(np.float64))
            offsets.append((x[i] - column, y[i] - row))
    return np.array(stamps), np.array(offsets)


def _half_light_guess(stamps, radius_px: int) -> float:
    """FWHM (px) from the area above half of the peak of the mean star."""
    mean = np.mean([s / s.max() for s in stamps], axis=0)
    return float(np.clip(2 * np.sqrt((mean > 0.5).sum() / np.pi), 1.2, 1.8 * radius_px))


def _tilted_ground(size: int) -> NDArray[np.float64]:
    """An orthonormal basis (size * size, 3) of level and tilt over a stamp."""
    steps = np.linspace(-1, 1, size)
    x, y = np.meshgrid(steps, steps)
    return np.linalg.qr(np.stack([np.ones(size * size), x.ravel(), y.ravel()], 1))[0]


def _residuals(psf: Psf, stamps, offsets, noise_adu: float, ground: NDArray[np.float64]) -> NDArray[np.float64]:
    """(stamp - best flux and ground of the model) in sigma, all stars."""
    model = psf.at(offsets[:, 0], offsets[:, 1], stamps.shape[1] // 2)
    residual, flux = _beside(model, stamps, ground)
    floor = SHAPE_KNOWN * np.maximum(flux, 0) * model.max((1, 2))
    return (residual / np.hypot(noise_adu, floor)[:, None, None]).ravel()


def _beside(model, stamps, ground: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What stars of unit light (n, size, size), at their best fluxes (n,) on their best grounds, leave of the stamps;
    solved in closed form."""
    data, shape = (part.reshape(len(part), -1) for part in (stamps, model))
    data, shape = (part - (part @ ground) @ ground.T for part in (data, shape))
    flux = (shape * data).sum(1) / (shape**2).sum(1)
    return (data - flux[:, None] * shape).reshape(stamps.shape), flux


def _left_alike(psf: Psf, stamps, offsets, noise_adu: float) -> NDArray[np.float64] | None:
    """What the profile leaves of all stars alike, centred, per unit of their light; None where they are too few.

    Stars stand anywhere within their pixels: each one's residual is brought to the middle by a cubic spline, and the
    table so far to each star's place (Stetson 1987). What is no clearer than twice its own error is left out.
    """
    if len(stamps) < TABLE_STARS:
        return None
    profile = psf.at(offsets[:, 0], offsets[:, 1], stamps.shape[1] // 2)
    ground = _tilted_ground(stamps.shape[1])
    steps = np.arange(stamps.shape[1]) - stamps.shape[1] // 2
    from_edge_px = stamps.shape[1] / 2 - np.hypot(steps[:, None], steps)
    window = np.clip(from_edge_px / TAPER_PX, 0, 1)
    table = np.zeros(stamps.shape[1:])
    for _ in range(TABLE_ROUNDS):
        star = profile + [shift(table, (dy, dx)) for dx, dy in offsets]
        residual, flux = _beside(star, stamps, ground)
        flux = np.maximum(flux, noise_adu)  # less is no star's, and would count for more the less it is
        centred = np.array([shift(r, (-dy, -dx), mode="nearest") for r, (dx, dy) in zip(residual, offsets)])
        more, error = _clipped_mean(
            centred / flux[:, None, None], np.hypot(noise_adu / flux, SHAPE_KNOWN * profile.max()) ** -2.0
        )
        table += window * more
    signal, doubt = (gaussian_filter(plane**2, 1.0) for plane in (table, CLEAR_ERRORS * error))
    return table * np.maximum(1 - doubt / np.maximum(signal, 1e-30), 0)


def _clipped_mean(values, weights) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted mean over (n, size, size) without what lies 3 sigma off the median, and its error."""
    spread = robust_scatter(values, axis=0)
    kept = weights[:, None, None] * (np.abs(values - np.median(values, axis=0)) <= 3 * spread)
    return (kept * values).sum(0) / kept.sum(0), spread * np.sqrt((kept**2).sum(0)) / kept.sum(0)
