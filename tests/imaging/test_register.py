"""Frames come to lie on each other to a small part of a pixel, or are left out with a reason."""

import numpy as np
import pytest

from stackd.imaging import skies
from stackd.imaging.camera import Night, expose
from stackd.imaging.quality import measure_sky, pixel_noise
from stackd.imaging.register import find_transform, register_set
from stackd.imaging.stars import Stars, find_stars
from stackd.imaging.warp import compose, invert
from tests.imaging.sky import exposure, move, similarity, star_positions

SHAPE = (400, 460)
CORNERS = np.array([[0, 0], [459, 0], [0, 399], [459, 399]], float)
MIDDLE = (229.5, 199.5)


def listed(places, fluxes, shape=SHAPE, rng=None, error_px=0.0):
    """A star list as find_stars would give it, of what lies inside the frame."""
    inside = ((places >= 0) & (places <= (shape[1] - 1, shape[0] - 1))).all(axis=1)
    order = np.argsort(-fluxes[inside])
    x, y = places[inside][order].T + (rng.normal(0, error_px, (2, inside.sum())) if rng else 0)
    one = np.ones(len(x))
    return Stars(x, y, fluxes[inside][order], one, 3 * one, 0 * one, 0.05 * one, np.zeros(len(x), bool))


def error_px(found, wanted):
    """Largest distance at the frame's corners."""
    return np.hypot(*(move(CORNERS, found) - move(CORNERS, wanted)).T).max()


def levelled(exposures):
    """Frames without their sky, and each one's noise."""
    frames = [e.pixels - np.float32(measure_sky(e.pixels).level_adu) for e in exposures]
    return frames, [pixel_noise(frame) for frame in frames]


def wrong_by_px(exposures, found):
    """How far each frame's corners lie from where they belong; all frames must have been placed."""
    onto_sky = [np.vstack([e.matrix, [0, 0, 1]]) for e in exposures]
    back = np.linalg.inv(onto_sky[found.reference])
    height, width = exposures[0].pixels.shape
    corners = np.array([[x, y, 1] for x in (0, width - 1) for y in (0, height - 1)]).T
    assert all(transform is not None for transform in found.transforms)
    return np.array(
        [
            np.hypot(*(transform.matrix @ corners - (back @ truth @ corners)[:2])).max()
            for truth, transform in zip(onto_sky, found.transforms)
        ]
    )


@pytest.mark.parametrize("angle", [0, 0.3, -8, 45, 90, 180, 183, -133])
def test_any_rotation(angle):
    """Every angle, a meridian flip among them, with a shift of a tenth of the frame."""
    rng = np.random.default_rng(30)
    places, fluxes = star_positions(rng, 250, SHAPE)
    wanted = similarity(angle, 40, -31, about=MIDDLE)

    found = find_transform(
        listed(places, fluxes, rng=rng, error_px=0.05), listed(move(places, wanted), fluxes, rng=rng, error_px=0.05)
    )

    assert found.method == "stars"
    assert error_px(found.matrix, wanted) < 0.06
    assert found.rms_px < 0.15


@pytest.mark.parametrize("scale", [0.96, 0.99, 1.003, 1.03])
def test_small_differences_of_scale(scale):
    """A slightly longer focus is followed too."""
    rng = np.random.default_rng(31)
    places, fluxes = star_positions(rng, 150, SHAPE)
    wanted = similarity(5, 12, 3, scale=scale, about=MIDDLE)

    found = find_transform(listed(places, fluxes), listed(move(places, wanted), fluxes))

    assert error_px(found.matrix, wanted) < 0.02


@pytest.mark.parametrize("count", [4, 6, 5000])
def test_few_stars_and_many(count):
    """Four stars are enough where all four agree; five thousand are no trouble."""
    rng = np.random.default_rng(32)
    places, fluxes = star_positions(rng, count, SHAPE, border=60)
    wanted = similarity(2, 15, -20, about=MIDDLE)

    found = find_transform(listed(places, fluxes), listed(move(places, wanted), fluxes))

    assert error_px(found.matrix, wanted) < 0.02
    assert found.matched >= 0.95 * count


