"""What the restorer is asked for: each part of the loss is least for the truth and says what it should."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stackd.network import losses


@pytest.fixture
def truth(rng: np.random.Generator) -> np.ndarray:
    """Two skies (2, 48, 48) in units of the noise, with stars."""
    sky = rng.normal(0, 0.1, (2, 48, 48))
    sky[rng.random(sky.shape) < 0.02] += 80
    return sky.astype(np.float32)


def value(tensor) -> float:
    return float(keras.ops.convert_to_numpy(tensor))


def test_the_truth_is_best(truth: np.ndarray, rng: np.random.Generator) -> None:
    """No part of the loss likes a wrong picture better than the right one, and more wrong is worse."""
    sigma = np.zeros_like(truth)
    error = rng.normal(0, 1, truth.shape).astype(np.float32)

    for part in (losses.fidelity, losses.flux_error, lambda t, r: losses.restoration_loss(t, r, sigma)):
        right, wrong, worse = (value(part(truth, truth + k * error)) for k in (0, 1, 3))
        assert right < wrong < worse
    assert value(losses.flux_error(truth, truth)) == 0


def test_fluxes_count_beyond_noise_and_accuracy(truth: np.ndarray) -> None:
    """Light moved within a box is no matter of flux; light taken from a box is, and 0.1 % of it is nothing."""
    dimmer, dim = 0.9 * truth, 0.999 * truth
    moved = np.roll(truth, 1, axis=1)

    assert value(losses.flux_error(truth, dim)) < 0.01 * value(losses.flux_error(truth, dimmer))
    wide = np.zeros((1, 60, 60), np.float32)
    wide[0, 28:31, 28:31] = 50
    lost, shifted = wide.copy(), np.roll(wide, 1, axis=2)
    lost[0, 28:31, 28] = 0
    assert value(losses.flux_error(wide, shifted)) < value(losses.flux_error(wide, lost)) * 2
    assert value(losses.flux_error(truth, moved)) > 0


def test_one_star_counts_beside_much_sky(rng: np.random.Generator) -> None:
    """The only star of a wide sky, made 2 % too faint, is worse than noise on all of that sky."""
    truth = np.zeros((1, 96, 96), np.float32)
    truth[0, 47:50, 47:50] = 400
    noisy = truth + rng.normal(0, 0.4, truth.shape).astype(np.float32)

    assert value(losses.flux_error(truth, 0.98 * truth)) > value(losses.flux_error(truth, noisy))


def test_a_picture_is_judged_from_its_own_sky(truth: np.ndarray, rng: np.random.Generator) -> None:
    """An error counts alike wherever the sky's level lies, and a wrong level is an error."""
    error = rng.normal(0, 0.3, truth.shape).astype(np.float32)

    low, high = (value(losses.fidelity(truth + level, truth + level + error)) for level in (0, 40))

    assert np.isclose(low, high, rtol=1e-3)
    assert value(losses.fidelity(truth + 40, truth + 40)) < value(losses.fidelity(truth + 40, truth + 40.2))


def test_easy_skies_count_nearly_like_hard_ones() -> None:
    """Halving a tenth of the error helps at least a third as much as halving all of it: PSNR is a logarithm too."""
    rng = np.random.default_rng(3)
    truth = np.zeros((2, 64, 64), np.float32)
    error = (rng.normal(0, 1, truth.shape) * [[[0.05]], [[0.5]]]).astype(np.float32)
    easier, harder = error.copy(), error.copy()
    easier[0] /= 2
    harder[1] /= 2

    gains = [value(losses.fidelity(truth, error)) - value(losses.fidelity(truth, e)) for e in (easier, harder)]

    assert gains[0] > gains[1] / 3 > 0


def test_the_claimed_error_is_best_when_true() -> None:
    """Of all claims the mean absolute error is likeliest, as Laplace's law has it."""
    rng = np.random.default_rng(4)
    error = rng.laplace(0, 2.5, (1, 200, 200)).astype(np.float32)
    zero = np.zeros_like(error)

    claims = np.linspace(-1, 3, 41)
    best = claims[np.argmin([value(losses.nll(zero, error, np.full_like(error, c))) for c in claims])]

    assert np.exp(best) == pytest.approx(2.5, rel=0.06)


