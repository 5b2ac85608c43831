"""Two skies are brought to one level by a plane, whatever stars and clouds say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stackd.imaging.level import light_ratio, tilt_between
from tests.imaging.sky import picture, star_positions

SHAPE = (256, 320)
NOISE_ADU = 10.0


def plane(level: float, across: float, down: float, shape=SHAPE) -> NDArray[np.float64]:
    """Level in the middle, then the rise from edge to edge along x and y."""
    y, x = np.linspace(-0.5, 0.5, shape[0])[:, None], np.linspace(-0.5, 0.5, shape[1])[None, :]
    return level + across * x + down * y


def noise(rng: np.random.Generator, shape=SHAPE) -> NDArray[np.float64]:
    return rng.normal(0, NOISE_ADU, shape)


@settings(max_examples=15, deadline=None)
@given(level=st.floats(-80, 80), across=st.floats(-300, 300), down=st.floats(-300, 300), seed=st.integers(0, 99))
def test_a_plane_is_found_within_the_noise(level: float, across: float, down: float, seed: int) -> None:
    """Level and both slopes to a small part of one pixel's noise."""
    rng = np.random.default_rng(seed)
    truth = plane(level, across, down)

    found = tilt_between((truth + noise(rng)).astype(np.float32), noise(rng).astype(np.float32))

    assert found.dtype == np.float32
    # the cells' pixels of one plane lie on both sides of their middle: a median sees their mean
    assert np.abs(found - truth).max() < 0.1 * NOISE_ADU + 0.01 * (abs(across) + abs(down))


def test_stars_and_a_cloud_do_not_tilt_the_sky(rng: np.random.Generator) -> None:
    """Seeing that differs and a cloud in a corner: near the open sky's plane, five times nearer than least squares."""
    places, fluxes = star_positions(rng, 150, SHAPE)
    sharp, soft = (picture(places, fluxes * 3, SHAPE, fwhm_px) for fwhm_px in (2.2, 4.0))
    truth = plane(20, 60, -40)
    cloudy = soft + truth + noise(rng)
    cloudy[:50, :70] += 400

    found = tilt_between(cloudy.astype(np.float32), (sharp + noise(rng)).astype(np.float32))

    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    design = np.stack([np.ones(x.size), x.ravel(), y.ravel()], 1)
    naive = design @ np.linalg.lstsq(design, (cloudy - sharp).ravel(), rcond=None)[0]
    off = np.abs(found - truth).max()
    assert off < 1.5 * NOISE_ADU
    assert off < np.abs(naive.reshape(SHAPE) - truth).max() / 5


def test_single_unseen_pixels_hide_no_sky(rng: np.random.Generator) -> None:
    """A bad-pixel mask leaves a gap in every cell: the plane is found all the same."""
    truth = plane(30, 50, 50)
    image, reference = ((t + noise(rng)).astype(np.float32) for t in (truth, 0 * truth))
    image[rng.random(SHAPE) < 0.01] = np.nan

    assert np.abs(tilt_between(image, reference) - truth).max() < 3


def test_unseen_parts_are_left_out(rng: np.random.Generator) -> None:
    """Half of a frame without sky: the plane is that of the other half, and is given everywhere."""
    truth = plane(30, 50, 50)
    image = (truth + noise(rng)).astype(np.float32)
    image[:, :140] = np.nan

    found = tilt_between(image, noise(rng).astype(np.float32))

    assert np.isfinite(found).all()
    assert np.abs(found - truth)[:, 140:].max() < 0.2 * NOISE_ADU


@pytest.mark.parametrize("shape", [(20, 30), (64, 64), (31, 400)])
def test_too_little_in_common_gives_no_plane(shape: tuple[int, int], rng: np.random.Generator) -> None:
    """Tiny pictures are left as they are."""
    found = tilt_between((plane(50, 9, 9, shape) + noise(rng, shape)).astype(np.float32), np.zeros(shape, np.float32))

    assert found.shape == shape
    assert not found.any()


@pytest.mark.parametrize("share", [0.3, 0.8, 1.4])
def test_light_without_stars(share: float, rng: np.random.Generator) -> None:
    """A dimmed nebula with holes in it tells the share of light to 3 %."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    glow = 400 * np.exp(-((x - 150) ** 2 + (y - 120) ** 2) / 5000)
    frame = (share * glow + 12 + noise(rng)).astype(np.float32)
    frame[100:130, 40:60] = np.nan

    assert light_ratio(frame, (glow + noise(rng)).astype(np.float32)) == pytest.approx(share, rel=0.03)


def test_an_empty_sky_tells_no_light(rng: np.random.Generator) -> None:
    """Noise on noise says nothing: the frame counts as it is."""
    one, other = (noise(rng).astype(np.float32) for _ in range(2))

    assert light_ratio(one, other) == 1
    assert light_ratio(np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)) == 1
