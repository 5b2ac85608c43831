"""Black borders are no sky; a dark sky is no border."""

import cv2
import numpy as np
import pytest

from stackd.imaging.borders import without_borders

SHAPE = (60, 80)


@pytest.fixture
def sky(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(500, 10, SHAPE).astype(np.float32)


def test_bars_corners_and_frames_are_unseen(sky: np.ndarray) -> None:
    """Whole rows and columns, and what a turned export leaves in a corner; a dead pixel within stays."""
    sky[:7] = 0
    sky[:, -3:] = 0
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    corner = rows - columns > 45
    sky[corner] = 0
    sky[30, 40] = 0

    seen = without_borders(sky)

    assert np.isnan(seen[:7]).all()
    assert np.isnan(seen[:, -3:]).all()
    assert np.isnan(seen[corner]).all()
    assert seen[30, 40] == 0
    assert np.isnan(seen).sum() == (sky == 0).sum() - 1
    assert np.isfinite(sky).all()


def test_all_bands_of_a_colour_border_are_dark(sky: np.ndarray) -> None:
    """One band that reads nothing at the edge is a colour of the sky."""
    colour = np.stack([sky, sky, sky])
    colour[:, :5] = 0
    colour[2, :, :4] = 0

    seen = without_borders(colour)

    assert np.isnan(seen[:, :5]).all()
    assert np.isfinite(seen[:, 5:]).all()


@pytest.mark.parametrize("level", [0.0, 12.0])
def test_a_sky_clipped_at_black_is_sky(rng: np.random.Generator, level: float) -> None:
    """8 bit, much of it at zero, from the edge on: nothing is lost."""
    clipped = np.clip(rng.normal(level, 8, SHAPE), 0, 255).round().astype(np.float32)
    clipped[20:30, 20:30] = 200

    assert without_borders(clipped) is clipped


@pytest.mark.parametrize("radius", [20, 28])
def test_a_disc_before_a_black_sky_has_no_border(rng: np.random.Generator, radius: int) -> None:
    """The Sun or the full Moon, 8 bit, its sky clipped at black."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    disc = np.hypot(rows - 30, columns - 40) < radius
    moon = np.where(disc, rng.normal(180, 8, SHAPE), 0).clip(0, 255).round().astype(np.float32)

    assert without_borders(moon) is moon


def test_a_pixel_below_the_border_hides_it_not(sky: np.ndarray) -> None:
    """Interpolated and dark-subtracted frames have values below the 0 of their borders."""
    sky[:, :9] = 0
    sky[40, 50] = -3

    seen = without_borders(sky)

    assert np.isnan(seen[:, :9]).all()
    assert np.isfinite(seen[:, 9:]).all()


@pytest.mark.parametrize("turn_deg", [5, 30, 45])
def test_what_a_turn_leaves_empty_is_a_border(rng: np.random.Generator, turn_deg: float) -> None:
    """Turned within its own canvas, as a registered export is."""
    square = rng.normal(500, 10, (120, 120)).astype(np.float32)
    turn = cv2.getRotationMatrix2D((59.5, 59.5), turn_deg, 1)
    turned = cv2.warpAffine(square, turn, (120, 120), flags=cv2.INTER_NEAREST)

    assert np.array_equal(np.isnan(without_borders(turned)), turned == 0)


def test_a_frame_without_borders_is_passed_on(sky: np.ndarray) -> None:
    assert without_borders(sky) is sky