def test_the_claimed_error_does_not_move_the_picture(truth: np.ndarray) -> None:
    """Its gradient reaches the claim alone: a network cannot improve its score by a duller picture."""
    restored, log_sigma = tf.Variable(truth + 1), tf.Variable(np.zeros_like(truth))
    with tf.GradientTape() as tape:
        loss = losses.nll(tf.constant(truth), restored, log_sigma)

    by_picture, by_claim = tape.gradient(loss, [restored, log_sigma])

    assert by_picture is None
    assert float(tf.reduce_max(tf.abs(by_claim))) > 0


def test_psnr_is_that_of_the_stretched_picture(truth: np.ndarray) -> None:
    """Against its definition in plain numpy; half the error is 6 dB more."""
    rng = np.random.default_rng(5)
    error = rng.normal(0, 1e-3, truth.shape).astype(np.float32)
    t, r = np.arcsinh(truth / 3.0), np.arcsinh((truth + error) / 3.0)
    want = [10 * np.log10(np.ptp(a) ** 2 / (np.mean((b - a) ** 2) + 1e-9)) for a, b in zip(t, r)]

    assert value(losses.psnr(truth, truth + error)) == pytest.approx(np.mean(want), abs=0.05)
    big = 1000 * error
    gain = value(losses.psnr(truth, truth + big / 8)) - value(losses.psnr(truth, truth + big / 4))
    assert gain == pytest.approx(6, abs=0.5)


def test_the_loss_has_a_gradient_everywhere(truth: np.ndarray) -> None:
    """Also where the picture is exactly the truth, and for stars ten thousand times the noise."""
    for scale, error in ((1, 0.0), (1e3, 50.0)):
        restored, log_sigma = tf.Variable(scale * truth + error), tf.Variable(np.zeros_like(truth))
        with tf.GradientTape() as tape:
            loss = losses.restoration_loss(tf.constant(scale * truth), restored, log_sigma)
        assert all(np.isfinite(g.numpy()).all() for g in tape.gradient(loss, [restored, log_sigma]))


def test_a_doubtful_star_is_drawn_as_bright_as_it_is_likely() -> None:
    """A star that is there in four skies of ten is worth a faint one: leaving it out altogether costs more."""
    star = np.zeros((1, 32, 32), np.float32)
    star[0, 15:18, 15:18] = 2.0
    skies = np.concatenate([star] * 4 + [0 * star] * 6)
    elsewhere = np.random.default_rng(5).normal(0, 0.3, star.shape).astype(np.float32)

    def cost(share: float) -> float:
        return value(losses.fidelity(skies, np.repeat(np.float32(share) * star + elsewhere, 10, axis=0)))

    assert min(np.linspace(0, 1, 21), key=cost) >= 0.2


def test_similarity_is_one_for_equals_and_less_for_lost_structure() -> None:
    """Structure that is smoothed away is missed even where the mean is right."""
    texture = np.random.default_rng(6).normal(0, 1, (1, 40, 40)).astype(np.float32)

    for same, lost in zip(losses.similarity(texture, texture), losses.similarity(texture, 0 * texture)):
        assert np.allclose(np.asarray(same), 1, atol=1e-4)
        assert np.asarray(lost).mean() < 0.2


def test_ripples_on_an_empty_sky_are_seen(rng: np.random.Generator) -> None:
    """A tenth of the noise, which structural similarity forgives, counts at fine contrast, beside a star, too."""
    truth = np.zeros((1, 60, 60), np.float32)
    truth[0, 30, 30] = 2000
    rippled = truth + rng.normal(0, 0.1, truth.shape).astype(np.float32)

    similar, fine = (np.mean(part) for part in losses.similarity(*map(losses.stretched, (truth, rippled))))

    assert similar > 0.9
    assert fine < 0.6
    assert np.mean(losses.similarity(*[losses.stretched(truth)] * 2)[1]) == pytest.approx(1, abs=1e-4)
