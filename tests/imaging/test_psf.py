"""The star profile: its algebra against plain sums, and its fit against stars drawn by another hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stackd.imaging.psf import Psf, frequencies, gaussian_otf, target_otf, transfer
from stackd.imaging.psf_fit import fit_psf

SHAPE = (220, 240)
NOISE_ADU = 5.0

shapes_of_stars = st.builds(
    Psf,
    fwhm_px=st.floats(1.5, 7),
    beta=st.floats(2.2, 6),
    ellipticity=st.floats(0, 0.4),
    angle_rad=st.floats(0, np.pi),
)


def moffat(dx: NDArray[np.float64], dy: NDArray[np.float64], psf: Psf) -> NDArray[np.float64]:
    """Density per px^2 of a star of unit flux at offsets, written from the definition: semi-axes of the half-light
    contour fwhm / 2 / sqrt(1 - e) and fwhm / 2 * sqrt(1 - e)."""
    long_px, short_px = (psf.fwhm_px / 2 * (1 - psf.ellipticity) ** p for p in (-0.5, 0.5))
    u = dx * np.cos(psf.angle_rad) + dy * np.sin(psf.angle_rad)
    v = dy * np.cos(psf.angle_rad) - dx * np.sin(psf.angle_rad)
    growth = 2 ** (1 / psf.beta) - 1
    whole = np.pi * long_px * short_px / growth / (psf.beta - 1)
    return (1 + growth * ((u / long_px) ** 2 + (v / short_px) ** 2)) ** -psf.beta / whole


def draw(places: NDArray[np.float64], fluxes: NDArray[np.float64], psf: Psf, shape=SHAPE) -> NDArray[np.float64]:
    """Stars summed over 4 x 4 points a pixel, no noise (H, W)."""
    image = np.zeros(shape)
    fine = (np.arange(4) - 1.5) / 4
    for (x, y), flux in zip(places, fluxes):
        left, top = max(round(x) - 25, 0), max(round(y) - 25, 0)
        columns, rows = np.arange(left, min(round(x) + 26, shape[1])), np.arange(top, min(round(y) + 26, shape[0]))
        dx, dy = (columns[:, None] + fine - x).ravel(), (rows[:, None] + fine - y).ravel()
        density = moffat(dx[None, :], dy[:, None], psf).reshape(len(rows), 4, len(columns), 4).mean((1, 3))
        image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += flux * density
    return image


def grid_of_stars(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lonely stars all over SHAPE, (n, 2) x and y, and their fluxes."""
    y, x = (grid.ravel() for grid in np.mgrid[25:200:34, 25:220:34])
    places = np.column_stack([x, y]) + rng.uniform(-3, 3, (len(x), 2))
    return places, rng.uniform(2e4, 1.2e5, len(x))


def fitted(image: NDArray[np.float64], places, fluxes, rng, **options) -> Psf | None:
    noisy = (image + rng.normal(0, NOISE_ADU, image.shape)).astype(np.float32)
    return fit_psf(noisy, places[:, 0], places[:, 1], fluxes, NOISE_ADU, **options)


@settings(max_examples=25, deadline=None)
@given(psf=shapes_of_stars, radius_px=st.integers(3, 32))
def test_a_stamp_holds_the_whole_star(psf: Psf, radius_px: int) -> None:
    """Unit sum, nothing negative, point-symmetric about its middle pixel."""
    stamp = psf.stamp(radius_px)

    assert stamp.shape == (2 * radius_px + 1, 2 * radius_px + 1)
    assert stamp.sum() == pytest.approx(1, abs=1e-12)
    assert stamp.min() >= 0
    np.testing.assert_allclose(stamp, stamp[::-1, ::-1], atol=1e-12)


def test_a_stamp_is_the_profile_integrated_over_pixels() -> None:
    """As a camera does it; the long axis lies where `angle_rad` says, in the array's own x and y."""
    psf = Psf(2.6, 3.4, 0.3, 0.6)

    stamp = psf.stamp(30)

    want = draw(np.array([[30.0, 30.0]]), np.ones(1), psf, (61, 61))
    np.testing.assert_allclose(stamp, want / want.sum(), atol=2e-4)


def test_the_width_at_half_of_the_peak_is_the_fwhm() -> None:
    """Read off a wide, finely sampled star along x."""
    row = Psf(40.0, 2.7).stamp(80)[80]

    above = np.interp(0.5, row[160:79:-1] / row[80], np.arange(80, -1, -1))

    assert 2 * above == pytest.approx(40, rel=0.002)


