"""The Moon and planets lie on each other although there is no star to go by."""

import cv2
import numpy as np
import pytest

from stackd.imaging.register import find_transform_by_phase, register_set

SHAPE = (300, 400)


def crescent(rng, x, y, turn_deg=0.0, noise=2.0):
    """A cratered crescent of 90 px radius about (x, y) on a black sky."""
    craters = np.random.default_rng(50)
    column, row = np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0]))
    turn = np.deg2rad(turn_deg)
    u = np.cos(turn) * (column - x) + np.sin(turn) * (row - y)
    v = -np.sin(turn) * (column - x) + np.cos(turn) * (row - y)
    disc = 1 / (1 + np.exp((np.hypot(u, v) - 90) / 1.2))
    lit = 1 / (1 + np.exp((40 - u) / 8))
    ground = 1 + sum(
        craters.uniform(-0.3, 0.3)
        * np.exp(-((u - craters.uniform(-80, 90)) ** 2 + (v - craters.uniform(-80, 80)) ** 2) / 40)
        for _ in range(40)
    )
    return (200 * disc * lit * ground + rng.normal(0, noise, SHAPE)).astype(np.float32)


def planet(rng, x, y, noise=2.0):
    """A banded disc of 25 px radius."""
    column, row = np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0]))
    disc = 1 / (1 + np.exp((np.hypot(column - x, row - y) - 25) / 1.5))
    return (180 * disc * (1 + 0.2 * np.sin((row - y) / 4)) + rng.normal(0, noise, SHAPE)).astype(np.float32)


@pytest.mark.parametrize("paint", [crescent, planet])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.4, -7.7), (-130.3, 60.6), (150.0, 40.0)])
def test_large_shifts_to_a_tenth_of_a_pixel(paint, shift):
    """Shifts up to a good third of the frame."""
    rng = np.random.default_rng(51)
    frame = paint(rng, 180, 120)
    reference = paint(rng, 180 + shift[0], 120 + shift[1])

    found = find_transform_by_phase(frame, reference)

    assert found.method == "phase"
    centre = found(np.array([180.0]), np.array([120.0]))[0] - (180, 120)
    assert centre == pytest.approx(shift, abs=0.15)


def test_a_turned_moon():
    """A rotation of three degrees, and a meridian flip, are followed."""
    rng = np.random.default_rng(52)
    frame, turned = crescent(rng, 190, 140), crescent(rng, 200, 150, turn_deg=3)
    flipped = np.ascontiguousarray(frame[::-1, ::-1])

    found, back = find_transform_by_phase(frame, turned), find_transform_by_phase(frame, flipped)

    assert np.rad2deg(np.arctan2(found.matrix[1, 0], found.matrix[0, 0])) == pytest.approx(3, abs=0.2)
    assert back.matrix == pytest.approx(np.array([[-1, 0, SHAPE[1] - 1], [0, -1, SHAPE[0] - 1]]), abs=0.2)


@pytest.mark.parametrize("seed", range(6))
def test_a_disc_without_marks_is_not_turned(seed):
    """Half a turn fits it as well; noise alone must not decide, frame by frame."""
    rng = np.random.default_rng(seed)
    column, row = np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0]))

    def disc(x, y):
        spot = 1 + 0.02 * np.exp(-((column - x - 15) ** 2 + (row - y) ** 2) / 100)
        return (200 * spot / (1 + np.exp((np.hypot(column - x, row - y) - 40) / 1.5))).astype(np.float32)

    frame, reference = (
        disc(*place) + rng.normal(0, 10, SHAPE).astype(np.float32) for place in ((180, 120), (190, 130))
    )

    found = find_transform_by_phase(frame, reference)

    assert found.matrix == pytest.approx(np.array([[1, 0, 10], [0, 1, 10]]), abs=0.5)


def test_frames_with_nothing_in_common_are_refused():
    """Noise lies on nothing."""
    rng = np.random.default_rng(53)
    one, other = (cv2.GaussianBlur(rng.normal(0, 10, SHAPE).astype(np.float32), (0, 0), 0.5) for _ in range(2))

    assert find_transform_by_phase(one, other) is None
    assert find_transform_by_phase(np.zeros(SHAPE, np.float32), other) is None


def test_two_skies_tilts_are_nothing_in_common():
    """One star and town light in a corner: the light would lie on itself anywhere, and upside down."""
    rng = np.random.default_rng(55)
    column, row = np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0]))
    glow = 40 * column / SHAPE[1] + 25 * row / SHAPE[0] - 32

    def sky(x, y):
        star = 900 * np.exp(-((column - x) ** 2 + (row - y) ** 2) / 4)
        return (glow + star + rng.normal(0, 8, SHAPE)).astype(np.float32)

    assert find_transform_by_phase(sky(100, 120), sky(103, 121)) is None


def test_a_set_of_moons_registers():
    """register_set comes to the phase by itself where stars fail."""
    rng = np.random.default_rng(54)
    places = [(180, 120), (195.5, 140.2), (120.1, 160.6)]

    found = register_set([crescent(rng, *place) for place in places], [2.0] * 3)

    centre = places[found.reference]
    for transform, (x, y) in zip(found.transforms, places, strict=True):
        assert transform(np.array([float(x)]), np.array([float(y)]))[0] == pytest.approx(centre, abs=0.2)
