"""Hot and dead pixels: found from all frames of a set at once, repaired from like-coloured neighbours.

Takes raw frames on the detector's own grid, before debayering and registration, and gives masks and
repaired copies. Cosmic rays are not its business: they differ from frame to frame and are rejected in
the stack.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from stackd.imaging.quality import MAD_TO_SIGMA, rounding_noise

DETECTION_SIGMA = 7.0
# A star of 1.2 px FWHM or more lights three of its eight neighbours by more than this share of its brightest pixel, and
# by more than this noise: a single pixel's third brightest neighbour is the third highest noise of eight.
STAR_SHARE, STAR_SIGMA = 0.12, 0.9
LIKE_COLOURED_SHARE = 0.1  # a star of 2 px FWHM has more than that of its brightest pixel in six such neighbours
LIKE_COLOURED_SIGMA = 3.0
LOCAL_BOX_PX = 15
STRIP_ROWS = 256
SITES = (np.s_[0::2, 0::2], np.s_[0::2, 1::2], np.s_[1::2, 0::2], np.s_[1::2, 1::2])  # of a mosaic


def find_hot_pixels(raw_frames: Sequence[NDArray[np.float32]], bayer: bool) -> NDArray[np.bool_]:
    """Pixels that stand out in most frames and are sharper than any star: bool (H, W) or (3, H, W).

    Works on the median over the frames, where dithered stars and cosmic rays vanish. What remains must
    stand out of its like-coloured neighbours, up or down, by 7 sigma of the scatter around it, while
    fewer than three of the eight pixels next to it share an eighth of its excess: stars do, even when
    no frame is dithered, single defects, pairs and whole columns do not. At least one frame, all of one
    shape; what a frame did not see is NaN.
    """
    if raw_frames[0].ndim == 3:
        return np.stack([_find_in_plane([f[band] for f in raw_frames], False) for band in range(3)])
    return _find_in_plane(raw_frames, bayer)


def find_loud_pixels(
    dark_adu: NDArray[np.float32], noise_adu: float, photon_gain: float, bayer: bool
) -> NDArray[np.bool_]:
    """Pixels, (H, W) or (3, H, W) as the master dark, whose own current is noisier than a frame is by itself: a dark
    takes their level out, not their noise. `photon_gain` in electrons per unit. What stands out of the dark by no more
    than its own noise does not count."""
    if dark_adu.ndim == 3:
        return np.stack([find_loud_pixels(band, noise_adu, photon_gain, False) for band in dark_adu])
    excess = _excess(np.nan_to_num(dark_adu, nan=float(np.nanmedian(dark_adu))), bayer)
    return excess > max(photon_gain * noise_adu**2, DETECTION_SIGMA * _scatter(excess))


def repair(image: NDArray[np.float32], hot: NDArray[np.bool_], bayer: bool) -> NDArray[np.float32]:
    """A copy of image (H, W) or (3, H, W) with each hot pixel, and each NaN among seen ones, replaced by the median of
    its eight nearest neighbours of its own colour, leaving out those that are hot themselves."""
    if image.ndim == 3:
        return np.stack([repair(band, band_hot, False) for band, band_hot in zip(image, hot, strict=True)])
    mended = np.array(image, np.float32)
    rows, columns = np.nonzero(hot | _gaps(mended))
    for step in (1, 2, 4):
        if rows.size == 0:
            break
        estimate = _median_of_neighbours(mended, hot, rows, columns, step * (2 if bayer else 1))
        known = np.isfinite(estimate)
        mended[rows[known], columns[known]] = estimate[known]
        rows, columns = rows[~known], columns[~known]
    return mended


def _gaps(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(H, W): unseen pixels, of which fewer than half of those around are unseen too."""
    unseen = np.isnan(image)
    if unseen.any():
        unseen &= cv2.blur(unseen.astype(np.float32), (5, 5)) < 0.5
    return unseen


def _median_of_neighbours(
    image: NDArray[np.float32], hot: NDArray[np.bool_], rows: NDArray[np.intp], columns: NDArray[np.intp], step: int
) -> NDArray[np.float32]:
    """NaN where no neighbour is good."""
    values = np.full((8, rows.size), np.nan, np.float32)
    offsets = [(i, j) for i in (-step, 0, step) for j in (-step, 0, step) if (i, j) != (0, 0)]
    for slot, (down, right) in enumerate(offsets):
        r, c = rows + down, columns + right
        inside = (r >= 0) & (r < image.shape[0]) & (c >= 0) & (c < image.shape[1])
        good = inside.copy()
        good[inside] = ~hot[r[inside], c[inside]]
        values[slot, good] = image[r[good], c[good]]
    known = np.isfinite(values).any(axis=0)
    estimate = np.full(rows.size, np.nan, np.float32)
    estimate[known] = np.nanmedian(values[:, known], axis=0)
    return estimate


