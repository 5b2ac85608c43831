"""How much light a restored picture lacks of each star that the plain stack shows, told in two ways.

An aperture sums what the stack has more than the picture seen through its blur: it asks for no star shape, and catches
the sky's noise. A fit of the stars' profile (Stetson 1987) has about half that noise, and errs where stars are not as
they were told to be. Takes planes (H, W) on one grid and in one unit, NaN where nothing was seen. closure.py decides
what to believe of either.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.ndimage import map_coordinates
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from stackd.imaging.photometry import FIT_RADIUS_PX, star_fluxes
from stackd.imaging.psf import Psf, target_otf
from stackd.imaging.quality import measure_sky
from stackd.imaging.skies import blur

Image = NDArray[np.float32]
Excess = Callable[[float], NDArray[np.float64] | float]
# Radius of an aperture in star widths: most of the light, and little of the neighbours'. Of wide stars they would get
# too much: on crowded simulated skies at 4 px, 7 px made fluxes worse than 5.
APERTURE_WIDTHS = 1.75
APERTURES_PX = (3.0, 5.0)  # the least and the largest radius
RING_APERTURES = (1.6, 2.2)  # the ring that tells the sky, in such radii
RESTORED_APERTURE_PX = 3.5  # for stars of the target width, whatever shape the network gave them
NEIGHBOURHOOD_PX = 24  # beyond it a star's light is in no other's aperture and ring
LARGEST_EXCESS = 0.01  # of a star's light in an aperture: beyond it other frames saw the star than the rest


@dataclass(frozen=True, slots=True)
class Lacking:
    """Light (stars,) that is lacking, NaN where a way cannot tell; its noise; and how much of it is each star's own
    and each other's: `caught` (stars, stars)."""

    light: NDArray[np.float64]
    noise: float
    caught: sparse.sparray


