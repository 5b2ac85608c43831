"""The restored picture held against the plain stack: seen through the stack's own blur, both must agree.

What the stack has and the re-blurred picture lacks, or the other way round, was lost or invented: it is measured, and
for bright stars given back. Takes planes on one grid and in one unit; unseen pixels are NaN in the stack.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse
from scipy.sparse.linalg import spsolve

from stackd.imaging.fuse import PAD_PX, padded, padded_shape
from stackd.imaging.psf import Psf, gaussian_otf, target_otf
from stackd.imaging.psf_field import PsfField, pieces
from stackd.imaging.quality import robust_scatter
from stackd.imaging.skies import blur, splat, splat_otf
from stackd.imaging.star_light import (
    APERTURES_PX,
    RING_APERTURES,
    Aperture,
    Excess,
    Fit,
    Lacking,
    aperture_px,
    aperture_sums,
)

Image = NDArray[np.float32]
REGULARISATION = 1e-3
NARROW_ERROR = 0.012  # of a star's light: so far what the least aperture catches differs over a real field
FIT_ERROR = 0.01  # of a star's light that a fit is taken to err by at least
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
    A fit and one or two apertures tell it, each believed by its error. The fainter a star, the more of what they tell
    is the stack's noise, and the less of it is believed: as much as makes the error of network and stack together least
    (Wiener). The network errs by a share of the band in which a star is brightest: debayering lets light leak from it
    into the others. All stars are solved for at once: what a faint one's aperture catches is for the most part its
    bright neighbour's.

    What all stars lack alike in the band with most light tells of wrongly assumed wings, not of the stars, and is left
    out of all bands. `excess` tells by which share of its light the stack has more of each star within a radius (px)
    than its mean PSF says: that is no light that the picture lacks.
    """
    if not len(x):
        return images
    lead, light = int(np.argmax(flux.sum(1))), flux.max(0)
    radii_px = sorted({aperture_px(psf), APERTURES_PX[1]})  # one alone around wide stars
    apertures = [Aperture.around(x, y, psf, radius_px, excess) for radius_px in radii_px]
    fit = Fit.of(x, y, psf, target_fwhm_px, apertures[0].excess)
    told = [
        [fit.lacking(image, difference, *band), *(aperture.lacking(difference, *band) for aperture in apertures)]
        for image, difference, *band in zip(images, stacks - seen_again, flux, noise_adu)
    ]
    common = [_in_common(way, flux[lead]) for way in told[lead]]
    to_target = target_otf(images.shape[1:], target_fwhm_px) / splat_otf(images.shape[1:])
    closed = []
    for image, mine, ways in zip(images, flux, told):
        ways = [replace(way, light=way.light - mine * alike) for way, alike in zip(ways, common)]
        given = _given(_together(ways, mine, light), light)
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
    ratio = 1 + aperture_sums(seen_again - stack, radius_px, x, y) / flux
    usable = np.isfinite(stack[np.round(y).astype(int), np.round(x).astype(int)]) & (ratio > 0)
    if usable.sum() < LEAST_STARS:
        return None
    magnitudes = -2.5 * np.log10(ratio[usable])
    return FluxCheck(float(np.median(magnitudes)), robust_scatter(magnitudes), int(usable.sum()))


def _in_common(way: Lacking, flux: NDArray[np.float64]) -> float:
    """What stars lack alike, of their light; 0 where none is bright enough to tell."""
    known = (NETWORK_FLUX_ERROR * flux > way.noise) & np.isfinite(way.light)
    return float(np.median((way.light / flux)[known])) if known.any() else 0.0


def _together(ways: Sequence[Lacking], flux: NDArray[np.float64], light: NDArray[np.float64]) -> Lacking:
    """One band's fit and apertures, each star's weighted by the inverse variance of each: noise and errors of shape."""
    errors = [_error_of_fit(*ways[:2], flux, light), *[NARROW_ERROR] * (len(ways) - 2), 0.0]
    certain = np.array([1 / (way.noise**2 + (error * light) ** 2) for way, error in zip(ways, errors)])
    certain *= [np.isfinite(way.light) for way in ways]
    shares = certain / certain.sum(0)
    # one lies in the other: their noise is much the same and does not average out
    noise = sum(share * way.noise for share, way in zip(shares, ways))
    caught = sum(sparse.diags_array(share) @ way.caught for share, way in zip(shares, ways))
    return Lacking(sum(share * np.nan_to_num(way.light) for share, way in zip(shares, ways)), noise, caught)


def _error_of_fit(fit: Lacking, aperture: Lacking, flux: NDArray[np.float64], light: NDArray[np.float64]) -> float:
    """By which share of a star's light fits err where noise does not count: as bright stars' fits scatter about their
    apertures. Infinite where too few stars tell.

    Stars of a debayered colour err by 2 to 5 %, as where a core falls on the mosaic decides how much of it is seen;
    stars that change over the field do too.
    """
    known = (NETWORK_FLUX_ERROR * flux > aperture.noise) & np.isfinite(fit.light)
    if known.sum() < LEAST_STARS:
        return np.inf
    scatter = robust_scatter(((fit.light - aperture.light) / light)[known])
    by_noise = (aperture.noise**2 - fit.noise**2) * np.median(light[known] ** -2.0)
    return float(np.sqrt(max(scatter**2 - by_noise, FIT_ERROR**2)))


def _given(lacking: Lacking, light: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each star is given, so that the error of network and stack together is least."""
    by_network = sparse.diags_array((NETWORK_FLUX_ERROR * light) ** 2)
    expected = lacking.caught @ by_network @ lacking.caught.T + sparse.diags_array(lacking.noise**2)
    given = by_network @ lacking.caught.T @ spsolve(expected.tocsc(), lacking.light)
    return np.clip(given, -LARGEST_CORRECTION * light, LARGEST_CORRECTION * light)
