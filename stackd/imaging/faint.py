"""What a restored picture claims of faint stars, held against the plain stack.

Below the stars that closure.py sets right, a network makes a little star of whatever noise adds up to one. Here the
stack is asked about each little peak anew, as if all else in the picture were right: what comes out as noise fades,
what comes out as a star gets some of what it lacks. Takes planes (bands, H, W) on one grid and in one unit; unseen
pixels are NaN in the stack.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from stackd.imaging.cells import cells_of, medians_of
from stackd.imaging.photometry import FIT_RADIUS_PX
from stackd.imaging.psf import Psf, target_otf
from stackd.imaging.quality import MAD_TO_SIGMA, robust_scatter
from stackd.imaging.skies import blur, splat, splat_otf
from stackd.imaging.star_light import fit_kernel, laid_on, noise_of

Image = NDArray[np.float32]
GROUND_PX = 9  # an opening this wide leaves nothing of a star of the target width
SMOOTHING_PX = 0.85  # sigma, of what a peak is looked for in
STAR_PX = 17
NOISE_SIGMA, STAR_SIGMA = 2.0, 4.0  # up to the one a peak passes for noise, from the other on for a star
LEFT_OF_NOISE = 0.3  # of a peak that passes for noise; without that, faint detail would go, too
BELIEVED = 0.5  # of what the stack says that a faint star lacks or has too much
LARGEST_CHANGE = 0.7  # of a faint star's light
BRIGHT_SIGMA = 20.0  # from here on closing alone tells
REACH_PX = 3  # of a little peak
EDGE_PX = 0.7  # sigma of what softens the border of a peak that fades
LINES, LINE = 8, 15  # directions, and pixels of half the picture's size
LINE_CLIP_SIGMA = 3.0
LINE_NOISE = 0.35  # of the mean along a line, at least: what fits beside each other have alike does not average out
LEAST_NOISE = 1e-12
ROUGH_CELL_PX = 32
# Sigma of stars' light under a fit, up to which it is believed, and by twice of which not at all. Star shapes are known
# to a per cent or two: light that is given could be a ring around a bright star. What fades there mostly is one.
MOST_GLARE_TO_GIVE, MOST_GLARE_TO_FADE = 50.0, 500.0
ROUGH_SIGMA = 0.25  # of a star's light: where claims scatter by more, they are a nebula's detail; by twice it, it stays


@dataclass(frozen=True, slots=True)
class Peaks:
    """The little peaks of a picture at rows, columns (peaks,): light that each band claims, light that it lacks by the
    stack (bands, peaks), how many sigma it stands out by the stack, in its best band and at all, by how many of them
    the light of stars adds up there, and how far a fit may be trusted for what else lies around (0 to 1).
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    claimed: Image
    lacking: Image
    sigma_in_band: Image
    sigma: Image
    glare: Image
    trust: Image


def settle_faint(
    images: Image, stacks: Image, seen_again: Image, noise: Image, psf: Psf, target_fwhm_px: float
) -> Image:
    """The restored bands, their faint peaks settled between network and stack.

    `seen_again` is what the bands look like through the stack's blur, `noise` the stacks' (1 sigma of a pixel), `psf`
    their stars.
    """
    star = _star(target_fwhm_px)
    above = images - np.stack([_ground(image) for image in images])
    peaks = _peaks(above, stacks - seen_again, noise, psf, float(_smoothed(star - _ground(star)).max()))
    faded = images - np.maximum(above, 0) * _fading(peaks, images.shape[1:])
    return faded + np.stack([_drawn(gifts, peaks, star, images.shape[1:]) for gifts in _gifts(peaks)])


def _peaks(above: Image, difference: Image, noise: Image, psf: Psf, height_of_star: float) -> Peaks:
    """A peak's light by the stack is what the picture claims and what a fit of the stars' profile (Stetson 1987) finds
    in the difference of both. What is a star in one band, or in all of them together, is one in every band."""
    claims = np.stack([_smoothed(band) for band in above]) / height_of_star
    together = claims.sum(0)
    rows, columns = np.nonzero((together == maximum_filter(together, 3)) & (together > 0))
    at = slice(None), rows, columns
    kernel = fit_kernel(psf)
    fits = np.stack([laid_on(band, kernel) for band in difference])
    errors = _errors(fits, difference, noise, kernel)
    standing = [(claim + fit) / error for claim, fit, error in zip(claims, fits, errors)]
    in_band = np.max([plane[rows, columns] for plane in standing], axis=0)
    error = np.sqrt((errors**2).sum(0))
    standing.append((together + fits.sum(0)) / error)
    sigma = np.max([np.maximum(plane[rows, columns], _along_lines(plane, rows, columns)) for plane in standing], axis=0)
    glare = _light_under(kernel, above, psf) / error
    trust = _evenness(together / error) * _far_from_unseen(difference)
    return Peaks(rows, columns, claims[at], fits[at], in_band, sigma, glare[rows, columns], trust[rows, columns])


def _errors(fits: Image, difference: Image, noise: Image, kernel: Image) -> Image:
    """(bands, H, W): 1 sigma of such fits, more of it where fewer frames saw the sky."""
    usual = np.maximum(np.nanmedian(noise, axis=(1, 2)), LEAST_NOISE)
    rows = zip(fits, difference, usual)
    errors = np.float32([noise_of(fit[np.isfinite(band)], kernel, level) for fit, band, level in rows])
    relative = np.nan_to_num(noise / usual[:, None, None], nan=1.0)
    return np.maximum(errors[:, None, None] * relative, np.float32(LEAST_NOISE))


