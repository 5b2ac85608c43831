"""The sky behind the stars: as true as so many pixels allow, whatever shines in it, and finite where nobody looked."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stackd.imaging.background import SCALES_PX, backgrounds
from stackd.imaging.psf import Psf
from stackd.imaging.skies import blur, splat, splat_otf

SHAPE = (240, 283)


def hill(height: float, width_px: float) -> NDArray[np.float64]:
    """A soft nebula in the middle."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return height * np.exp(-((y - 120) ** 2 + (x - 140) ** 2) / (2 * width_px**2))


def stars(rng: np.random.Generator, count: int, flux: float) -> NDArray[np.float32]:
    """Stars of one light in units of the noise, 3 px wide, all over the picture."""
    x, y = rng.uniform(0, SHAPE[1], count), rng.uniform(0, SHAPE[0], count)
    return blur(splat(SHAPE, x, y, np.full(count, flux)), Psf(3.0, 3.5).otf(SHAPE) / splat_otf(SHAPE))


def score_of(plane: NDArray[np.floating]) -> NDArray[np.float32]:
    """A filter of about a star's width over a plane of unit noise, in its own noise."""
    width_px = 1.3
    return cv2.GaussianBlur(plane.astype(np.float32), (0, 0), width_px) * np.float32(2 * np.sqrt(np.pi) * width_px)


def maps_of(plane: NDArray[np.floating]) -> NDArray[np.float32]:
    return backgrounds(plane.astype(np.float32), score_of(plane))


def rms(image: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(image[24:-24, 24:-24] ** 2)))


def test_a_flat_sky_is_known_the_better_the_larger_the_scale(rng: np.random.Generator) -> None:
    """Noise falls nearly as it must for means over so many pixels, and the level is right."""
    maps = maps_of(50 + rng.normal(0, 1, SHAPE))

    assert maps.shape == (len(SCALES_PX), *SHAPE)
    assert maps.dtype == np.float32
    for one, scale_px in zip(maps, SCALES_PX):
        assert rms(one - 50) < 3 / (2 * np.sqrt(np.pi) * scale_px)
        assert abs(np.median(one) - 50) < 0.05


def test_stars_leave_the_sky_alone(rng: np.random.Generator) -> None:
    """Stars that lift the mean sky by half of the noise: three quarters of that and more are cut out with them."""
    sky, light = rng.normal(0, 1, SHAPE), stars(rng, 60, 600.0)
    assert light.mean() > 0.5

    clean, starry = maps_of(sky), maps_of(sky + light)

    for one, other in zip(clean, starry):
        assert rms(other - one) < light.mean() / 4


@pytest.mark.parametrize(("scale", "width_px"), [(0, 25), (1, 45), (2, 100)])
def test_a_nebula_wider_than_the_scale_is_kept(rng: np.random.Generator, scale: int, width_px: float) -> None:
    """Its curve takes nothing from it: within 2 % of its peak where it is highest."""
    nebula = hill(40.0, width_px)

    maps = maps_of(nebula + rng.normal(0, 1, SHAPE))

    assert abs(maps[scale] - nebula)[100:140, 120:160].mean() < 0.02 * 40


def test_unseen_sky_is_filled_from_around(rng: np.random.Generator) -> None:
    """On a sloping sky with a strip and a hole that nobody saw, the seen part is as true as without them, up to their
    edge, and what is filled in is near; all of it unseen is nothing."""
    slope = np.broadcast_to(np.linspace(0, 100, SHAPE[1]), SHAPE)
    plane = slope + rng.normal(0, 1, SHAPE)
    holed = plane.copy()
    holed[:, :44] = np.nan
    holed[100:110, 150:170] = np.nan
    score = score_of(np.nan_to_num(holed)) + 0 * holed  # as fuse makes it: of a plane that holds 0 where it has nothing

    whole, maps = maps_of(plane), backgrounds(holed.astype(np.float32), score.astype(np.float32))

    assert np.isfinite(maps).all()
    for one, other in zip(maps, whole):
        assert abs(one - other)[:, 60:].max() < 5
        assert np.median(abs(one - other)[:, 120:]) < 0.1
        assert abs(one - slope)[:, 44:60].max() < 12
    unseen = backgrounds(*[np.full((20, 30), np.nan, np.float32)] * 2)
    np.testing.assert_array_equal(unseen, np.zeros_like(unseen))


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (17, 15)])
def test_any_size(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    """Also smaller than a cell or a Gaussian."""
    plane = rng.normal(3, 1, shape).astype(np.float32)

    maps = backgrounds(plane, plane - 3)

    assert maps.shape == (len(SCALES_PX), *shape)
    assert np.isfinite(maps).all()
    assert abs(maps[-1] - 3).max() < 2.5