def _find_in_plane(frames: Sequence[NDArray[np.float32]], bayer: bool) -> NDArray[np.bool_]:
    middle = median_frame(frames)
    excess = np.where(np.isnan(middle), np.float32(0), _excess(np.nan_to_num(middle), bayer))
    least_scatter = max(_scatter(excess), rounding_noise(frames[0]))
    threshold = DETECTION_SIGMA * np.maximum(_local_scatter(excess), least_scatter)
    bright = _stands_alone(excess, threshold)
    if bayer:  # what lies between is of other colours, in which a red star may be dark
        bright = _without_stars(bright, excess, threshold / DETECTION_SIGMA)
    return bright | _stands_alone(-excess, threshold)


def median_frame(frames: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The median over frames (H, W) once their sky levels were made equal; NaN where none saw anything.

    What stays in place on the detector remains, what moves with the sky goes. Strip by strip, to stay small in memory.
    """
    levels = [np.nanmedian(frame[::5, ::5]) for frame in frames]
    middle = np.empty(frames[0].shape, np.float32)
    for top in range(0, middle.shape[0], STRIP_ROWS):
        strip = np.s_[top : top + STRIP_ROWS]
        stacked = np.stack([frame[strip] - np.float32(level) for frame, level in zip(frames, levels, strict=True)])
        stacked.sort(axis=0)
        middle[strip] = middle_of(stacked)
        partly = np.isfinite(stacked[0]) & np.isnan(stacked[-1])  # sorted: what is NaN comes last
        middle[strip][partly] = np.nanmedian(stacked[:, partly], axis=0)
    return middle


def middle_of(ordered: NDArray[np.float32]) -> NDArray[np.float32]:
    """The median over the first axis of what was sorted along it: along a short one much faster than np.median."""
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _excess(image: NDArray[np.float32], bayer: bool) -> NDArray[np.float32]:
    """What each pixel has above the median of the 5 x 5 like-coloured pixels around it."""
    if not bayer:
        return image - cv2.medianBlur(image, 5)
    excess = np.empty_like(image)
    for site in SITES:
        plane = np.ascontiguousarray(image[site])
        excess[site] = plane - cv2.medianBlur(plane, 5)
    return excess


def _scatter(excess: NDArray[np.float32]) -> float:
    return MAD_TO_SIGMA * float(np.median(np.abs(excess[::3, ::3])))


def _local_scatter(excess: NDArray[np.float32]) -> NDArray[np.float32]:
    """The Gaussian sigma that the mean absolute deviation nearby stands for: larger on stars and nebulae."""
    box = (LOCAL_BOX_PX, LOCAL_BOX_PX)
    return np.float32(np.sqrt(np.pi / 2)) * cv2.blur(np.abs(excess), box, borderType=cv2.BORDER_REFLECT)


def _stands_alone(excess: NDArray[np.float32], threshold: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Above the threshold, and third brightest of its eight neighbours far below it."""
    found = np.zeros(excess.shape, bool)
    padded = np.pad(excess, 1)
    rows, columns = np.nonzero(excess > threshold)
    around = np.stack([padded[rows + i, columns + j] for i in (0, 1, 2) for j in (0, 1, 2) if (i, j) != (1, 1)])
    third = np.partition(around, 5, axis=0)[5] if rows.size else np.empty(0, np.float32)
    alone = third < STAR_SHARE * excess[rows, columns] + STAR_SIGMA / DETECTION_SIGMA * threshold[rows, columns]
    found[rows[alone], columns[alone]] = True
    return found


def _without_stars(
    found: NDArray[np.bool_], excess: NDArray[np.float32], scatter: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Those found whose like-coloured neighbours have no part of their excess, as a star gives them: the eight nearest
    less the two brightest, which may be of a hot column."""
    padded = np.pad(excess, 2)
    rows, columns = np.nonzero(found)
    around = np.stack([padded[rows + i, columns + j] for i in (0, 2, 4) for j in (0, 2, 4) if (i, j) != (2, 2)])
    fainter = np.sort(around, axis=0)[:-2].sum(axis=0)
    noise = np.sqrt(len(around) - 2) * scatter[rows, columns]
    single = fainter < np.maximum(LIKE_COLOURED_SHARE * excess[rows, columns], LIKE_COLOURED_SIGMA * noise)
    kept = np.zeros_like(found)
    kept[rows[single], columns[single]] = True
    return kept
