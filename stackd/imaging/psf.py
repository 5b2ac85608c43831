"""Point-spread functions: an elliptical Moffat profile, its transfer function, and its fit to stars.

Lengths in pixels. Profiles are integrated over pixels, as a camera does. The Moffat profile follows
Moffat (1969); fitting all stars of a frame with one shape follows PSF photometry since Stetson (1987).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial import cKDTree

FWHM_PER_SIGMA = 2.354820045
STAMP_RADIUS_PX = 32  # beyond it a Moffat's wings hold under 1 % of the light
SUBSAMPLES = 5  # per pixel and axis, where a profile is integrated over pixels
DEFAULT_BETA = 3.0  # of long exposures through the atmosphere (Trujillo et al. 2001 give 2.5 to 4.8)
LEAST_STARS = 3
LIGHT_RADIUS_PX, LIGHT_RADIUS_FWHM = 9.0, 2.5
REACH_FWHM = 2.0  # pixels farther from the centre tell less of the wings than of the neighbours
FEW_STARS = 6  # fewer cannot tell the wings from the core: beta is then not fitted
USUAL_BETA, BETA_SPREAD = 3.3, 0.3  # what is known before looking, and how firmly: stars among nebula tell little more
LEAST_BETA = 2.0
FIT_RADIUS_PX = 9
NARROWEST_PX, WIDEST_PX = 1.0, 18.0
CLEAR_PEAK_SIGMA = 5.0


@dataclass(frozen=True, slots=True)
class Psf:
    """An elliptical Moffat star of unit flux. `ellipticity` is 1 - b/a, `angle_rad` that of the long axis from +x."""

    fwhm_px: float
    beta: float = DEFAULT_BETA
    ellipticity: float = 0.0
    angle_rad: float = 0.0
    stars: int = 0  # that it was measured on; 0: assumed

    def stamp(self, radius_px: int = STAMP_RADIUS_PX) -> NDArray[np.float64]:
        """The star on (2 r + 1, 2 r + 1) pixels, centred, unit sum."""
        fine = np.arange((2 * radius_px + 1) * SUBSAMPLES)
        fine = (fine - (len(fine) - 1) / 2) / SUBSAMPLES
        profile = self._profile(fine[None, :], fine[:, None])
        size = 2 * radius_px + 1
        binned = profile.reshape(size, SUBSAMPLES, size, SUBSAMPLES).sum((1, 3))
        return binned / binned.sum()

    def otf(self, shape: tuple[int, int]) -> NDArray[np.complex128]:
        """Transfer function for rfft2 of images of this shape: (H, W // 2 + 1), 1 at zero frequency."""
        return transfer(self.stamp(min(STAMP_RADIUS_PX, (min(shape) - 1) // 2)), shape)

    def at(self, dx: NDArray[np.float64], dy: NDArray[np.float64], radius_px: int) -> NDArray[np.float64]:
        """Stars of unit total flux, wings to infinity counted, whose centres lie dx, dy (n,) px off the middle of
        (n, 2 r + 1, 2 r + 1) stamps."""
        sub = (np.arange(3) - 1) / 3
        grid = np.arange(-radius_px, radius_px + 1)
        fine = (grid[:, None] + sub).ravel()
        values = self._profile(fine[None, None, :] - dx[:, None, None], fine[None, :, None] - dy[:, None, None])
        whole = np.pi * self._alpha_px**2 / (self.beta - 1)
        return values.reshape(-1, len(grid), 3, len(grid), 3).mean((2, 4)) / whole

    def share_within(self, radius_px: float) -> float:
        """Share of a star's light that falls within this distance of its centre."""
        return 1 - (1 + (radius_px / self._alpha_px) ** 2) ** (1 - self.beta)

    @property
    def light_radius_px(self) -> float:
        """Within it a star's light is called its flux: farther out only the fitted wings' word could be taken."""
        return max(LIGHT_RADIUS_PX, LIGHT_RADIUS_FWHM * self.fwhm_px)

    @property
    def _alpha_px(self) -> float:
        """Moffat's core radius."""
        return self.fwhm_px / (2 * np.sqrt(2 ** (1 / self.beta) - 1))

    def _profile(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Unnormalised Moffat value at offsets x, y (px)."""
        c, s = np.cos(self.angle_rad), np.sin(self.angle_rad)
        squeeze = np.sqrt(1 - self.ellipticity)
        along, across = (c * x + s * y) * squeeze, (c * y - s * x) / squeeze
        return (1 + (along**2 + across**2) / self._alpha_px**2) ** -self.beta


def transfer(stamp: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.complex128]:
    """rfft2 of a centred odd-sized stamp laid on an image of this shape with its centre at pixel (0, 0)."""
    plane = np.zeros(shape)
    height, width = stamp.shape
    plane[:height, :width] = stamp
    return np.fft.rfft2(np.roll(plane, (-(height // 2), -(width // 2)), (0, 1)))


def frequencies(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spatial frequencies (ky (H, 1), kx (1, W // 2 + 1)) of rfft2, in cycles per pixel."""
    return np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]


def gaussian_otf(shape: tuple[int, int], fwhm_px: float) -> NDArray[np.float64]:
    """Transfer function of a Gaussian of this width, not integrated over pixels."""
    ky, kx = frequencies(shape)
    sigma_px = fwhm_px / FWHM_PER_SIGMA
    return np.exp(-2 * np.pi**2 * sigma_px**2 * (ky**2 + kx**2))


def target_otf(shape: tuple[int, int], fwhm_px: float) -> NDArray[np.float64]:
    """What a restored star looks like: a round Gaussian of this width, integrated over pixels."""
    ky, kx = frequencies(shape)
    return gaussian_otf(shape, fwhm_px) * np.sinc(ky) * np.sinc(kx)


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
    """The one Moffat shape that fits the bright lonely stars of a sky-subtracted image (H, W), each on a tilted ground.

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
    return None if at_bound else psf


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
    """(stamp - best flux and ground of the model) in sigma, all stars; flux and ground are solved in closed form."""
    model = psf.at(offsets[:, 0], offsets[:, 1], stamps.shape[1] // 2).reshape(len(stamps), -1)
    data = stamps.reshape(len(stamps), -1)
    data, shape = (part - (part @ ground) @ ground.T for part in (data, model))
    scale = (shape * data).sum(1) / (shape**2).sum(1)
    residual = data - scale[:, None] * shape
    # a bright star's shape is known only to about 2 % of its peak: without that floor one star would decide
    floor = 0.02 * np.maximum(scale, 0) * model.max(1)
    return (residual / np.hypot(noise_adu, floor)[:, None]).ravel()
