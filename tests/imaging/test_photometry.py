"""Fluxes by profile fitting: a frame's transparency comes out whatever the seeing was."""

import cv2
import numpy as np
import pytest

from stackd.imaging.photometry import relative_light, star_fluxes
from stackd.imaging.psf import Psf
from tests.imaging.sky import picture, star_positions

SHAPE = (240, 260)
NOISE_ADU = 10.0


def field(rng: np.random.Generator, count: int = 40):
    places, fluxes = star_positions(rng, count, SHAPE, border=15)
    return places, 5 * fluxes


def exposed(rng, places, fluxes, fwhm_px: float, share: float = 1.0, level: float = 0.0) -> np.ndarray:
    """A frame of beta 3 stars with noise, photons' included."""
    light = share * picture(places, fluxes, SHAPE, fwhm_px)
    noise = np.sqrt(NOISE_ADU**2 + np.maximum(light, 0))
    return (light + level + rng.normal(0, 1, SHAPE) * noise).astype(np.float32)


@pytest.mark.parametrize("fwhm_px", [2.0, 3.0, 4.5])
def test_a_lonely_stars_light(fwhm_px: float, rng: np.random.Generator) -> None:
    """What the profile holds within the radius, on any level of sky."""
    y, x = (grid.ravel() for grid in np.mgrid[30:220:60, 30:240:60])
    places = np.column_stack([x, y]) + rng.uniform(-0.5, 0.5, (len(x), 2))
    psf = Psf(fwhm_px, 3.0)

    found = star_fluxes(exposed(rng, places, np.full(len(x), 1e5), fwhm_px, level=70), psf, *places.T)

    assert np.median(found) == pytest.approx(1e5 * psf.share_within(psf.light_radius_px), rel=0.01)


@pytest.mark.parametrize(("fwhm_px", "share", "within"), [(2.2, 0.5, 0.01), (3.1, 0.8, 0.015), (4.6, 1.2, 0.05)])
def test_transparency_hardly_depends_on_seeing(fwhm_px: float, share: float, within: float) -> None:
    """Within 1 % in like seeing, within 5 % in one nearly twice as wide, whose light beyond the radius nobody counts;
    an aperture would be off by three times as much."""
    profile, aperture = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        places, fluxes = field(rng)
        reference = exposed(rng, places, fluxes, 2.6)
        frame = exposed(rng, places, fluxes, fwhm_px, share, level=-20)
        here, there = (star_fluxes(i, Psf(f, 3.0), *places.T) for i, f in ((frame, fwhm_px), (reference, 2.6)))
        profile.append(relative_light(here, there))
        sums = [
            cv2.blur(i - np.median(i), (7, 7))[tuple(np.round(places.T[::-1]).astype(int))] for i in (frame, reference)
        ]
        aperture.append(relative_light(*sums))

    assert np.mean(profile) == pytest.approx(share, rel=within)
    assert np.std(profile) < 0.01 * share
    assert fwhm_px < 3 or abs(np.mean(aperture) - share) > 3 * abs(np.mean(profile) - share)


def test_little_light_is_measured_too(rng: np.random.Generator) -> None:
    """Clouds that let a seventh through: within 2 %."""
    places, fluxes = field(rng)
    here, there = (
        star_fluxes(exposed(rng, places, fluxes, 2.8, share), Psf(2.8, 3.0), *places.T) for share in (0.15, 1.0)
    )

    assert relative_light(here, there) == pytest.approx(0.15, rel=0.02)


def test_unseen_and_outside_is_no_number(rng: np.random.Generator) -> None:
    """Stars on a hole, at the rim or beyond it have no flux; the others keep theirs."""
    places = np.array([[50.0, 60.0], [150.0, 60.0], [2.0, 100.0], [-40.0, 10.0], [150.0, 400.0], [258.0, 120.0]])
    image = exposed(rng, places, np.full(6, 1e5), 3.0)
    image[58:60, 148:150] = np.nan

    found = star_fluxes(image, Psf(3.0, 3.0), *places.T)

    assert np.isfinite(found).tolist() == [True, False, False, False, False, False]
    assert np.isnan(star_fluxes(image, Psf(3.0, 3.0), *places[2:].T)).all()
    assert star_fluxes(image, Psf(3.0, 3.0), np.empty(0), np.empty(0)).shape == (0,)


def test_one_odd_star_decides_nothing(rng: np.random.Generator) -> None:
    """A variable, a star under a trail and stars without a number: the light of the many."""
    reference = rng.uniform(1e3, 1e5, 30)
    here = 0.6 * reference * rng.normal(1, 0.01, 30)
    here[np.argmax(reference)] *= 5
    here[3], here[4], here[5] = np.nan, -200.0, 0.0

    assert relative_light(here, reference) == pytest.approx(0.6, rel=0.01)


def test_too_few_stars_tell_nothing() -> None:
    """Below three common stars there is no answer."""
    assert relative_light(np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.0, 3.0])) is None
    assert relative_light(np.empty(0), np.empty(0)) is None
    assert relative_light(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])) == pytest.approx(0.5)
