"""The curve that puts claimed errors right: true where the claims are wrong by a known factor, and never falling."""

import numpy as np
import pytest

from stackd.network.calibrate import sigma_curve

PIXELS = 65_536


def pixels(rng: np.random.Generator, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(log claimed, absolute real) errors: claims of all sizes, too small by `factor`."""
    real = np.exp(rng.uniform(-2, 3, PIXELS))
    return np.log(real / factor), np.abs(rng.normal(0, 1, PIXELS)) * real


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_curve_undoes_a_wrong_claim(factor: float, rng: np.random.Generator) -> None:
    """Errors claimed too small or too large by a factor: the curve gives it back at every claim to 10 %."""
    claimed, real = np.array(sigma_curve(*pixels(rng, factor)))

    assert len(claimed) > 8
    assert (np.diff(claimed) > 0).all()
    np.testing.assert_allclose(real - claimed, np.log(factor), atol=0.1)
    assert claimed[-1] - claimed[0] > 3.5


def test_the_curve_never_falls(rng: np.random.Generator) -> None:
    """Claims that have nothing to do with the error: a larger claim still never means a smaller error."""
    claims, _ = pixels(rng)

    claimed, real = np.array(sigma_curve(claims, np.abs(rng.normal(0, 2, PIXELS))))

    assert (np.diff(real) >= 0).all()
    np.testing.assert_allclose(real, np.log(2), atol=0.1)
    assert claimed[0] < real[0] < claimed[-1]


def test_a_few_wild_pixels_do_not_decide(rng: np.random.Generator) -> None:
    """One pixel in two hundred is wrong by thousands: the curve hardly moves."""
    claims, errors = pixels(rng)
    wild = errors + np.where(rng.random(PIXELS) < 0.005, 5000, 0)

    one, other = (np.array(sigma_curve(claims, e))[1] for e in (errors, wild))

    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, atol=0.15)


def test_a_network_that_claims_one_error_everywhere(rng: np.random.Generator) -> None:
    """All claims alike, as at a training's start: a curve of plain numbers all the same, with the real error."""
    claimed, real = sigma_curve(np.full(PIXELS, np.log(2)), np.abs(rng.normal(0, 5, PIXELS)))

    assert claimed
    assert real[0] == pytest.approx(np.log(5), abs=0.1)
    assert np.interp(np.log(2), claimed, real) == pytest.approx(np.log(5), abs=0.1)
