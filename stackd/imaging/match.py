"""From a first guess to the transform: who is who, where exactly, and whether chance could do it too.

Takes star lists and a candidate matrix, gives a fitted similarity with the number of its matches,
their residual, and its number of false alarms. Must not know where a candidate came from.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import binom

from stackd.imaging.stars import Stars

BRIGHT = 150  # stars that a match is begun and judged with
FIT_ROUNDS = 8
TUKEY = 4.685  # standard deviations beyond which a residual has no say (Tukey's biweight)
FINE_RADIUS_PX = 1.5
JUDGED_RADII_PX = (0.5, 1.0, 2.0, 4.0)
CLUSTERING = 3.0  # stars crowd: chance matches are this much likelier than among evenly strewn ones
ALLOWED_SCALE = 0.08
USUAL_SCALE_CHANGE = 1e-4  # focus, temperature, refraction
LEAST_MATCHES = 4
USUAL_TURN_RAD = np.deg2rad(3.0)  # from 0 or 180 degrees
USUAL_SCALE = 0.01


@dataclass(frozen=True, slots=True)
class Match:
    """A fitted similarity and what speaks for it."""

    matrix: NDArray[np.float64]  # (2, 3)
    matched: int
    rms_px: float  # of one star along both axes together, robust
    log10_false_alarms: float  # expected number of matches this good among lists that have nothing in common


def refine(stars: Stars, reference: Stars, guess: NDArray[np.float64], capture_px: float) -> Match | None:
    """Follow a guess that is good to capture_px to the best fit on all stars; None where it leads nowhere."""
    matrix = guess
    few, few_reference = stars.take(slice(BRIGHT)), reference.take(slice(BRIGHT))
    for radius in (1.5 * capture_px, capture_px, capture_px / 2, max(capture_px / 4, FINE_RADIUS_PX)):
        matrix = _improve(few, few_reference, matrix, radius)
        if matrix is None:
            return None
    false_alarms = _log10_false_alarms(few, few_reference, matrix)
    radius = max(FINE_RADIUS_PX, 4 * _residuals(few, few_reference, matrix, 2 * FINE_RADIUS_PX)[2])
    for _ in range(2):
        better = _improve(stars, reference, matrix, radius)
        matrix = matrix if better is None else better
    matched, _, rms = _residuals(stars, reference, matrix, radius)
    return Match(matrix, len(matched), rms, false_alarms)


def _improve(stars: Stars, reference: Stars, matrix: NDArray[np.float64], radius: float) -> NDArray[np.float64] | None:
    mine, theirs = pair(stars, reference, matrix, radius)
    if len(mine) < 3:
        return None
    better = fit_similarity(stars.take(mine), reference.take(theirs), matrix)
    scale = np.hypot(better[0, 0], better[1, 0])
    return better if abs(scale - 1) < ALLOWED_SCALE else None


def without_matched(stars: Stars, reference: Stars, matrix: NDArray[np.float64], radius: float) -> tuple[Stars, Stars]:
    """Both lists less the stars that match under this matrix."""
    mine, theirs = pair(stars, reference, matrix, radius)
    return stars.take(np.delete(np.arange(len(stars)), mine)), reference.take(
        np.delete(np.arange(len(reference)), theirs)
    )


def pair(
    stars: Stars, reference: Stars, matrix: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of stars that are each other's nearest within radius px."""
    here = _positions(stars) @ matrix[:, :2].T + matrix[:, 2]
    there = _positions(reference)
    distance, nearest = cKDTree(there).query(here, distance_upper_bound=radius)
    _, back = cKDTree(here).query(there)
    mine = np.nonzero(np.isfinite(distance))[0]
    mine = mine[back[nearest[mine]] == mine]
    return mine, nearest[mine]


