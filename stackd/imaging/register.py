"""The frames of one set put on one grid.

Takes sky-subtracted luminances, gives for each frame its transform to the reference or the reason why
there is none. Stars first, found by voting and accepted only where chance is out of the question; what
the picture shows (phase) where there are no stars. Must not know files, colours or stacks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from stackd.imaging.cosmetic import median_frame
from stackd.imaging.match import LEAST_MATCHES, Match, pair, refine, without_matched
from stackd.imaging.phase import align_by_phase
from stackd.imaging.reference import FrameFigures, by_merit, choose_reference, frame_figures, with_overlap
from stackd.imaging.stars import Stars, find_peaks, find_stars
from stackd.imaging.vote import all_poses, cell_px, likely_poses, rescaled_poses, usual_poses, vote
from stackd.imaging.warp import Transform, compose, identity

VOTERS = 100  # brightest stars of each frame
CERTAIN = -5.0  # log10 of the false alarms that one pair of frames may expect
ENOUGH_STARS = 10  # matched, beyond which no picture tells better
NEAR_PX = 12.0  # that a picture's own transform may be wrong by
GOOD_PX = 0.5  # within which it leaves the stars where there is nothing to polish
FEWEST_STARS, MOST_SHARE = 4, 0.5  # matched, of those that the frame with fewer shows, to polish it
NEIGHBOURS = 3  # in time, by way of which a frame may be placed that does not lie on the reference itself
LOCKED_RADIUS_PX = 1.0
LOCKED_PX = 0.5  # a transform that moves no corner by more may be the detector's own pattern


@dataclass(frozen=True, slots=True)
class Registration:
    """transforms[k] is None where frame k could not be placed; reasons[k] then says why (else "")."""

    reference: int
    transforms: tuple[Transform | None, ...]
    reasons: tuple[str, ...]
    figures: tuple[FrameFigures, ...]
    stars: tuple[Stars, ...]


def find_transform(stars: Stars, reference_stars: Stars) -> Transform | None:
    """The similarity from a frame's stars onto the reference's, or None where none is beyond doubt.

    Any rotation, scales within 5 %, at least four common stars; both lists brightest first.
    """
    best = _search(stars, reference_stars)
    if best is not None and _is_locked(best.matrix, _bounds(stars)):
        # hot pixels match themselves perfectly in place: whatever else matches certainly is the sky
        others = without_matched(stars, reference_stars, best.matrix, LOCKED_RADIUS_PX)
        best = _search_among(*others, likely_poses()) or best
    return None if best is None else Transform(best.matrix, "stars", best.matched, best.rms_px)


def _search(stars: Stars, reference: Stars) -> Match | None:
    for poses in (usual_poses, likely_poses, all_poses, rescaled_poses):
        match = _search_among(stars, reference, poses())
        if match is not None:
            return match
    return None


def _search_among(stars: Stars, reference: Stars, poses: Sequence[tuple[float, float]]) -> Match | None:
    """The most certain match that votes lead to, None where none is certain."""
    if min(len(stars), len(reference)) < LEAST_MATCHES:
        return None
    here, there = (np.column_stack([s.x, s.y])[:VOTERS] for s in (stars, reference))
    found = [refine(stars, reference, guess, cell_px(here, there)) for guess in vote(here, there, poses)]
    certain = [match for match in found if match is not None and match.log10_false_alarms < CERTAIN]
    return min(certain, key=lambda match: match.log10_false_alarms, default=None)


def _is_locked(matrix: NDArray[np.float64], bounds: NDArray[np.float64]) -> bool:
    """Whether a transform leaves both corners of the bounds (2, 2) where they are on the detector."""
    return _moves(matrix, bounds) < LOCKED_PX


def _moves(matrix: NDArray[np.float64], bounds: NDArray[np.float64]) -> float:
    """How far (px) a transform moves the corners of the bounds (2, 2) at most, along either axis."""
    moved = bounds @ matrix[:, :2].T + matrix[:, 2]
    return float(np.abs(moved - bounds).max())


def _bounds(stars: Stars) -> NDArray[np.float64]:
    return np.array([[stars.x.min(), stars.y.min()], [stars.x.max(), stars.y.max()]])


def find_transform_by_phase(image: NDArray[np.float32], reference: NDArray[np.float32]) -> Transform | None:
    """The shift (and small or 180 degree rotation) that lays image onto reference, both (H, W), sky-subtracted."""
    matrix = align_by_phase(image, reference)
    return None if matrix is None else Transform(matrix, "phase", 0, float("nan"))


def register_set(
    luminances: Sequence[NDArray[np.float32]], noises: Sequence[float], saturation_adu: float = np.inf
) -> Registration:
    """Place every frame (H, W), sky-subtracted, NaN where nothing was seen, on the grid of the best one.

    `noises` is one pixel's standard deviation per frame, `saturation_adu` above the sky. The reference is
    the best frame by its own figures that most others can be laid on, directly or through a third; once
    the drift is known, a frame as good but nearer to the middle of it is preferred.
    """
    found = _register(luminances, noises, saturation_adu)
    if not (_stands_still(found) or _shows_a_pattern(found)):
        return found
    # either nothing drifted, or what matched so well is the detector's own pattern: look again without it
    without_pattern = _blank_what_stays(luminances)
    again = _register(without_pattern, noises, saturation_adu)
    most = 2 * sum(t is not None for t in again.transforms) > len(luminances)
    if not most or not _rests_on_stars(again) or _stands_still(again):
        return found
    return again if _stands_still(found) or _is_as_good(again, found) else found


def _register(
    luminances: Sequence[NDArray[np.float32]], noises: Sequence[float], saturation_adu: float
) -> Registration:
    stars = tuple(find_stars(image, noise, saturation_adu) for image, noise in zip(luminances, noises, strict=True))
    figures = frame_figures(stars, noises)
    placed = _largest_group(luminances, stars, by_merit(figures))
    figures = with_overlap(figures, placed, luminances[0].shape)
    group = [k for k, transform in enumerate(placed) if transform is not None]
    reference = group[choose_reference([figures[k] for k in group])]
    if placed[reference].method != "identity":
        placed = _place(luminances, stars, reference, group)
    reasons = tuple("" if t is not None else _reason(stars[k]) for k, t in enumerate(placed))
    return Registration(reference, tuple(placed), reasons, tuple(figures), stars)


def _stands_still(registration: Registration) -> bool:
    """Whether most frames that were placed by stars did not move at all on the detector."""
    by_stars = [(k, t) for k, t in enumerate(registration.transforms) if t is not None and t.method == "stars"]
    still = [_is_locked(t.matrix, _bounds(registration.stars[k])) for k, t in by_stars]
    return bool(still) and 2 * sum(still) > len(still)


def _is_as_good(one: Registration, other: Registration) -> bool:
    """Whether it places no frame fewer, and those that both place no worse: what was blanked may have been stars."""
    both = [(a, b) for a, b in zip(one.transforms, other.transforms) if a is not None and b is not None]
    if len(both) < sum(t is not None for t in other.transforms):  # which places its reference at least
        return False
    here, there = (np.nanmedian([t.rms_px for t in transforms]) for transforms in zip(*both))
    return bool(here <= there)


def _shows_a_pattern(registration: Registration) -> bool:
    """Whether in some frame that moved nearly as many sources stayed in place on the detector as moved along. Of frames
    that hardly moved nobody can tell: their stars are in place, too."""
    there = registration.stars[registration.reference]
    return any(
        t is not None
        and t.method == "stars"
        and _moves(t.matrix, _bounds(there)) > 2 * LOCKED_RADIUS_PX
        and 2 * len(pair(here, there, np.eye(2, 3), LOCKED_RADIUS_PX)[0]) > t.matched
        for here, t in zip(registration.stars, registration.transforms, strict=True)
    )


def _rests_on_stars(registration: Registration) -> bool:
    return all(t.method != "phase" for t in registration.transforms if t is not None)


def _blank_what_stays(luminances: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Copies with NaN around every source that is in most frames at the same place of the detector."""
    middle = median_frame([np.nan_to_num(image) for image in luminances])
    pattern = np.zeros(middle.shape, np.uint8)
    pattern[find_peaks(middle, np.isfinite(middle), 1.2)] = 1
    pattern = cv2.dilate(pattern, np.ones((5, 5), np.uint8))
    return [np.where(pattern > 0, np.float32(np.nan), image) for image in luminances]


