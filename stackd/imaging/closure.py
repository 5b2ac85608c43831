"""The restored picture held against the plain stack: seen through the stack's own blur, both must agree.

What the stack has and the re-blurred picture lacks, or the other way round, was lost or invented: it is measured, and
for bright stars given back. Takes planes on one grid and in one unit; unseen pixels are NaN in the stack.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse
from scipy.ndimage import map_coordinates
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from stackd.imaging.fuse import PAD_PX, padded, padded_shape
from stackd.imaging.photometry import star_fluxes
from stackd.imaging.psf import Psf, gaussian_otf, target_otf
from stackd.imaging.psf_field import PsfField, pieces
from stackd.imaging.quality import measure_sky, robust_scatter
from stackd.imaging.skies import blur, splat, splat_otf

Image = NDArray[np.float32]
Excess = Callable[[float], NDArray[np.float64] | float]
REGULARISATION = 1e-3
# Radius of an aperture in star widths: most of the light, and little of the neighbours'. Of wide stars they would get
# too much: on crowded simulated skies at 4 px, 7 px made fluxes worse than 5.
APERTURE_WIDTHS = 1.75
APERTURES_PX = (3.0, 5.0)  # the least and the largest radius
RING_APERTURES = (1.6, 2.2)  # the ring that tells the sky, in such radii
SHAPE_ERROR = 0.012  # of a star's light: so far what the least aperture catches differs over a real field
NEIGHBOURHOOD_PX = 24  # beyond it a star's light is in no other's aperture and ring
LEAST_STARS = 5
CLOSING_SNR = 20.0  # below it an aperture of the plain stack knows nothing that the network does not
NETWORK_FLUX_ERROR = 0.05  # of a bright star's light: how well the network knows it by itself
LARGEST_CORRECTION = 0.7  # of a star's light: what seems to lack more was misread (a bleeding column, an edge)
CHECKING_SNR = 100.0  # below it an aperture's noise would pass for a change
DARKNESS_REACH_PX = 32  # no light is darker than the darkest sky so far around
DARKNESS_SMOOTHING_PX = 2.0  # so that noise does not decide what is darkest


@dataclass(frozen=True, slots=True)
class FluxCheck:
    """Star fluxes after against before, in magnitudes: median change, robust scatter, number of stars."""

    change_mag: float
    scatter_mag: float
    stars: int


def stack_blur(
    shape: tuple[int, int], psfs: tuple[Psf, ...], weights: NDArray[np.float64], target_fwhm_px: float
) -> NDArray[np.complex64]:
    """What `reblurred` does to a picture (H, W) of this shape: from the target star width to the frames' mean PSF."""
    padded_px = padded_shape(shape)
    otf = sum(w * p.otf(padded_px) for w, p in zip(weights / weights.sum(), psfs))
    target = target_otf(padded_px, target_fwhm_px)
    return (otf * target * (1 + REGULARISATION) / (target**2 + REGULARISATION)).astype(np.complex64)


def reblurred(image: Image, kernel: NDArray[np.complex64]) -> Image:
    """The restored picture as the plain stack would show it; `kernel` is the `stack_blur` of its shape."""
    shape = padded_shape(image.shape)
    out = fft.irfft2(fft.rfft2(padded(np.nan_to_num(image), shape)) * kernel, shape)
    return out[PAD_PX : PAD_PX + image.shape[0], PAD_PX : PAD_PX + image.shape[1]].astype(np.float32)


def stack_view(
    shape: tuple[int, int],
    psfs: tuple[Psf, ...],
    weights: NDArray[np.float64],
    target_fwhm_px: float,
    field: PsfField | None,
) -> Callable[[Image], Image]:
    """What shows restored bands (bands, H, W) of this shape as the plain stacks would, of frames with these PSFs and
    `weights`; a `field` tells how the PSFs change over the picture."""
    if field is None:
        kernel = stack_blur(shape, psfs, weights, target_fwhm_px)
        return lambda bands: np.stack([reblurred(band, kernel) for band in bands])

    def piece_by_piece(bands: Image) -> Image:
        seen = np.zeros_like(bands)
        for piece in pieces(shape, psfs, field):
            part = bands[:, *piece.window]
            kernel = stack_blur(part.shape[1:], piece.psfs, weights, target_fwhm_px)
            seen[:, *piece.window] += piece.share * np.stack([reblurred(band, kernel) for band in part])
        return seen

    return piece_by_piece


