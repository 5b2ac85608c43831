"""Black borders are no sky; a dark sky is no border."""

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


def test_a_frame_without_borders_is_passed_on(sky: np.ndarray) -> None:
    assert without_borders(sky) is sky
