"""Stars are found where they are, as bright and as wide as they are."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from stackd.imaging.stars import find_stars
from tests.imaging.sky import exposure, star_positions

SHAPE = (300, 360)
PIXEL_FWHM_PX = 0.68  # of the Gaussian that blurs as much as a pixel's square does


def nearest(stars, places):
    """Distance of each found star to the nearest true one, and which that is."""
    return cKDTree(places).query(np.column_stack([stars.x, stars.y]))


@pytest.mark.parametrize("fwhm_px", [1.3, 1.8, 2.8, 5.5])
def test_positions_fluxes_and_widths(fwhm_px):
    """Isolated bright stars to 0.05 px, their fluxes in proportion within 5 %, their width within 25 %."""
    rng = np.random.default_rng(10)
    y, x = (grid.ravel() for grid in np.mgrid[40:280:50, 40:340:50])
    places = np.column_stack([x, y]) + rng.uniform(-3, 3, (len(x), 2))
    fluxes = rng.uniform(2e4, 2e5, len(x))
    image = exposure(rng, places, fluxes, SHAPE, noise=10, fwhm_px=fwhm_px)

    stars = find_stars(image, 10.0)

    distance, which = nearest(stars, places)
    assert len(stars) == len(places)
    assert np.sqrt(np.mean(distance**2)) < 0.05
    ratio = stars.flux / fluxes[which]
    assert ratio.std() / ratio.mean() < 0.05
    assert np.median(stars.fwhm_px) == pytest.approx(np.hypot(fwhm_px, PIXEL_FWHM_PX), rel=0.25)
    assert np.all(np.diff(stars.flux) <= 0)


def test_noise_alone_holds_no_stars():
    """Hardly a false star in an empty frame."""
    noise = np.random.default_rng(11).normal(0, 20, (500, 500)).astype(np.float32)

    assert len(find_stars(noise, 20.0)) <= 2


def test_hot_pixels_and_cosmic_rays_are_not_stars():
    """Sharper than the optics allow: left out, even where they outnumber the stars."""
    rng = np.random.default_rng(12)
    places, fluxes = star_positions(rng, 30, SHAPE)
    image = exposure(rng, places, fluxes * 5, SHAPE, noise=8)
    hot = rng.integers(10, 290, (150, 2))
    image[hot[:, 0], hot[:, 1]] += 3000
    image[100, 200:209] += 2500

    stars = find_stars(image, 8.0)

    distance, _ = nearest(stars, places)
    assert np.mean(distance < 1.5) > 0.9
    assert len(stars) > 20


def test_a_gradient_and_a_nebula_do_not_hide_stars():
    """Wide light under the stars neither hides nor moves them."""
    rng = np.random.default_rng(13)
    places, fluxes = star_positions(rng, 40, SHAPE)
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    glow = 800 * np.exp(-((x - 180) ** 2 + (y - 150) ** 2) / 2 / 50**2) + 0.5 * x
    image = exposure(rng, places, fluxes * 10, SHAPE, noise=10) + glow.astype(np.float32)

    stars = find_stars(image, 10.0)

    distance, _ = nearest(stars, places)
    assert (distance < 0.5).sum() >= 30


def test_saturated_stars_are_flagged():
    """A clipped star stays in the list and says so."""
    rng = np.random.default_rng(14)
    places, fluxes = np.array([[100.0, 100.0], [200.0, 150.0]]), np.array([2e6, 2e4])
    image = np.minimum(exposure(rng, places, fluxes, SHAPE), 3e4)

    stars = find_stars(image, 10.0, saturation_adu=3e4)

    assert len(stars) == 2
    assert stars.saturated.tolist() == [True, False]


def test_what_was_not_seen_makes_no_star():
    """NaN regions neither raise nor give stars along their edge; an image of NaN gives none."""
    rng = np.random.default_rng(15)
    places, fluxes = star_positions(rng, 40, SHAPE)
    image = exposure(rng, places, fluxes * 5, SHAPE) + 0.0
    image[:, :100] = np.nan

    stars = find_stars(image, 10.0)

    assert stars.x.min() > 100
    assert len(find_stars(np.full(SHAPE, np.nan, np.float32), 1.0)) == 0


def test_a_trailed_frame_keeps_its_stars():
    """Where all stars are long, long is what a star looks like."""
    rng = np.random.default_rng(16)
    places, fluxes = star_positions(rng, 40, SHAPE, border=20)
    image = sum(exposure(rng, places + np.array([step, 0.0]), fluxes, SHAPE, noise=3) for step in np.linspace(-4, 4, 9))

    stars = find_stars(image, 9.0)

    assert len(stars) >= 25
    assert np.median(stars.ellipticity) > 0.4