def mean_psf(psfs: tuple[Psf, ...], weights: NDArray[np.float64]) -> Psf:
    """The round Moffat nearest to the plain stack's stars."""
    return Psf(*(float(np.average(values, weights=weights)) for values in zip(*((p.fwhm_px, p.beta) for p in psfs))))


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


def close_fluxes(
    images: Image,
    stacks: Image,
    seen_again: Image,
    psf: Psf,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    noise_adu: Sequence[float],
    target_fwhm_px: float,
    excess: Excess = lambda radius_px: 0.0,
) -> Image:
    """The restored bands (bands, H, W) with the light of stars at x, y (px) and of `flux` (bands, stars) brought to the
    plain stacks'.

    What each star's place lacks or has too much of is added as a star of the target width, and changes no other place.
    It is measured in apertures, because errors of the PSF weigh more than noise in bright stars; the fainter a star,
    the more its aperture's noise, and the less of it is believed: as much as makes the error of network and stack
    together least (Wiener). The network errs by a share of the band in which a star is brightest: debayering lets
    light leak from it into the others. All stars are solved for at once: what a faint one's aperture catches is for the
    most part its bright neighbour's.

    What all stars lack alike in the band with most light tells of wrongly assumed wings, not of the stars, and is left
    out of all bands. `excess` tells by which share of its light the stack has more of each star within a radius (px)
    than its mean PSF says: that is no light that the picture lacks.
    """
    if not len(x):
        return images
    differences, lead, light = stacks - seen_again, int(np.argmax(flux.sum(1))), flux.max(0)
    radii_px = sorted({aperture_px(psf), APERTURES_PX[1]})  # one alone around wide stars
    apertures = [_Aperture.around(x, y, psf, radius_px, excess) for radius_px in radii_px]
    measured = [[a.lacking(*band) for a in apertures] for band in zip(differences, flux, noise_adu)]
    common = [_in_common(lacking, noise, flux[lead]) for lacking, noise in measured[lead]]
    by_network = sparse.diags_array((NETWORK_FLUX_ERROR * light) ** 2)
    to_target = target_otf(images.shape[1:], target_fwhm_px) / splat_otf(images.shape[1:])
    closed = []
    for image, mine, found in zip(images, flux, measured):
        of_stars = [(lacking - mine * all_alike, noise) for (lacking, noise), all_alike in zip(found, common)]
        (near, near_noise), (wide, wide_noise) = of_stars[0], of_stars[-1]
        near_variance = near_noise**2 + (SHAPE_ERROR * light) ** 2
        share = near_variance / (near_variance + wide_noise**2)
        lacking = near + share * (wide - near)
        # one aperture lies in the other: their noise is much the same and does not average out
        by_stack = near_noise + share * (wide_noise - near_noise)
        caught = apertures[0].caught + sparse.diags_array(share) @ (apertures[-1].caught - apertures[0].caught)
        expected = caught @ by_network @ caught.T + sparse.diags_array(by_stack**2)
        given = by_network @ caught.T @ spsolve(expected.tocsc(), np.nan_to_num(lacking))
        given = np.clip(given, -LARGEST_CORRECTION * light, LARGEST_CORRECTION * light)
        closed.append(image + blur(splat(image.shape, x, y, given), to_target))
    return np.stack(closed)


def darkest_around(stack: Image) -> Image:
    """(H, W): the darkest sky around each pixel of a plain stack; -inf where nothing was seen.

    A scene is light on a sky, and the stack is that scene blurred, so nothing in it is darker than the darkest sky of
    a neighbourhood far wider than the blur.
    """
    seen = np.isfinite(stack)
    if not seen.any():
        return np.full(stack.shape, -np.inf, np.float32)
    filled = np.where(seen, stack, np.median(stack[seen])).astype(np.float32)
    level = np.where(seen, cv2.GaussianBlur(filled, (0, 0), DARKNESS_SMOOTHING_PX), np.float32(np.inf))
    darkest = cv2.erode(level, np.ones((2 * DARKNESS_REACH_PX + 1,) * 2, np.uint8))
    return np.where(seen, darkest, -np.inf).astype(np.float32)


def widened(image: Image, from_fwhm_px: float, to_fwhm_px: float) -> Image:
    """A picture of stars of one width at a larger one: smoother and quieter."""
    extra_px = np.sqrt(to_fwhm_px**2 - from_fwhm_px**2)
    shape = padded_shape(image.shape)
    out = blur(padded(np.nan_to_num(image), shape), gaussian_otf(shape, float(extra_px)))
    return out[PAD_PX : PAD_PX + image.shape[0], PAD_PX : PAD_PX + image.shape[1]]


