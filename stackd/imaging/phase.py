"""Frames without stars to go by (the Moon, planets) laid on each other by what they show.

Takes two sky-subtracted images, gives the matrix between them or None. Coarse by cross-correlation of
their outlines with room for shifts of half the frame, fine by maximising the enhanced correlation
coefficient (Evangelidis and Psarakis 2008). Must not know about stars.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stackd.imaging.level import tilt_between

COARSE_PX = 512  # longest edge of the images that are correlated
FINE_PX = 1024
OUTLINE_SIGMA_PX = 1.5
EXTENDED_SIGMA_PX = 3.0
EXTENDED_SHARE = 0.6
LEAST_CORRELATION = 0.6  # of the overlapping light, after smoothing
LEAST_PEAK_SIGMA = 8.0
LEAST_TURN_GAIN = 0.002  # in correlation, for a rotation to be believed
LEAST_TURN_SHARE = 0.75  # or so much at most of what was left unexplained without it
LEAST_FLIP_GAIN = 0.02  # the same for half a turn: a disc without marks looks alike either way
LEAST_FLIP_OVERLAP = 0.3  # of the reference: a small part of a round nebula looks alike however it is turned
TURNS_DEG = (-6.0, 6.0)  # from which a climb finds what lies between and some degrees beyond
FURTHEST_TURN_RAD = np.deg2rad(10.0)


def align_by_phase(image: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """(2, 3) matrix from image px to reference px; both (H, W). None where the two show nothing in common."""
    moving, fixed = _prepare(image), _prepare(reference)
    if not (_is_extended(moving) and _is_extended(fixed)):
        return None
    straight, flipped = _straight(moving, fixed), _flipped(moving, fixed)
    best = straight or flipped
    if straight and flipped and flipped[1] > straight[1] + LEAST_FLIP_GAIN:
        best = flipped
    return None if best is None or best[1] < LEAST_CORRELATION else best[0]


def _straight(moving: NDArray[np.float32], fixed: NDArray[np.float32]) -> tuple[NDArray[np.float64], float] | None:
    """The best matrix that turns a frame little or not at all, and its correlation.

    A round nebula's outline may agree best far from where the frame lies, which is mostly near the other.
    """
    coarse = _coarse(moving, fixed, False)
    if coarse is None:
        return None
    straight = _best(moving, fixed, coarse, np.eye(2, 3))
    turned = _best(moving, fixed, *_turned_a_little(moving.shape))
    return turned if turned and (straight is None or _pays(turned[1], straight[1])) else straight


def _flipped(moving: NDArray[np.float32], fixed: NDArray[np.float32]) -> tuple[NDArray[np.float64], float] | None:
    """The same of half a turn, as after a meridian flip."""
    coarse = _coarse(moving, fixed, True)
    flipped = None if coarse is None else _fine(moving, fixed, coarse)
    return flipped if flipped and _overlap(flipped[0], moving.shape, fixed.shape) >= LEAST_FLIP_OVERLAP else None


def _turned_a_little(shape: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Guesses that turn a frame about its middle: over more than some degrees no climb finds the way."""
    middle = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    return [cv2.getRotationMatrix2D(middle, degrees, 1.0) for degrees in TURNS_DEG]


def _overlap(matrix: NDArray[np.float64], shape: tuple[int, ...], onto: tuple[int, ...]) -> float:
    """Share of the reference that a frame laid on it covers."""
    return float(cv2.warpAffine(np.ones(shape, np.uint8), matrix, onto[::-1], flags=cv2.INTER_NEAREST).mean())


def _best(
    moving: NDArray[np.float32], fixed: NDArray[np.float32], *guesses: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float] | None:
    """The matrix of the highest correlation, and that, from any of the guesses; None where none leads anywhere."""
    found = [_fine(moving, fixed, guess) for guess in guesses]
    return max((one for one in found if one is not None), key=lambda one: one[1], default=None)


