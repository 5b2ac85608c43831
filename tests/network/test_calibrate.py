"""The curve that puts claimed errors right: true where the claims are wrong by a known factor, and never falling."""

import keras
import numpy as np
import pytest

from stackd.imaging.fuse import CONDITIONS
from stackd.network.calibrate import sigma_curve
from stackd.network.channels import CHANNELS

SIDE_PX = 128


def claiming(factor: float) -> keras.Model:
    """A network that gives the bank's first map as the picture, and its second over `factor` as the error."""
    bank, told = keras.Input((None, None, CHANNELS)), keras.Input((CONDITIONS,))
    return keras.Model([bank, told], [bank[..., 0], keras.ops.log(bank[..., 1] / factor)])


def batches(rng: np.random.Generator, count: int = 4) -> list[tuple[np.ndarray, ...]]:
    """Pictures whose real error per pixel is what their second map says."""
    out = []
    for _ in range(count):
        bank = np.ones((1, SIDE_PX, SIDE_PX, CHANNELS), np.float32)
        bank[..., 1] = np.exp(rng.uniform(-2, 3, (1, SIDE_PX, SIDE_PX)))
        truth = bank[..., 0] + rng.normal(0, 1, bank.shape[:3]) * bank[..., 1]
        out.append((bank, np.zeros((1, CONDITIONS), np.float32), truth.astype(np.float32)))
    return out


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_curve_undoes_a_wrong_claim(factor: float, rng: np.random.Generator) -> None:
    """Errors claimed too small or too large by a factor: the curve gives it back at every claim to 10 %."""
    claimed, real = np.array(sigma_curve(claiming(factor), batches(rng)))

    assert len(claimed) > 8
    assert (np.diff(claimed) > 0).all()
    np.testing.assert_allclose(real - claimed, np.log(factor), atol=0.1)
    assert claimed[-1] - claimed[0] > 3.5


def test_the_curve_never_falls(rng: np.random.Generator) -> None:
    """Claims that have nothing to do with the error: a larger claim still never means a smaller error."""
    noise = batches(rng)
    for bank, _, truth in noise:
        truth[:] = bank[..., 0] + rng.normal(0, 2, truth.shape)

    claimed, real = np.array(sigma_curve(claiming(1.0), noise))

    assert (np.diff(real) >= 0).all()
    np.testing.assert_allclose(real, np.log(2), atol=0.1)
    assert claimed[0] < real[0] < claimed[-1]


def test_a_few_wild_pixels_do_not_decide(rng: np.random.Generator) -> None:
    """One pixel in two hundred is wrong by thousands: the curve hardly moves."""
    wild = batches(rng)
    for _, _, truth in wild:
        truth[rng.random(truth.shape) < 0.005] += 5000

    one, other = (np.array(sigma_curve(claiming(1.0), b))[1] for b in (batches(np.random.default_rng(1)), wild))

    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, atol=0.15)


def test_a_network_that_claims_one_error_everywhere(rng: np.random.Generator) -> None:
    """All claims alike, as at a training's start: a curve of plain numbers all the same, with the real error."""
    same = batches(rng)
    for bank, _, truth in same:
        bank[..., 1] = 2.0
        truth[:] = bank[..., 0] + rng.normal(0, 5, truth.shape)

    claimed, real = sigma_curve(claiming(1.0), same)

    assert claimed
    assert real[0] == pytest.approx(np.log(5), abs=0.1)
    assert np.interp(np.log(2), claimed, real) == pytest.approx(np.log(5), abs=0.1)