def check_fluxes(
    stack: Image, seen_again: Image, psf: Psf, x: NDArray[np.float64], y: NDArray[np.float64], flux: NDArray[np.float64]
) -> FluxCheck | None:
    """How the light around stars at x, y (px) with these fluxes differs between the plain stack and the picture
    re-blurred to it; None with too few stars."""
    height, width = stack.shape
    radius_px = aperture_px(psf)
    reach = RING_APERTURES[1] * radius_px + 1
    inside = (x > reach) & (y > reach) & (x < width - 1 - reach) & (y < height - 1 - reach)
    x, y, flux = x[inside], y[inside], flux[inside]
    ratio = 1 + _at(_sums(np.nan_to_num(seen_again - stack), radius_px), x, y) / flux
    usable = np.isfinite(stack[np.round(y).astype(int), np.round(x).astype(int)]) & (ratio > 0)
    if usable.sum() < LEAST_STARS:
        return None
    magnitudes = -2.5 * np.log10(ratio[usable])
    return FluxCheck(float(np.median(magnitudes)), robust_scatter(magnitudes), int(usable.sum()))


@dataclass(frozen=True, slots=True)
class _Aperture:
    """One aperture laid around each of many stars. `share` of a star's light is in its own; `caught` (stars, stars) is
    what is in it of each star's, over `share`; `excess` as close_fluxes has it."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    radius_px: float
    share: float
    caught: sparse.csr_array
    excess: NDArray[np.float64] | float

    @classmethod
    def around(cls, x, y, psf: Psf, radius_px: float, excess: Excess) -> "_Aperture":
        """Of this radius, around stars of this shape at x, y (px)."""
        share = psf.share_within(radius_px)
        return cls(x, y, radius_px, share, _caught(radius_px, psf, x, y) / share, excess(radius_px))

    def lacking(
        self, difference: Image, flux: NDArray[np.float64], noise_adu: float
    ) -> tuple[NDArray[np.float64], float]:
        """(light that each star lacks by this aperture, its noise) of one band's stack less picture."""
        sums = _sums(np.nan_to_num(difference), self.radius_px)
        noise = _noise_of(sums[np.isfinite(difference)], self.radius_px, noise_adu) / self.share
        return _at(sums, self.x, self.y) / self.share - flux * self.excess, noise


def _in_common(lacking: NDArray[np.float64], noise: float, flux: NDArray[np.float64]) -> float:
    """What stars lack alike, of their light; 0 where none is bright enough to tell."""
    known = NETWORK_FLUX_ERROR * flux > noise
    return float(np.nan_to_num(np.nanmedian((lacking / flux)[known]))) if known.any() else 0.0


def _caught(radius_px: float, psf: Psf, x, y) -> sparse.csr_array:
    """(stars, stars): the share of each star's light that the sums over each star's aperture catch."""
    around = np.zeros((2 * NEIGHBOURHOOD_PX, 2 * NEIGHBOURHOOD_PX), np.float32)
    around[NEIGHBOURHOOD_PX, NEIGHBOURHOOD_PX] = 1
    response = _sums(blur(around, psf.otf(around.shape)), radius_px)
    places = np.stack([x, y], 1)
    tree = cKDTree(places)
    near = tree.sparse_distance_matrix(tree, NEIGHBOURHOOD_PX - 2, output_type="ndarray")
    i, j = near["i"], near["j"]
    offset = (places[j] - np.round(places[i])).T[::-1] + NEIGHBOURHOOD_PX
    return sparse.csr_array((map_coordinates(response, offset, order=1), (i, j)), shape=(len(x), len(x)))


def _noise_of(sums: Image, radius_px: float, noise_adu: float) -> float:
    """1 sigma of such sums over empty sky: as it is seen there, and no less than of pixels that err each for itself.
    Those of a debayered frame do not: a colour's light was measured in one pixel of four or two."""
    return max(noise_adu * float(np.linalg.norm(_aperture(radius_px))), measure_sky(sums).noise_adu)


def _sums(image: Image, radius_px: float) -> Image:
    """Light (H, W) within this radius of each pixel, the ring around it taken off."""
    return cv2.filter2D(image.astype(np.float32, copy=False), -1, _aperture(radius_px))


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
