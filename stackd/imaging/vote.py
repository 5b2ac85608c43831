"""First guesses of how two star lists lie on each other, by voting.

Takes positions of the brightest stars of a frame and of the reference, gives candidate transforms,
most votes first, good to about half a percent of the frame. Wants no shapes and no fluxes, so it
bears lists of which only few stars are common. Must not know what is done with a guess.
"""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

CELL_SHARE = 0.005  # of the field's diagonal: edge of a cell of the vote
ANGLE_STEP_RAD = 2 * CELL_SHARE  # turns a star at half the diagonal by one cell
NEAR_ANGLE_RAD = np.deg2rad(12.0)
SCALE_STEP = 0.014
SCALE_STEPS = 4  # on each side: up to +-5.6 %
CANDIDATES = 12


def usual_poses() -> list[tuple[float, float]]:
    """(angle, scale) of frames taken one after another on a good mount: not turned."""
    return [(ANGLE_STEP_RAD * n, 1.0) for n in (-1, 0, 1)]


def likely_poses() -> list[tuple[float, float]]:
    """(angle, scale) of frames of one night: hardly turned, or turned over by a meridian flip."""
    count = int(NEAR_ANGLE_RAD / ANGLE_STEP_RAD)
    near = ANGLE_STEP_RAD * np.arange(-count, count + 1)
    return [(float(a), 1.0) for a in np.concatenate([near, np.pi + near])]


def all_poses() -> list[tuple[float, float]]:
    """Every angle at the same scale."""
    return [(float(a), 1.0) for a in np.arange(0, 2 * np.pi, ANGLE_STEP_RAD)]


def rescaled_poses() -> list[tuple[float, float]]:
    """The likely angles at every other scale."""
    scales = [1 + SCALE_STEP * k for k in range(-SCALE_STEPS, SCALE_STEPS + 1) if k]
    return [(angle, scale) for scale in scales for angle, _ in likely_poses()]


def vote(
    stars: NDArray[np.float64], reference: NDArray[np.float64], poses: Iterable[tuple[float, float]]
) -> list[NDArray[np.float64]]:
    """Candidate (2, 3) matrices from positions (n, 2) to reference positions (m, 2).

    For each (angle, scale) all n x m position differences fall into cells; where the frames lie on
    each other, the differences of all common stars fall together.
    """
    centre = (stars.min(axis=0) + stars.max(axis=0)) / 2
    aim = (reference.min(axis=0) + reference.max(axis=0)) / 2
    cell = cell_px(stars, reference)
    ballots = []
    for angle, scale in poses:
        turned = (stars - centre) @ _turn(angle, scale).T
        votes, shift = _fullest_cell(turned, reference - aim, cell)
        ballots.append((votes, angle, scale, shift))
    ballots.sort(key=lambda ballot: -ballot[0])
    return [_matrix(angle, scale, centre, aim + shift) for _, angle, scale, shift in ballots[:CANDIDATES]]


def cell_px(stars: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Edge of a cell of the vote: about how wrong a candidate may be, px."""
    return max(2.0, CELL_SHARE * max(np.hypot(*np.ptp(stars, axis=0)), np.hypot(*np.ptp(reference, axis=0))))


def _fullest_cell(
    turned: NDArray[np.float64], reference: NDArray[np.float64], cell: float
) -> tuple[float, NDArray[np.float64]]:
    """Votes in the fullest 2 x 2 cells and the mean difference of those who cast them."""
    shifts = (reference[:, None, :] - turned[None, :, :]).reshape(-1, 2)
    low = shifts.min(axis=0)
    columns, rows = ((shifts - low) / cell).astype(np.intp).T
    shape = (rows.max() + 2, columns.max() + 2)
    cells = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float32)
    four = cv2.boxFilter(cells, -1, (2, 2), anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT)
    row, column = np.unravel_index(int(four.argmax()), shape)
    voters = (rows - row >= 0) & (rows - row < 2) & (columns - column >= 0) & (columns - column < 2)
    return float(four[row, column]), shifts[voters].mean(axis=0)


def _turn(angle: float, scale: float) -> NDArray[np.float64]:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s], [s, c]])


def _matrix(angle: float, scale: float, centre: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = _turn(angle, scale)
    return np.column_stack([linear, to - linear @ centre])