def _far_from_unseen(difference: Image) -> Image:
    """(H, W): 1 where a fit has all of its pixels, 0 elsewhere: a fit to half a star says anything."""
    seen = np.isfinite(difference).all(0).astype(np.uint8)
    return cv2.erode(seen, np.ones((2 * FIT_RADIUS_PX + 1,) * 2, np.uint8)).astype(np.float32)


def _light_under(kernel: Image, above: Image, psf: Psf) -> Image:
    """(H, W): what a fit laid there has to weigh of all stars' light as the stack shows it: a share of that is wrong
    where stars are not shaped as they are told to be."""
    in_stack = blur(np.maximum(above.sum(0), 0), psf.otf(above.shape[1:]))
    return laid_on(in_stack, np.abs(kernel))


def _along_lines(standing: Image, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Image:
    """(peaks,): by how many sigma the best straight line through each place stands out of a plane of sigmas.

    A filament is that, and may be nowhere as sure as a star. On half the pixels, which a line's width leaves alone.
    """
    size = tuple((n + 1) // 2 for n in standing.shape[::-1])
    held = np.clip(standing, -LINE_CLIP_SIGMA, LINE_CLIP_SIGMA)  # or every star would draw a line
    small = cv2.resize(held, size, interpolation=cv2.INTER_AREA)
    best = np.full(len(rows), -np.inf, np.float32)
    for angle_rad in np.arange(LINES) * np.pi / LINES:
        along = cv2.filter2D(small, -1, _line(angle_rad))
        best = np.maximum(best, along[rows // 2, columns // 2] / max(robust_scatter(along), LINE_NOISE))
    return best


def _line(angle_rad: float) -> Image:
    """(LINE, LINE): a line through the middle, of unit sum."""
    steps = np.arange(LINE) - LINE // 2
    along = steps * np.cos(angle_rad) + steps[:, None] * np.sin(angle_rad)
    across = steps[:, None] * np.cos(angle_rad) - steps * np.sin(angle_rad)
    drawn = np.maximum(1 - np.abs(across), 0) * (np.abs(along) <= LINE // 2)
    return (drawn / drawn.sum()).astype(np.float32)


def _fading(peaks: Peaks, shape: tuple[int, int]) -> Image:
    """(H, W): which share of what stands above the ground goes, around each peak that the stack does not confirm."""
    doubt = np.clip((STAR_SIGMA - peaks.sigma) / (STAR_SIGMA - NOISE_SIGMA), 0, 1)
    clear = np.clip(2 - peaks.glare / MOST_GLARE_TO_FADE, 0, 1)
    going, staying = np.zeros((2, *shape), np.float32)
    going[peaks.rows, peaks.columns] = (1 - LEFT_OF_NOISE) * doubt * peaks.trust * clear
    staying[peaks.rows, peaks.columns] = doubt == 0
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * REACH_PX + 1,) * 2)
    share = cv2.dilate(going, around) * (1 - cv2.dilate(staying, around))
    return cv2.GaussianBlur(share, (0, 0), EDGE_PX)


def _gifts(peaks: Peaks) -> Image:
    """(bands, peaks): light that each faint star is given, or loses."""
    faint = (peaks.sigma > STAR_SIGMA) & (peaks.sigma_in_band < BRIGHT_SIGMA)
    clear = np.clip(2 - peaks.glare / MOST_GLARE_TO_GIVE, 0, 1)
    sure = np.clip(peaks.sigma - STAR_SIGMA, 0, 1) * faint * peaks.trust * clear
    claimed, by_stack = np.maximum(peaks.claimed, 0), np.maximum(peaks.claimed + peaks.lacking, 0)
    return BELIEVED * sure * np.clip(peaks.lacking, -LARGEST_CHANGE * claimed, LARGEST_CHANGE * by_stack)


def _drawn(light: Image, peaks: Peaks, star: Image, shape: tuple[int, int]) -> Image:
    """(H, W): a star of this light (peaks,) at each peak."""
    points = np.zeros(shape, np.float32)
    points[peaks.rows, peaks.columns] = light
    return cv2.filter2D(points, -1, star, borderType=cv2.BORDER_CONSTANT)


def _evenness(claims: Image) -> Image:
    """(H, W): 1 where the claims of a picture, in sigma, scatter as on an open sky, 0 where they are a nebula's."""
    whole = np.pad(claims, [(0, -n % ROUGH_CELL_PX) for n in claims.shape], mode="reflect")
    scatter = MAD_TO_SIGMA * medians_of(np.abs(cells_of(whole, (ROUGH_CELL_PX, ROUGH_CELL_PX))))
    rough = cv2.resize(scatter, whole.shape[::-1], interpolation=cv2.INTER_LINEAR)[: claims.shape[0], : claims.shape[1]]
    return np.clip(2 - rough / ROUGH_SIGMA, 0, 1)


def _ground(image: Image) -> Image:
    """(H, W): the picture without whatever is as small as a star."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (GROUND_PX, GROUND_PX))
    return cv2.GaussianBlur(cv2.morphologyEx(image, cv2.MORPH_OPEN, disc), (0, 0), GROUND_PX / 4)


def _smoothed(image: Image) -> Image:
    return cv2.GaussianBlur(image, (0, 0), SMOOTHING_PX)


def _star(fwhm_px: float) -> Image:
    """A restored star of unit light, in the middle of (STAR_PX, STAR_PX)."""
    shape, middle = (2 * STAR_PX, 2 * STAR_PX), np.array([float(STAR_PX)])
    drawn = blur(splat(shape, middle, middle, np.ones(1)), target_otf(shape, fwhm_px) / splat_otf(shape))
    inside = slice(STAR_PX - STAR_PX // 2, STAR_PX + STAR_PX // 2 + 1)
    return np.ascontiguousarray(drawn[inside, inside])