@settings(max_examples=25, deadline=None)
@given(psf=shapes_of_stars, height=st.integers(5, 90), width=st.integers(5, 90))
def test_transfer_functions_keep_all_light(psf: Psf, height: int, width: int) -> None:
    """1 at zero frequency, never more anywhere; odd and even sizes alike."""
    otf = psf.otf((height, width))

    assert otf.shape == (height, width // 2 + 1)
    assert otf[0, 0] == pytest.approx(1, abs=1e-9)
    assert np.abs(otf).max() <= 1 + 1e-9
    assert np.abs(otf.imag).max() < 1e-9  # a star's middle stays where it is


def test_a_transfer_function_convolves() -> None:
    """A point through it becomes the stamp, at the same place."""
    psf = Psf(3.0, 3.0, 0.2, 1.0)
    point = np.zeros((81, 90))
    point[40, 50] = 1

    blurred = np.fft.irfft2(np.fft.rfft2(point) * psf.otf(point.shape), point.shape)

    np.testing.assert_allclose(blurred[8:73, 18:83], psf.stamp(32), atol=1e-12)
    np.testing.assert_allclose(transfer(psf.stamp(32), point.shape), psf.otf(point.shape))


@settings(max_examples=25, deadline=None)
@given(fwhm_px=st.floats(1.5, 5), beta=st.floats(2.2, 6), radius_px=st.floats(2, 20))
def test_the_share_within_a_radius(fwhm_px: float, beta: float, radius_px: float) -> None:
    """As a sum of the profile over rings gives it."""
    psf = Psf(fwhm_px, beta)
    edges = np.linspace(0, radius_px, 20_001)
    middle = (edges[1:] + edges[:-1]) / 2

    summed = (2 * np.pi * middle * moffat(middle, np.zeros_like(middle), psf) * np.diff(edges)).sum()

    assert psf.share_within(radius_px) == pytest.approx(summed, rel=1e-4)


def test_stars_off_the_middle_of_a_pixel() -> None:
    """`at` draws them where they are, with the light beyond the stamp counted as part of the unit flux."""
    psf = Psf(2.8, 3.1, 0.25, 2.0)
    dx, dy = np.array([0.0, 0.37, -0.5]), np.array([0.0, -0.21, 0.5])

    stamps = psf.at(dx, dy, 10)

    for stamp, x, y in zip(stamps, dx, dy):
        want = draw(np.array([[10 + x, 10 + y]]), np.ones(1), psf, (21, 21))
        np.testing.assert_allclose(stamp, want, atol=1e-3)
    assert (stamps.sum((1, 2)) < 1).all()
    assert stamps[0].sum() == pytest.approx(psf.share_within(10.5 * 2 / np.sqrt(np.pi)), abs=0.003)


@pytest.mark.parametrize("fwhm_px", [1.0, 2.0, 4.0])
def test_a_restored_star_has_the_target_width(fwhm_px: float) -> None:
    """The target is a Gaussian of that FWHM, integrated over pixels: variances add, light stays."""
    shape = (64, 80)
    ky, kx = frequencies(shape)

    star = np.fft.fftshift(np.fft.irfft2(target_otf(shape, fwhm_px), shape))

    y, x = np.mgrid[:64, :80] - np.array([32, 40])[:, None, None]
    assert star.sum() == pytest.approx(1)
    want = (fwhm_px / 2.354820045) ** 2 + 1 / 12
    assert (star * x**2).sum() == pytest.approx(want, rel=0.03)
    assert (star * y**2).sum() == pytest.approx(want, rel=0.03)
    np.testing.assert_allclose(target_otf(shape, fwhm_px), gaussian_otf(shape, fwhm_px) * np.sinc(ky) * np.sinc(kx))


@pytest.mark.parametrize(
    "psf", [Psf(1.9, 3.0), Psf(3.0, 2.5, 0.15, 0.4), Psf(3.2, 4.2, 0.25, 2.2), Psf(4.6, 3.3, 0.1, 1.3)], ids=str
)
def test_the_fit_finds_the_shape_of_the_stars(psf: Psf, rng: np.random.Generator) -> None:
    """Width to 2 %, beta to 0.3, ellipticity to 0.02 and the long axis to some degrees, of bright lonely stars."""
    places, fluxes = grid_of_stars(rng)

    found = fitted(draw(places, fluxes, psf), places, fluxes, rng)

    assert found is not None
    assert found.fwhm_px == pytest.approx(psf.fwhm_px, rel=0.02)
    assert found.beta == pytest.approx(psf.beta, abs=0.3)
    assert found.ellipticity == pytest.approx(psf.ellipticity, abs=0.02)
    turned = (found.angle_rad - psf.angle_rad + np.pi / 2) % np.pi - np.pi / 2
    assert psf.ellipticity == 0 or abs(turned) < 0.1
    assert found.stars > 20


def lopsided(places: NDArray[np.float64], fluxes: NDArray[np.float64], shape=SHAPE) -> NDArray[np.float64]:
    """Stars with a tail to the right and down, whose centre of light is their place."""
    parts = ((0.7, -0.6, -0.3), (0.3, 1.4, 0.7))
    return sum(draw(places + np.array([dx, dy]), share * fluxes, Psf(2.2, 3.0), shape) for share, dx, dy in parts)


@pytest.mark.parametrize("noise_adu", [NOISE_ADU, 10 * NOISE_ADU])
def test_the_shape_of_lopsided_stars_is_known(noise_adu: float, rng: np.random.Generator) -> None:
    """A tail that no ellipse has: the table beside the profile leaves less than a third of what the profile leaves."""
    places, fluxes = grid_of_stars(rng)
    truth = lopsided(np.array([[12.0, 12.0]]), np.ones(1), (25, 25))
    image = (lopsided(places, fluxes) + rng.normal(0, noise_adu, SHAPE)).astype(np.float32)

    found = fit_psf(image, places[:, 0], places[:, 1], fluxes, noise_adu)

    assert found is not None
    wrong = np.abs(found.stamp(12) - truth).sum()
    without = np.abs(replace(found, table=None).stamp(12) - truth).sum()
    assert wrong < without / 3
    assert wrong < 0.04
    assert found.stamp(12).sum() == pytest.approx(1)
    assert found.stamp(3).sum() == pytest.approx(1)
    cut = found.stamp(12)[9:16, 9:16]
    np.testing.assert_allclose(found.stamp(3), cut / cut.sum(), atol=1e-12)


def test_the_table_holds_no_noise_and_needs_stars(rng: np.random.Generator) -> None:
    """Moffat stars leave next to nothing in it, seven stars none, and a neighbour of a few of them is not theirs."""
    places, fluxes = grid_of_stars(rng)
    image = draw(places, fluxes, Psf(2.8, 3.2, 0.1, 0.5))
    image += draw(places[::6] + np.array([4.0, 0.0]), 0.2 * fluxes[::6], Psf(2.8, 3.2))

    found, few = fitted(image, places, fluxes, rng), fitted(image, places[1:8], fluxes[1:8], rng)

    assert found is not None and few is not None
    assert few.table is None
    assert np.abs(found.table).max() < 0.005 * found.stamp(12).max()


def test_faint_neighbours_do_not_pass_for_wings(rng: np.random.Generator) -> None:
    """A crowd of stars too faint for the list: the width stays within 3 %, beta within 0.35."""
    psf = Psf(3.0, 3.5, 0.1, 0.5)
    places, fluxes = grid_of_stars(rng)
    faint = np.column_stack([rng.uniform(0, SHAPE[1], 1000), rng.uniform(0, SHAPE[0], 1000)])
    crowd = draw(faint, rng.uniform(300, 2500, 1000), psf)

    found = fitted(draw(places, fluxes, psf) + crowd, places, fluxes, rng)

    assert found is not None
    assert found.fwhm_px == pytest.approx(psf.fwhm_px, rel=0.03)
    assert found.beta == pytest.approx(psf.beta, abs=0.35)


def test_saturated_stars_and_unseen_pixels_are_passed_over(rng: np.random.Generator) -> None:
    """Stars cut off at the top, and stars on a hole, change nothing."""
    psf = Psf(3.0, 3.0)
    places, fluxes = grid_of_stars(rng)
    fluxes[::4] *= 8
    image = np.minimum(draw(places, fluxes, psf), 12_000)
    image[60:70] = np.nan

    found = fitted(image, places, fluxes, rng, peak_below_adu=11_500)

    assert found is not None
    assert found.fwhm_px == pytest.approx(3.0, rel=0.03)


def test_a_tilted_ground_is_no_wing(rng: np.random.Generator) -> None:
    """Stars on a steep slope of nebula keep their width and their beta."""
    places, fluxes = grid_of_stars(rng)
    slope = 40.0 * np.mgrid[: SHAPE[0], : SHAPE[1]][1]

    found = fitted(draw(places, fluxes, Psf(2.8, 3.2)) + slope, places, fluxes, rng)

    assert found is not None
    assert found.fwhm_px == pytest.approx(2.8, rel=0.03)
    assert found.beta == pytest.approx(3.2, abs=0.35)


def test_without_stars_there_is_no_shape(rng: np.random.Generator) -> None:
    """No list, a list of two, and a list of places where there is only noise: None, not a guess."""
    places, fluxes = grid_of_stars(rng)
    empty = np.zeros(SHAPE)

    assert fitted(empty, np.empty((0, 2)), np.empty(0), rng) is None
    assert fitted(draw(places[:2], fluxes[:2], Psf(3.0)), places[:2], fluxes[:2], rng) is None
    assert fitted(empty, places, fluxes, rng) is None
