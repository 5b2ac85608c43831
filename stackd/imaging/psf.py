"""Point-spread functions: an elliptical Moffat profile, what a table adds to it, and its transfer function.

Lengths in pixels. Profiles are integrated over pixels, as a camera does. The Moffat profile follows Moffat (1969); a
table of what stars show beside the profile follows PSF photometry since Stetson (1987). Knows nothing of how either
was measured (psf_fit.py).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FWHM_PER_SIGMA = 2.354820045
STAMP_RADIUS_PX = 32  # beyond it a Moffat's wings hold under 1 % of the light
SUBSAMPLES = 5  # per pixel and axis, where a profile is integrated over pixels
DEFAULT_BETA = 3.0  # of long exposures through the atmosphere (Trujillo et al. 2001 give 2.5 to 4.8)
LIGHT_RADIUS_PX, LIGHT_RADIUS_FWHM = 9.0, 2.5


@dataclass(frozen=True, slots=True)
class Psf:
    """An elliptical Moffat star of unit flux. `ellipticity` is 1 - b/a, `angle_rad` that of the long axis from +x.

    `table` (odd size, square) is what a centred star shows beside the profile, per unit of its light: the lopsidedness
    of trails, coma and undersampling. It counts where the whole star is asked for (`stamp`, `otf`).
    """

    fwhm_px: float
    beta: float = DEFAULT_BETA
    ellipticity: float = 0.0
    angle_rad: float = 0.0
    stars: int = 0  # that it was measured on; 0: assumed
    table: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)

    def stamp(self, radius_px: int = STAMP_RADIUS_PX) -> NDArray[np.float64]:
        """The star on (2 r + 1, 2 r + 1) pixels, centred, unit sum."""
        fine = np.arange((2 * radius_px + 1) * SUBSAMPLES)
        fine = (fine - (len(fine) - 1) / 2) / SUBSAMPLES
        profile = self._profile(fine[None, :], fine[:, None])
        size = 2 * radius_px + 1
        star = profile.reshape(size, SUBSAMPLES, size, SUBSAMPLES).mean((1, 3)) / self._whole
        if self.table is not None:
            reach = len(self.table) // 2
            both = min(radius_px, reach)
            here, there = (slice(r - both, r + both + 1) for r in (radius_px, reach))
            star[here, here] += self.table[there, there]
        return star / star.sum()

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
        return values.reshape(-1, len(grid), 3, len(grid), 3).mean((2, 4)) / self._whole

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

    @property
    def _whole(self) -> float:
        """The sum of `_profile` over the plane."""
        return np.pi * self._alpha_px**2 / (self.beta - 1)

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