def _largest_group(
    luminances: Sequence[NDArray[np.float32]], stars: Sequence[Stars], by_merit: Sequence[int]
) -> list[Transform | None]:
    """Transforms of the largest group of frames that hang together; a majority ends the search."""
    best: list[Transform | None] = []
    tried: set[int] = set()
    for centre in by_merit:
        if centre in tried:
            continue
        transforms = _place(luminances, stars, centre, range(len(stars)))
        group = {k for k, transform in enumerate(transforms) if transform is not None}
        tried |= group
        if len(group) > sum(t is not None for t in best):
            best = transforms
        if 2 * len(group) > len(stars) or len(stars) - len(tried) < len(group):
            break
    return best


def _place(
    luminances: Sequence[NDArray[np.float32]], stars: Sequence[Stars], reference: int, frames: Sequence[int]
) -> list[Transform | None]:
    """Transforms onto the reference, where need be through a frame that already lies on it."""
    transforms: list[Transform | None] = [None] * len(stars)
    transforms[reference] = identity()
    for k in frames:
        if k != reference:
            transforms[k] = _lay(luminances, stars, k, reference)
    for k in frames:
        if transforms[k] is None:
            transforms[k] = _by_way_of_another(stars, transforms, k)
    return transforms


def _lay(
    luminances: Sequence[NDArray[np.float32]], stars: Sequence[Stars], frame: int, reference: int
) -> Transform | None:
    """By stars; by what the pictures show where few stars tell: the Moon's craters pass for some."""
    by_stars = find_transform(stars[frame], stars[reference])
    if by_stars is not None and by_stars.matched >= ENOUGH_STARS:
        return by_stars
    by_picture = find_transform_by_phase(luminances[frame], luminances[reference])
    if by_picture is None:
        return by_stars
    return _polished(by_picture, stars[frame], stars[reference], luminances[frame].shape)