def fit_similarity(stars: Stars, reference: Stars, start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift, rotation and scale by weighted least squares, outliers losing their say (IRLS, Tukey's biweight).

    In complex numbers: reference = a * star + b, |a| the scale and arg a the angle. Frames of one camera
    hardly differ in scale: where the stars leave that open, it is drawn towards 1.
    """
    z, w = stars.x + 1j * stars.y, reference.x + 1j * reference.y
    error = np.hypot(stars.error_px, reference.error_px) * np.where(stars.saturated | reference.saturated, 3.0, 1.0)
    a, b = start[0, 0] + 1j * start[1, 0], start[0, 2] + 1j * start[1, 2]
    for round_ in range(FIT_ROUNDS):
        residual = np.abs(w - a * z - b)
        spread = max(1.2 * float(np.median(residual / error)), 1.0)  # the median of a Rayleigh law is 1.18
        # the first round trusts all alike: the start may be off by more than the errors
        trust = np.clip(1 - (residual / (TUKEY * spread * error)) ** 2, 0, None) ** 2 if round_ else 1.0
        weight = trust / (error**2 + 0.05**2)
        if np.count_nonzero(weight) < 3:
            break
        zm, wm = np.average(z, weights=weight), np.average(w, weights=weight)
        a = np.sum(weight * np.conj(z - zm) * (w - wm)) / np.sum(weight * np.abs(z - zm) ** 2)
        a *= _calm_scale(abs(a), spread / np.sqrt(np.sum(weight * np.abs(z - zm) ** 2)))
        b = wm - a * zm
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _calm_scale(scale: float, error: float) -> float:
    """Factor to the scale that is likeliest given the usual change within a night; 1 where it clearly differs."""
    if abs(scale - 1) > 3 * error:
        return 1.0
    return (1 + (scale - 1) * USUAL_SCALE_CHANGE**2 / (USUAL_SCALE_CHANGE**2 + error**2)) / scale


def _residuals(
    stars: Stars, reference: Stars, matrix: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], float]:
    """The pairs within radius and the robust rms of their distances (NaN without any)."""
    mine, theirs = pair(stars, reference, matrix, radius)
    if len(mine) == 0:
        return mine, theirs, float("nan")
    moved = _positions(stars)[mine] @ matrix[:, :2].T + matrix[:, 2]
    distance = np.hypot(*(moved - _positions(reference)[theirs]).T)
    return mine, theirs, float(np.median(distance) * 1.2011)  # rms of a Rayleigh law from its median


def _log10_false_alarms(stars: Stars, reference: Stars, matrix: NDArray[np.float64]) -> float:
    """How many matches as good as this one are to be expected of unrelated lists (a contrario, Desolneux 2000).

    Two stars fix a similarity, so every pair of pairs of similar length is one trial; each further star of
    the common field then matches by chance with the probability that a reference star lies within the radius.
    """
    there = _positions(reference)
    low, high = there.min(axis=0) - 2, there.max(axis=0) + 2
    moved = _positions(stars) @ matrix[:, :2].T + matrix[:, 2]
    common = int(np.count_nonzero(((moved >= low) & (moved <= high)).all(axis=1)))
    area = max(float(np.prod(high - low)), 1.0)
    trials = np.log10(len(stars) * len(reference) * max(len(stars) - 1, 1) * max(len(reference) - 1, 1))
    trials += np.log10(len(JUDGED_RADII_PX)) + _log10_share_of_poses(matrix)
    best = np.inf
    for radius in JUDGED_RADII_PX:
        matched = len(pair(stars, reference, matrix, radius)[0])
        chance = 1 - np.exp(-CLUSTERING * len(reference) * np.pi * radius**2 / area)
        if matched >= LEAST_MATCHES and common > 2:
            tail = binom.logsf(matched - 3, common - 2, chance) / np.log(10)
            best = min(best, trials + tail)
    return float(best)


def _log10_share_of_poses(matrix: NDArray[np.float64]) -> float:
    """How many of all trials fall among poses such as this: few are as little turned as frames of a night are."""
    scale, angle = np.hypot(matrix[0, 0], matrix[1, 0]), np.arctan2(matrix[1, 0], matrix[0, 0])
    turn = abs((angle + np.pi / 2) % np.pi - np.pi / 2)
    if turn < USUAL_TURN_RAD and abs(scale - 1) < USUAL_SCALE:
        return float(np.log10(2 * USUAL_SCALE * 2 * USUAL_TURN_RAD / np.pi))
    return float(np.log10(2 * ALLOWED_SCALE))


def _positions(stars: Stars) -> NDArray[np.float64]:
    return np.column_stack([stars.x, stars.y])
