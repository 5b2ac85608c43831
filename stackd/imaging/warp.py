"""A transform between two frames' pixels, and how an image is resampled through it.

Takes images with NaN where nothing was seen and keeps that promise in what it gives. Positions are
(x, y) with 0 at the centre of the first pixel. Must not know how a transform was found.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

EDGE_PX = 2  # rim of the footprint given up: there half of the Lanczos kernel's light is made up
DARKEST_PX = 33  # box whose darkest pixel bounds what is interpolated: so wide that noise hardly ever meets it
FILL_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Transform:
    """Where a frame's pixels lie on the reference grid: (x, y) -> matrix @ (x, y, 1)."""

    matrix: NDArray[np.float64]  # (2, 3), frame px -> reference px
    method: str  # "stars", "phase" or "identity"
    matched: int  # stars that the fit rests on; 0 without stars
    rms_px: float  # residual of one star's position; NaN where no star tells

    def __call__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions in the frame -> positions on the reference grid, (n, 2)."""
        return np.stack([x, y], axis=-1) @ self.matrix[:, :2].T + self.matrix[:, 2]


def identity() -> Transform:
    """The transform of a reference frame onto itself."""
    return Transform(np.eye(2, 3), "identity", 0, 0.0)


def compose(outer: NDArray[np.float64], inner: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (2, 3) matrix that first does `inner`, then `outer`."""
    return outer @ np.vstack([inner, [0.0, 0.0, 1.0]])


def invert(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (2, 3) matrix that undoes `matrix`."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.hstack([linear, -linear @ matrix[:, 2:]])


def apply_transform(
    image: NDArray[np.float32], transform: Transform, shape: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Resample image (H, W) or (3, H, W) onto a grid of `shape` (H, W).

    Gives the image there, NaN where nothing was seen, and the footprint, bool (H, W). Lanczos
    interpolation over 8 x 8 pixels, never darker than all pixels around: beside a saturated column it
    would dig holes. NaN holes and the outside are filled smoothly beforehand and cut out again with a
    rim of two pixels, so that neither rings into what was seen. Surface brightness is kept. The
    identity gives an unchanged copy.
    """
    planes = image[np.newaxis] if image.ndim == 2 else image
    seen = np.isfinite(planes).all(axis=0)
    if tuple(shape) == planes.shape[1:] and np.array_equal(transform.matrix, np.eye(2, 3)):
        return np.where(seen, image, np.float32(np.nan)).astype(np.float32), seen

    footprint = _warp_footprint(seen, transform.matrix, shape)
    moved = np.stack([_warp(_fill(plane, seen), transform.matrix, shape) for plane in planes])
    moved[:, ~footprint] = np.nan
    return (moved[0] if image.ndim == 2 else moved), footprint


def _warp(plane: NDArray[np.float32], matrix: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float32]:
    size, border = (shape[1], shape[0]), cv2.BORDER_REFLECT
    moved = cv2.warpAffine(plane, matrix, size, flags=cv2.INTER_LANCZOS4, borderMode=border)
    darkest = cv2.erode(plane, np.ones((DARKEST_PX, DARKEST_PX), np.uint8))
    return np.maximum(moved, cv2.warpAffine(darkest, matrix, size, flags=cv2.INTER_NEAREST, borderMode=border))


def _warp_footprint(seen: NDArray[np.bool_], matrix: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose position in the frame lies at least EDGE_PX inside what was seen."""
    kernel = np.ones((2 * EDGE_PX + 1, 2 * EDGE_PX + 1), np.uint8)
    inner = cv2.erode(seen.astype(np.float32), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0.0)
    size = (shape[1], shape[0])
    share = cv2.warpAffine(inner, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return share > 0.5


def _fill(plane: NDArray[np.float32], seen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Unseen pixels take the mean of what was seen near them, ever wider; then the median of all."""
    if seen.all():
        return np.ascontiguousarray(plane, np.float32)
    filled = np.where(seen, plane, 0).astype(np.float32)
    known = seen.astype(np.float32)
    for round_ in range(FILL_ROUNDS):
        box = (2 * 2**round_ + 1,) * 2
        share = cv2.blur(known, box)
        near = (known == 0) & (share > 1e-6)
        filled[near] = cv2.blur(filled * known, box)[near] / share[near]
        known[near] = 1
    if seen.any():
        filled[known == 0] = np.median(plane[seen])
    return filled