def _polished(by_picture: Transform, stars: Stars, reference: Stars, shape: tuple[int, int]) -> Transform:
    """The same by the few stars of both frames, if most of them lie on each other after a small step: the picture of a
    faint nebula alone may be wrong by some pixels. Where it is not, they tell no better, as little as craters do."""
    match = refine(stars, reference, by_picture.matrix, NEAR_PX) if min(len(stars), len(reference)) else None
    if match is None or match.matched < max(FEWEST_STARS, MOST_SHARE * min(len(stars), len(reference))):
        return by_picture
    mine, theirs = pair(stars, reference, match.matrix, LOCKED_RADIUS_PX)
    laid = by_picture.matrix @ np.stack([stars.x[mine], stars.y[mine], np.ones(len(mine))])
    off_px = np.hypot(laid[0] - reference.x[theirs], laid[1] - reference.y[theirs])
    if len(mine) == 0 or np.median(off_px) < GOOD_PX or not _is_near(match.matrix, by_picture.matrix, shape):
        return by_picture
    return Transform(match.matrix, by_picture.method, match.matched, match.rms_px)


def _is_near(one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, int]) -> bool:
    """Whether two transforms of a frame of this shape bring its corners to about the same places."""
    corners = np.array([[x, y, 1] for x in (0, shape[1] - 1) for y in (0, shape[0] - 1)]).T
    return bool(np.hypot(*(one @ corners - other @ corners)).max() < NEAR_PX)


def _by_way_of_another(stars: Sequence[Stars], transforms: Sequence[Transform | None], frame: int) -> Transform | None:
    placed = sorted((abs(k - frame), k) for k, t in enumerate(transforms) if t is not None and t.method == "stars")
    for _, between in placed[:NEIGHBOURS]:
        step = find_transform(stars[frame], stars[between])
        if step is not None:
            return replace(step, matrix=compose(transforms[between].matrix, step.matrix))
    return None


def _reason(stars: Stars) -> str:
    if len(stars) < LEAST_MATCHES:
        return f"too few stars ({len(stars)}) and no other detail to lay it on the reference by"
    return f"none of its {len(stars)} stars lie as those of the reference do"