def test_lists_of_very_different_length():
    """A cloud leaves 12 of 400 stars, in another order of brightness, beside as many false ones."""
    rng = np.random.default_rng(33)
    places, fluxes = star_positions(rng, 400, SHAPE)
    wanted = similarity(-3, 22, 9, about=MIDDLE)
    bright = np.argsort(-fluxes)[:12]
    false = rng.uniform(0, 400, (12, 2))
    here = np.vstack([places[bright], false])

    found = find_transform(
        listed(here, rng.uniform(1, 10, 24), rng=rng, error_px=0.1), listed(move(places, wanted), fluxes)
    )

    assert error_px(found.matrix, wanted) < 0.3


@pytest.mark.parametrize("count", [4, 10, 40, 150, 2000])
def test_unrelated_fields_are_never_matched(count):
    """Chance finds no transform: no false one among pairs of unrelated lists."""
    rng = np.random.default_rng(34)
    for _ in range(6 if count < 100 else 2):
        one, other = (listed(*star_positions(rng, count, SHAPE)) for _ in range(2))
        assert find_transform(one, other) is None


def test_too_few_stars_give_none():
    """Three stars prove nothing."""
    stars = listed(np.array([[10.0, 20], [200, 50], [90, 300]]), np.array([3.0, 2, 1]))

    assert find_transform(stars, stars) is None


def test_hot_pixels_do_not_hold_the_frame():
    """More fixed points than stars, matching perfectly in place: the sky's own transform wins."""
    rng = np.random.default_rng(35)
    places, fluxes = star_positions(rng, 30, SHAPE)
    hot, heat = star_positions(rng, 60, SHAPE)
    wanted = similarity(0.1, 9, -7)
    here = listed(np.vstack([places, hot]), np.concatenate([fluxes, heat]))
    there = listed(np.vstack([move(places, wanted), hot]), np.concatenate([fluxes, heat]))

    found = find_transform(here, there)

    assert error_px(found.matrix, wanted) < 0.1


def test_the_same_lists_give_the_same_transform():
    """No chance is involved."""
    places, fluxes = star_positions(np.random.default_rng(36), 100, SHAPE)
    here, there = listed(places, fluxes), listed(move(places, similarity(4, 8, 8)), fluxes)

    assert np.array_equal(find_transform(here, there).matrix, find_transform(here, there).matrix)


def night(rng, poses, count=120, clear=None, fwhm_px=None, shape=SHAPE):
    """One frame a pose (sky px -> frame px), with its own transparency and width."""
    places, fluxes = star_positions(rng, count, (shape[0] + 80, shape[1] + 80), border=0)
    places = places - 40
    clear, fwhm_px = clear or [1.0] * len(poses), fwhm_px or [2.8] * len(poses)
    return [
        exposure(rng, move(places, pose), fluxes * t, shape, fwhm_px=w)
        for pose, t, w in zip(poses, clear, fwhm_px, strict=True)
    ]


def test_a_set_with_flip_clouds_and_a_stranger():
    """Drift, a flip and a cloud are followed to 0.1 px; a frame of another field is left out, with a reason."""
    rng = np.random.default_rng(37)
    angles = [0, 0.2, -0.4, 180.3, 0.1, 6]
    poses = [similarity(a, *rng.uniform(-20, 20, 2), about=MIDDLE) for a in angles]
    frames = night(rng, poses, clear=[1, 0.9, 0.25, 1, 1, 1])
    frames.insert(4, night(np.random.default_rng(99), [np.eye(2, 3)])[0])
    poses.insert(4, None)

    found = register_set(frames, [10.0] * 7)

    assert found.reference not in (2, 4)
    assert found.transforms[4] is None
    assert "stars" in found.reasons[4]
    for transform, pose in zip(found.transforms, poses, strict=True):
        if pose is not None:
            wanted = compose(poses[found.reference], invert(pose))
            assert error_px(transform.matrix, wanted) < 0.25
    assert found.transforms[found.reference].method == "identity"


def test_the_reference_is_clear_sharp_and_amid_the_drift():
    """Neither the dimmed nor the blurred frame, and of equals the one that the others overlap most."""
    rng = np.random.default_rng(38)
    poses = [similarity(0, 25.0 * k - 62, 10.0 * k) for k in range(6)]
    frames = night(rng, poses, clear=[1, 1, 0.3, 1, 1, 1], fwhm_px=[2.8, 2.8, 2.8, 2.8, 4.5, 2.8])

    found = register_set(frames, [10.0] * 6)

    assert found.reference in (1, 3)