def _prepare(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unseen pixels, the sky's own noise and its tilt become nothing; the range is brought to about 0..1.

    Where there is little else, the tilt of two skies agrees well, and as well upside down.
    """
    tilt = tilt_between(image, np.zeros_like(image))
    filled = np.nan_to_num(np.asarray(image - (tilt - tilt.mean()), np.float32))
    smooth = cv2.GaussianBlur(filled, (0, 0), 1.0)
    top = float(np.percentile(smooth, 99.9))
    return np.clip(smooth / top, -0.2, 1.5).astype(np.float32) if top > 0 else np.zeros_like(smooth)


def _is_extended(image: NDArray[np.float32]) -> bool:
    """Whether most of what it shows survives a blur: points and noise do not, and two lone stars always match."""
    kept = cv2.GaussianBlur(image, (0, 0), EXTENDED_SIGMA_PX)
    power = float(np.sum(image * image, dtype=np.float64))
    return power > 0 and float(np.sum(kept * kept, dtype=np.float64)) > EXTENDED_SHARE * power


def _coarse(moving: NDArray[np.float32], fixed: NDArray[np.float32], turned: bool) -> NDArray[np.float64] | None:
    """The shift at which the outlines agree best, for a frame as it is or turned by 180 degrees."""
    shrink = min(1.0, COARSE_PX / max(*moving.shape, *fixed.shape))
    a, b = (_outline(_shrink(im, shrink)) for im in (moving[::-1, ::-1] if turned else moving, fixed))
    size = [fft.next_fast_len(m + n, real=True) for m, n in zip(a.shape, b.shape, strict=True)]
    correlation = fft.irfft2(np.conj(fft.rfft2(a, size)) * fft.rfft2(b, size), size)
    peak = float(correlation.max())
    if peak <= LEAST_PEAK_SIGMA * float(correlation.std()):
        return None
    row, column = np.unravel_index(int(correlation.argmax()), correlation.shape)
    dy, dx = (k - n if k > n // 2 else k for k, n in ((row, size[0]), (column, size[1])))
    shift = np.array([dx, dy]) / shrink
    if turned:
        corner = np.array([moving.shape[1] - 1, moving.shape[0] - 1])
        return np.column_stack([-np.eye(2), corner + shift])
    return np.column_stack([np.eye(2), shift])


def _shrink(image: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    if factor == 1.0:
        return np.ascontiguousarray(image)
    return cv2.resize(np.ascontiguousarray(image), None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def _outline(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Steepness of the picture: a disc becomes a thin ring, whose correlation peaks sharply."""
    smooth = cv2.GaussianBlur(image, (0, 0), OUTLINE_SIGMA_PX)
    steep = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    return steep - float(steep.mean())


def _fine(
    moving: NDArray[np.float32], fixed: NDArray[np.float32], guess: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float] | None:
    """The best matrix near a guess and the correlation that it reaches; a rotation only where it pays."""
    shrink = min(1.0, FINE_PX / max(*moving.shape, *fixed.shape))
    a, b = _shrink(moving, shrink), _shrink(fixed, shrink)
    start = _rescaled(guess, shrink)
    # the guess is applied first, so that what is left is small whichever way the frame is turned
    laid, seen = _lay(a, start, b.shape)
    shifted = _climb(laid, seen, b, cv2.MOTION_TRANSLATION, np.eye(2, 3, dtype=np.float32))
    if shifted is None:
        return None
    turned = _climb(laid, seen, b, cv2.MOTION_EUCLIDEAN, shifted[0])
    matrix, correlation = shifted
    if turned is not None and _pays(turned[1], correlation) and abs(_angle(turned[0])) < FURTHEST_TURN_RAD:
        matrix, correlation = turned
    whole = np.vstack([matrix.astype(np.float64), [0, 0, 1]]) @ np.vstack([start, [0, 0, 1]])
    return _rescaled(whole[:2], 1 / shrink), correlation


def _pays(turned: float, straight: float) -> bool:
    """Whether a turn explains so much more of the light that it is believed: faint nebulae agree well either way."""
    return turned > straight + LEAST_TURN_GAIN or 1 - turned < LEAST_TURN_SHARE * (1 - straight)


def _angle(matrix: NDArray[np.float32]) -> float:
    return float(np.arctan2(matrix[1, 0], matrix[0, 0]))


def _rescaled(matrix: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """The same transform between images whose pixels are 1 / factor as wide; pixel centres stay centres."""
    half = (factor - 1) / 2
    linear = matrix[:, :2]
    shift = factor * matrix[:, 2] + half * (np.ones(2) - linear @ np.ones(2))
    return np.column_stack([linear, shift])


def _lay(
    image: NDArray[np.float32], matrix: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    size = (shape[1], shape[0])
    seen = cv2.warpAffine(np.ones(image.shape, np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR), seen


def _climb(
    laid: NDArray[np.float32], seen: NDArray[np.uint8], fixed: NDArray[np.float32], motion: int, start: NDArray
) -> tuple[NDArray[np.float32], float] | None:
    """ECC from `start`; gives (laid px -> fixed px) and the correlation. None where it does not converge."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-6)
    first = cv2.invertAffineTransform(start).astype(np.float32)
    try:
        correlation, back = cv2.findTransformECC(fixed, laid, first, motion, criteria, seen, 5)
    except cv2.error as error:  # OpenCV's way to say that the two never agreed
        if error.code == cv2.Error.StsNoMem:
            raise
        return None
    if not np.isfinite(back).all() or not np.isfinite(correlation):
        return None
    return cv2.invertAffineTransform(back).astype(np.float32), float(correlation)
