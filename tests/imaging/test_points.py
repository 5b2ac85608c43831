"""True stars told from knots of nebula by their widths."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from stackd.imaging.points import _narrowest_group, _Widths, find_points
from stackd.imaging.psf import Psf
from stackd.imaging.skies import blur, splat, splat_otf

SHAPE = (360, 380)
NOISE_ADU = 5.0


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(8)


def places(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Apart from each other: cells of a grid, each with one source somewhere in its middle."""
    y, x = (grid.ravel() for grid in np.mgrid[30:330:30, 30:350:30])
    which = rng.permutation(len(x))[:count]
    return x[which] + rng.uniform(-5, 5, count), y[which] + rng.uniform(-5, 5, count)


def sources(x, y, flux, fwhm_px: float) -> NDArray[np.float32]:
    return blur(splat(SHAPE, x, y, flux), Psf(fwhm_px, 3.2).otf(SHAPE) / splat_otf(SHAPE))


def noisy(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    return (image + rng.normal(0, NOISE_ADU, SHAPE)).astype(np.float32)


def in_normal_order(count: int) -> NDArray[np.float64]:
    """As spread as so many normal numbers are, by no chance."""
    return norm.ppf((np.arange(count) + 0.5) / count)


def test_few_stars_among_many_knots(rng: np.random.Generator) -> None:
    """Ten stars of 3 px among seventy knots of 4.5 to 9 px: the stars are taken, no knot is."""
    x, y = places(rng, 80)
    flux = rng.uniform(8e3, 8e4, 80)
    image = sources(x[:10], y[:10], flux[:10], 3.0)
    for n in range(10, 80):
        image += sources(x[n : n + 1], y[n : n + 1], 3 * flux[n : n + 1], rng.uniform(4.5, 9))

    points = find_points(noisy(image, rng), NOISE_ADU, np.inf, 6.0)

    distance = np.hypot(points.x[:, None] - x[:10], points.y[:, None] - y[:10]).min(1)
    assert len(points) >= 7
    assert distance.max() < 0.5
    assert np.median(points.fwhm_px) == pytest.approx(3.0, rel=0.04)


def test_stars_fainter_than_hundreds_of_knots(rng: np.random.Generator) -> None:
    """A nebula's 420 bright knots of 5 to 8 px fill the left; thirty faint stars of 3 px beside it tell the width."""
    rows, columns = (grid.ravel() for grid in np.mgrid[20:340:15, 20:270:13])
    flux, which = rng.uniform(1e5, 2e5, len(rows)), rng.integers(6, size=len(rows))
    image = np.zeros(SHAPE, np.float32)
    for n, fwhm_px in enumerate(np.linspace(5, 8, 6)):
        image += sources(columns[which == n], rows[which == n], flux[which == n], fwhm_px)
    y, x = (grid.ravel()[:30] + rng.uniform(-4, 4, 30) for grid in np.mgrid[25:345:30, 300:370:25])

    points = find_points(noisy(image + sources(x, y, np.full(30, 6e3), 3.0), rng), NOISE_ADU, np.inf, 6.0)

    assert (points.x > 280).all()
    assert np.median(points.fwhm_px) == pytest.approx(3.0, rel=0.05)


def test_well_known_widths_tell_more() -> None:
    """Ten stars of 3.1 px, known to 3 %; the widths of 290 knots around 4.1 px, known to 8 %, run down to theirs."""
    widths_px = np.r_[3.1 + 0.09 * in_normal_order(10), 4.1 + 0.24 * in_normal_order(290)]
    error, ones = np.r_[np.full(10, 0.03), np.full(290, 0.08)], np.ones(300)

    group = _narrowest_group(_Widths(np.log(widths_px), error, 1e4 * ones, 50 * ones, 0.03 * ones))

    assert np.median(widths_px[group]) == pytest.approx(3.1, rel=0.03)


@pytest.mark.parametrize("fwhm_px", [1.6, 2.5, 4.0, 7.0])
def test_a_field_of_stars_is_all_points(fwhm_px: float, rng: np.random.Generator) -> None:
    """Whatever the seeing; widths to 8 % (undersampled ones pass for narrower), fluxes to 15 %, on a bright slope."""
    x, y = places(rng, 60)
    flux = rng.uniform(2e4, 8e4, 60)
    slope = 3 * np.mgrid[: SHAPE[0], : SHAPE[1]][1].astype(np.float32)

    points = find_points(noisy(sources(x, y, flux, fwhm_px) + slope, rng), NOISE_ADU, np.inf, fwhm_px)

    nearest = np.hypot(points.x[:, None] - x, points.y[:, None] - y).argmin(1)
    assert len(points) > 35
    assert np.median(points.fwhm_px) == pytest.approx(fwhm_px, rel=0.08)
    assert np.median(points.flux / flux[nearest]) == pytest.approx(1, abs=0.15)


def test_saturated_and_half_seen_stars_are_left_out(rng: np.random.Generator) -> None:
    """What is cut off at the top or reaches into a hole tells nothing of its width."""
    x, y = places(rng, 60)
    flux = rng.uniform(2e4, 8e4, 60)
    flux[:5] = 1e6
    image = noisy(np.minimum(sources(x, y, flux, 3.0), 30_000), rng)
    image[100:110] = np.nan

    points = find_points(image, NOISE_ADU, 25_000, 3.0)

    assert np.hypot(points.x[:, None] - x[:5], points.y[:, None] - y[:5]).min() > 2
    assert (np.abs(points.y - 104.5) > 6).all()


def test_noise_and_smooth_light_have_no_points(rng: np.random.Generator) -> None:
    """An empty sky, a hill of light and a blank picture."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    hill = 3000 * np.exp(-((x - 190) ** 2 + (y - 180) ** 2) / 2 / 60**2)

    for image in (np.zeros(SHAPE), hill):
        assert len(find_points(noisy(image.astype(np.float32), rng), NOISE_ADU, np.inf, np.nan)) == 0
    assert len(find_points(np.zeros(SHAPE, np.float32), 1.0, np.inf, 0.0)) == 0