def test_a_set_that_does_not_drift_stays_in_place():
    """Without drift, stars that match in place are still stars."""
    rng = np.random.default_rng(39)

    found = register_set(night(rng, [np.eye(2, 3)] * 3), [10.0] * 3)

    assert all(error_px(t.matrix, np.eye(2, 3)) < 0.1 for t in found.transforms)


def test_fixed_blotches_do_not_hold_a_set():
    """Warm blotches as wide as stars, at the same place in all frames and more than the stars, are seen through."""
    rng = np.random.default_rng(40)
    poses = [similarity(0, 7.0 * k, -5.0 * k) for k in range(5)]
    blotches = exposure(rng, *star_positions(rng, 150, SHAPE), SHAPE, noise=0, fwhm_px=2.0)
    frames = [frame + blotches for frame in night(rng, poses, count=30)]

    found = register_set(frames, [10.0] * 5)

    for transform, pose in zip(found.transforms, poses, strict=True):
        assert error_px(transform.matrix, compose(poses[found.reference], invert(pose))) < 0.5


def test_unseen_parts_are_no_hindrance():
    """Frames with NaN in them (what a former step cut away) register as well."""
    rng = np.random.default_rng(41)
    poses = [similarity(0, 6.3 * k, 2.2 * k) for k in range(3)]
    frames = night(rng, poses)
    frames[1][:80] = np.nan

    found = register_set(frames, [10.0] * 3)

    wanted = compose(poses[found.reference], invert(poses[1]))
    assert error_px(found.transforms[1].matrix, wanted) < 0.15


def test_frames_of_noise_are_left_out_not_guessed():
    """Without anything to see there is no transform but the reference's own."""
    rng = np.random.default_rng(42)
    frames = [rng.normal(0, 10, SHAPE).astype(np.float32) for _ in range(3)]

    found = register_set(frames, [10.0] * 3)

    assert [t is None for t in found.transforms].count(True) == 2
    assert all(reason for reason, t in zip(found.reasons, found.transforms, strict=True) if t is None)


def test_find_stars_and_find_transform_agree_on_pixels():
    """A whole pixel of shift in the image is a whole pixel in the transform."""
    rng = np.random.default_rng(43)
    frame = night(rng, [np.eye(2, 3)])[0]
    shifted = np.roll(frame, (3, 5), axis=(0, 1))

    found = find_transform(find_stars(frame, 10.0), find_stars(shifted, 10.0))

    assert found.matrix == pytest.approx(similarity(0, 5, 3), abs=0.02)


@pytest.mark.parametrize("seed", [0, 6, 9, 12])
def test_a_frame_that_hardly_moved_makes_no_pattern_of_the_stars(seed: int) -> None:
    """Of small dithers one may come back to a pixel beside the reference: all of its stars are then where the
    reference has its own, and none of them may be blanked for it."""
    rng, shape = np.random.default_rng(seed), (256, 256)
    stars = skies.star_catalogue(shape, 1, rng, 1000, (1000, 2e5))
    night = Night(shift_px=4.0, rotation_deg=0.05, gradient=0.0, hot_pixels=0.0)
    exposures = expose(skies.Sky(np.zeros((1, *shape), np.float32), *stars), night, rng)

    found = register_set(*levelled(exposures))

    assert wrong_by_px(exposures, found).max() < 0.15


@pytest.mark.parametrize("seed", [8, 15, 28, 29])
def test_turned_nebulae_with_few_stars_come_to_lie_on_each_other(seed: int) -> None:
    """Of a tripod's frames, which turn: a faint nebula agrees well with itself a few degrees off, a part of a round one
    even upside down, and four to eleven stars are too few to be sure by themselves."""
    rng, shape = np.random.default_rng(seed), (256, 256)
    nebula = skies.procedural(shape, 1, rng, 1500)
    stars = skies.star_catalogue(shape, 1, rng, 150, (3000, 1e5))
    night = Night(shift_px=6.0, rotation_deg=4.0, fwhm_px=(3.0, 4.0), gradient=0.2, hot_pixels=0.0)
    exposures = expose(skies.Sky(nebula, *stars), night, rng)

    found = register_set(*levelled(exposures))

    assert wrong_by_px(exposures, found).max() < 0.4
