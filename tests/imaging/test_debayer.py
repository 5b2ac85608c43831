"""Debayering keeps what was measured and invents as little as it can."""

import numpy as np
import pytest

from stackd.imaging.debayer import PATTERNS, debayer
from tests.imaging.sky import picture

INNER = np.s_[:, 3:-3, 3:-3]


def mosaic_of(colour, pattern):
    """What a sensor with this pattern sees of (3, H, W)."""
    raw = np.empty(colour.shape[1:], np.float32)
    for index, band in enumerate(pattern):
        site = np.s_[index // 2 :: 2, index % 2 :: 2]
        raw[site] = colour["RGB".index(band)][site]
    return raw


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_flat_colour_is_exact(pattern):
    """Every pattern gives back an even colour to float precision, odd sizes and the edge included."""
    colour = np.ones((3, 31, 40), np.float32) * np.array([500, 90, 7], np.float32)[:, None, None]

    assert np.allclose(debayer(mosaic_of(colour, pattern), pattern), colour, rtol=1e-5)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_are_exact(pattern):
    """Straight gradients, different in each colour, come out exact."""
    y, x = np.mgrid[0:40, 0:50].astype(np.float32)
    colour = np.stack([3 * x + y, 100 - x + 2 * y, 5 * y - 0.5 * x])

    assert np.allclose(debayer(mosaic_of(colour, pattern), pattern)[INNER], colour[INNER], atol=2e-3)


def test_measured_values_stay_and_nothing_is_clipped():
    """Negative values and values beyond 16 bits pass through unchanged at their own pixels."""
    raw = np.random.default_rng(4).normal(0, 1e6, (20, 20)).astype(np.float32)

    colour = debayer(raw, "GRBG")

    assert colour.dtype == np.float32
    assert np.array_equal(mosaic_of(colour, "GRBG"), raw)
    assert colour.min() < -1e5


def test_a_white_star_keeps_flux_and_colour():
    """A white star of 2.5 px keeps its flux in each colour within 2 % and shows little false colour."""
    for shift in (0.0, 0.5):
        star = picture(np.array([[20 + shift, 20.0]]), [10000.0], (41, 41), fwhm_px=2.5)
        colour = debayer(mosaic_of(np.stack([star] * 3), "RGGB"), "RGGB")
        assert colour[INNER].sum(axis=(1, 2)) == pytest.approx(star.sum(), rel=0.03)
        assert np.abs(colour - star).max() < 0.15 * star.max()


def test_an_unknown_pattern_is_refused():
    """The message names the pattern."""
    with pytest.raises(ValueError, match="XTRANS"):
        debayer(np.zeros((4, 4), np.float32), "XTRANS")
