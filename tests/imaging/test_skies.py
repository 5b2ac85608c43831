"""Simulated skies: their light is all there, their truth is as sharp as it says, the seed decides everything."""

import numpy as np
import pytest
from scipy.special import ndtr

from stackd.imaging import skies
from stackd.imaging.psf import FWHM_PER_SIGMA
from stackd.imaging.skies import Sky, splat
from stackd.imaging.stars import find_stars

SHAPE = (96, 120)


def moments(image: np.ndarray) -> tuple[float, float, float]:
    """Sum, and centre x and y."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    total = float(image.sum())
    return total, float((image * x).sum() / total), float((image * y).sum() / total)


@pytest.mark.parametrize(("x", "y"), [(40.0, 30.0), (40.5, 30.5), (41.27, 29.86)])
def test_a_drawn_star_has_its_light_and_place(x: float, y: float) -> None:
    """Flux to 1e-5, position to a hundredth of a pixel, wherever on a pixel it falls."""
    total, centre_x, centre_y = moments(splat(SHAPE, np.array([x]), np.array([y]), np.array([500.0])))

    assert total == pytest.approx(500, rel=1e-5)
    assert centre_x == pytest.approx(x, abs=0.01)
    assert centre_y == pytest.approx(y, abs=0.01)


def test_stars_beyond_the_edge_leave_only_what_reaches_in(rng: np.random.Generator) -> None:
    """Nothing wraps around, nothing is lost inside: a crop of a wider field is the field's crop."""
    x, y, flux = rng.uniform(-30, 150, 80), rng.uniform(-30, 130, 80), rng.uniform(1, 9, 80)

    wide = splat((200, 220), x + 40, y + 40, flux)

    np.testing.assert_allclose(splat(SHAPE, x, y, flux), wide[40 : 40 + SHAPE[0], 40 : 40 + SHAPE[1]], atol=1e-4)


@pytest.mark.parametrize("target_px", [2.0, 3.0])
def test_the_truth_is_as_sharp_as_asked(target_px: float, rng: np.random.Generator) -> None:
    """Stars of the truth have the target width and up to 10 % more for the pixels' own, and their full flux."""
    y, x = (grid.ravel() for grid in np.mgrid[15:85:17, 15:110:17])
    x, y = x + rng.uniform(-0.5, 0.5, len(x)), y + rng.uniform(-0.5, 0.5, len(x))
    sky = Sky(np.zeros((1, *SHAPE), np.float32), x, y, np.full((1, len(x)), 3e4))

    truth = sky.truth(target_px)

    assert truth.shape == (1, *SHAPE)
    assert truth.dtype == np.float32
    assert truth.sum() == pytest.approx(3e4 * len(x), rel=1e-4)
    stars = find_stars(truth[0], 1.0)
    assert len(stars) == len(x)
    assert target_px <= np.median(stars.fwhm_px) <= 1.1 * target_px
    assert truth.min() > -0.002 * truth.max()  # no rings


def test_the_truths_stars_are_gaussians_integrated_over_pixels() -> None:
    """Within a quarter per cent of their peaks, wherever on a pixel they stand."""
    for x, y in [(50.0, 40.0), (50.5, 40.5), (50.25, 39.7)]:
        star = Sky(np.zeros((1, *SHAPE), np.float32), np.array([x]), np.array([y]), np.array([[1000.0]]))

        truth = star.truth(2.0)[0]

        along, across = (
            np.diff(ndtr((np.arange(size + 1) - 0.5 - place) * FWHM_PER_SIGMA / 2.0))
            for size, place in zip(SHAPE, (y, x))
        )
        want = 1000 * along[:, None] * across[None, :]
        np.testing.assert_allclose(truth, want, atol=0.0025 * want.max())


def test_the_truth_is_the_sum_of_its_parts(rng: np.random.Generator) -> None:
    """Bands apart, diffuse light and stars added; diffuse light keeps its sum."""
    diffuse = rng.uniform(0, 5, (3, *SHAPE)).astype(np.float32)
    x, y, flux = rng.uniform(10, 80, 9), rng.uniform(10, 80, 9), rng.uniform(50, 900, (3, 9))
    dark = np.zeros_like(diffuse)

    both = Sky(diffuse, x, y, flux).truth(2.0)

    parts = Sky(diffuse, x[:0], y[:0], flux[:, :0]).truth(2.0) + Sky(dark, x, y, flux).truth(2.0)
    np.testing.assert_allclose(both, parts, atol=1e-2)
    np.testing.assert_allclose(both.sum((1, 2)), diffuse.sum((1, 2)) + flux.sum(1), rtol=1e-4)


def test_the_seed_decides_the_sky() -> None:
    """Clouds, galaxies and stars come alike from a like generator, otherwise from another."""

    def sky(seed: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng(seed)
        return skies.procedural(SHAPE, 3, rng, 800.0), *skies.star_catalogue(SHAPE, 3, rng, 3000, (50, 1e5))

    for one, again in zip(sky(4), sky(4)):
        np.testing.assert_array_equal(one, again)
    assert not np.array_equal(sky(4)[0], sky(5)[0])


@pytest.mark.parametrize("bands", [1, 3])
def test_procedural_skies_are_light(bands: int) -> None:
    """Nowhere negative, nowhere undefined, about as bright as asked wherever there is anything."""
    for seed in range(12):
        sky = skies.procedural(SHAPE, bands, np.random.default_rng(seed), 500.0)

        assert sky.shape == (bands, *SHAPE)
        assert sky.dtype == np.float32
        assert np.isfinite(sky).all()
        assert sky.min() >= 0
        assert not sky.any() or np.quantile(sky, 0.999) == pytest.approx(500, rel=0.01)


def test_star_counts_follow_their_law() -> None:
    """As many as asked, within the ends, twice as many above half the flux."""
    x, y, flux = skies.star_catalogue((1000, 1000), 1, np.random.default_rng(8), 20_000, (100, 1e6))

    assert len(x) == pytest.approx(20_000, rel=0.03)
    assert flux.min() >= 100
    assert flux.max() <= 1e6
    assert (flux > 200).sum() / len(x) == pytest.approx(0.5, abs=0.02)
    assert (flux > 2000).sum() / len(x) == pytest.approx(0.05, abs=0.01)
    assert (x.min() >= 0, x.max() <= 1000, y.min() >= 0, y.max() <= 1000) == (True,) * 4


@pytest.mark.parametrize("size", [(50, 60), (96, 120), (400, 300)])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_clean_picture_becomes_a_sky(size: tuple[int, int], bands: int, rng: np.random.Generator) -> None:
    """Pictures of any size, smaller ones too; as bright as asked, its darkest part the empty sky."""
    picture = rng.random((*size, 3)).astype(np.float32)

    sky = skies.from_picture(picture, SHAPE, bands, rng, 1000.0)

    assert sky.shape == (bands, *SHAPE)
    assert sky.dtype == np.float32
    assert sky.min() == 0
    assert np.quantile(sky, 0.999) == pytest.approx(1000, rel=0.05)


def test_a_softened_sky_keeps_no_points(rng: np.random.Generator) -> None:
    """What could pass for a star that the catalogue does not know is gone; the light stays."""
    diffuse = np.zeros((1, *SHAPE), np.float32)
    diffuse[0, 40, 50] = 1000

    soft = skies.soften(diffuse, 12.0)

    assert soft.max() < 10
    assert soft.sum() == pytest.approx(1000, rel=0.01)