def stars_in_stack(
    stack: Image, noise_adu: float, psf: Psf, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(flux, signal-to-noise ratio) of stars at x, y (px) in the plain stack."""
    flux = np.nan_to_num(star_fluxes(stack, psf, x, y))
    # the noise of a matched filter over a star of this width
    return flux, flux / (1.5 * psf.fwhm_px * noise_adu)


def aperture_px(psf: Psf) -> float:
    """Radius of the aperture that stars of this shape are measured in: narrow stars stand close."""
    return float(np.clip(APERTURE_WIDTHS * psf.fwhm_px, *APERTURES_PX))


def aperture_sums(
    image: Image, radius_px: float, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Light within this radius (px) of each place, the ring around it taken off."""
    return _at(laid_on(image, _aperture(radius_px)), x, y)


def fit_kernel(psf: Psf) -> Image:
    """What gives, laid on a place, the light of a star of this shape that fits best there: least squares of it and of a
    level."""
    star = psf.at(np.zeros(1), np.zeros(1), FIT_RADIUS_PX)[0]
    star -= star.mean()  # for the level
    return (star / (star**2).sum()).astype(np.float32)


def laid_on(image: Image, kernel: Image) -> Image:
    """The sum (H, W) under the kernel, laid on each pixel; what is unknown counts as 0."""
    return cv2.filter2D(np.nan_to_num(image).astype(np.float32, copy=False), -1, kernel)


def noise_of(sums: NDArray[np.float32], kernel: Image, noise_adu: float) -> float:
    """1 sigma of such sums over empty sky: as it is seen there, and no less than of pixels that err each for itself.
    Those of a debayered frame do not: a colour's light was measured in one pixel of four or two."""
    return max(noise_adu * float(np.linalg.norm(kernel)), measure_sky(sums).noise_adu)


@dataclass(frozen=True, slots=True)
class Aperture:
    """One aperture laid around each of many stars. `share` of a star's light is in its own; `caught` (stars, stars) is
    what is in it of each star's, over `share`; `excess` by how much more of its light is in it than the PSF says."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    kernel: Image
    share: float
    caught: sparse.csr_array
    excess: NDArray[np.float64]

    @classmethod
    def around(cls, x, y, psf: Psf, radius_px: float, excess: Excess) -> "Aperture":
        """Of this radius, around stars of this shape at x, y (px)."""
        kernel, share = _aperture(radius_px), psf.share_within(radius_px)
        caught = _caught(kernel, psf.otf(_AROUND), np.rint(x), np.rint(y), x, y) / share
        return cls(x, y, kernel, share, caught, np.broadcast_to(excess(radius_px), x.shape))

    def lacking(self, difference: Image, flux: NDArray[np.float64], noise_adu: float) -> Lacking:
        """By one band's stack less the picture as the stack would show it."""
        sums = laid_on(difference, self.kernel)
        noise = noise_of(sums[np.isfinite(difference)], self.kernel, noise_adu) / self.share
        return Lacking(_at(sums, self.x, self.y) / self.share - flux * self.excess, noise, self.caught)


@dataclass(frozen=True, slots=True)
class Fit:
    """A profile fitted to each of many stars of the stack, all at once, and their light in the picture summed up.

    Not the difference of both is fitted: the network gives each star a width of its own, which a fit to what is left
    would take for light (0.024 mag of scatter instead of 0.017 on mono sets of skybench).
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    kernel: Image  # of the fit
    fitted: sparse.csc_array  # (stars, stars): what a fit to each star finds of each one's light
    restored: sparse.csc_array  # the same of an aperture in the picture
    usual: NDArray[np.bool_]  # stars that all frames saw, so that they have the mean PSF

    @classmethod
    def of(cls, x, y, psf: Psf, target_fwhm_px: float, excess: NDArray[np.float64]) -> "Fit":
        """To stars of this shape in the stack and of the target width in the picture."""
        kernel = fit_kernel(psf)
        fitted = _caught(kernel, psf.otf(_AROUND), x, y, x, y)
        target = target_otf(_AROUND, target_fwhm_px)
        restored = _caught(_aperture(RESTORED_APERTURE_PX), target, np.rint(x), np.rint(y), x, y)
        return cls(x, y, kernel, fitted.tocsc(), restored.tocsc(), np.abs(excess) < LARGEST_EXCESS)

    def lacking(self, image: Image, difference: Image, flux: NDArray[np.float64], noise_adu: float) -> Lacking:
        """By the `flux` that was fitted to each star alone (`stars_in_stack`) in one band, less what the picture has;
        `difference`, as for apertures, tells the noise."""
        in_stack = spsolve(self.fitted, flux)
        in_picture = spsolve(self.restored, aperture_sums(image, RESTORED_APERTURE_PX, self.x, self.y))
        noise = noise_of(laid_on(difference, self.kernel)[np.isfinite(difference)], self.kernel, noise_adu)
        known = self.usual & (flux > 0)
        return Lacking(np.where(known, in_stack - in_picture, np.nan), noise, sparse.eye_array(len(flux)))


_AROUND = (2 * NEIGHBOURHOOD_PX, 2 * NEIGHBOURHOOD_PX)  # a star's surroundings


def _caught(kernel: Image, otf: NDArray[np.complex128], kernel_x, kernel_y, x, y) -> sparse.csr_array:
    """(stars, stars): which share of the light of each star at x, y (px) a kernel laid on each other catches."""
    around = np.zeros(_AROUND, np.float32)
    around[NEIGHBOURHOOD_PX, NEIGHBOURHOOD_PX] = 1
    response = laid_on(blur(around, otf), kernel)
    tree = cKDTree(np.stack([x, y], 1))
    near = tree.sparse_distance_matrix(tree, NEIGHBOURHOOD_PX - 2, output_type="ndarray")
    i, j = near["i"], near["j"]
    offset = np.stack([y[j] - kernel_y[i], x[j] - kernel_x[i]]) + NEIGHBOURHOOD_PX
    return sparse.csr_array((map_coordinates(response, offset, order=3), (i, j)), shape=(len(x), len(x)))


def _at(image: Image, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Its values in the pixels at x, y (px), or in those of its edge that are nearest."""
    rows = np.clip(np.round(y).astype(int), 0, image.shape[0] - 1)
    columns = np.clip(np.round(x).astype(int), 0, image.shape[1] - 1)
    return image[rows, columns].astype(np.float64)


def _aperture(radius_px: float) -> Image:
    """A kernel that sums a disc and takes off the mean of a ring around it."""
    inner_px, outer_px = (apertures * radius_px for apertures in RING_APERTURES)
    reach = int(outer_px)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance_px = np.hypot(x, y)
    disc, ring = distance_px <= radius_px, (distance_px >= inner_px) & (distance_px <= outer_px)
    return (disc - ring * (disc.sum() / ring.sum())).astype(np.float32)
