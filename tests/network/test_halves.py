"""Learning from captures without a truth: the true picture agrees with the other half best, and steps lead there."""

import numpy as np
import pytest
import tensorflow as tf

from stackd.imaging import camera, skies
from stackd.imaging.warp import Transform, apply_transform
from stackd.network import architecture, fit, halves
from stackd.network.feed import TARGET_FWHM_PX

TINY = {"widths": [8, 8, 8], "blocks": [1, 1, 1]}


@pytest.fixture(scope="module")
def sky_and_samples() -> tuple[skies.Sky, list[halves.HalfSample]]:
    """One window of eight aligned frames of a crowded sky, known shapes, and its two samples."""
    rng = np.random.default_rng(4)
    shape = (halves.WINDOW_PX, halves.WINDOW_PX)
    diffuse = skies.soften(skies.procedural(shape, 1, rng, 300.0), 30.0)
    sky = skies.Sky(diffuse, *skies.star_catalogue(shape, 1, rng, 4000, (500, 1e5)))
    night = camera.Night(shift_px=0.0, rotation_deg=0.0, cosmic_rays_per_mpx=0, hot_pixels=0, gradient=0)
    exposures = camera.expose(sky, night, rng)
    light = [(e.pixels - night.offset_adu - e.sky_adu) / e.transparency for e in exposures]
    frames = np.array([
        apply_transform(plane, Transform(e.matrix, "", 0, 0), shape)[0] for plane, e in zip(light, exposures)
    ])  # fmt: skip
    noise = np.array([np.sqrt(e.sky_adu + night.read_noise**2) / e.transparency for e in exposures])
    return sky, halves.halves(frames, noise, tuple(e.psf for e in exposures), 4.0, 1.0)


def loss_of(sample: halves.HalfSample, picture: np.ndarray) -> float:
    wanted = (part[None] for part in (sample.other, sample.noise, sample.kernel))
    return float(halves.half_loss(*wanted, tf.constant(picture[None]), tf.zeros((1, *picture.shape))))


def truth_of(sky: skies.Sky, sample: halves.HalfSample) -> np.ndarray:
    """The sky in the sample's unit, whose scale and floor the noise and the other half tell."""
    inside = slice(halves.EDGE_PX, -halves.EDGE_PX)
    truth = sky.truth(TARGET_FWHM_PX)[0][inside, inside]
    light = np.stack([truth.ravel(), np.ones(truth.size)], 1)
    seen = np.asarray(halves._blurred(tf.constant(truth[None]), tf.constant(sample.kernel[None])))[0]
    light[:, 0] = seen.ravel()
    (scale, floor), *_ = np.linalg.lstsq(light, sample.other.ravel(), rcond=None)
    return (scale * truth + floor).astype(np.float32)


def test_the_truth_agrees_best(sky_and_samples) -> None:
    """Seen through the other half's blur the true sky differs by noise alone; fainter, softer or noisier ones more."""
    sky, samples = sky_and_samples
    rng = np.random.default_rng(1)
    for sample in samples:
        truth = truth_of(sky, sample)
        best = loss_of(sample, truth)

        assert 0.2 < best < 0.75  # half of a squared sigma, tempered
        wrong = {
            "fainter": 0.93 * truth,
            "softer": skies.blur(truth, skies.gaussian_otf(truth.shape, 2.0)),
            "noisier": (truth + rng.normal(0, 4, truth.shape)).astype(np.float32),
            "plain": sample.bank[..., 0].astype(np.float32),
        }
        for name, picture in wrong.items():
            assert loss_of(sample, picture) > 1.02 * best, name


def test_batches_are_crops_of_both_halves(sky_and_samples) -> None:
    """Shapes as the network and the loss take them; the same generator draws the same."""
    _, samples = sky_and_samples

    one, again = (halves.draw_batch(samples, 3, np.random.default_rng(8)) for _ in range(2))

    crop, kernel = halves.CROP_PX, halves.KERNEL_PX
    assert [part.shape[:3] for part in one[2:]] == [(3, crop, crop), (3, crop, crop), (3, kernel, kernel)]
    assert all(part.dtype == np.float32 and np.isfinite(part).all() for part in one)
    assert all(np.array_equal(a, b) for a, b in zip(one, again))
    np.testing.assert_allclose(one[4].sum((1, 2)), 1, rtol=1e-4)


def test_steps_lead_to_agreement(sky_and_samples) -> None:
    """A few steps on halves alone, and the network's picture of either half agrees better with the other."""
    _, samples = sky_and_samples
    tf.keras.utils.set_random_seed(3)
    trainer = fit.Trainer(architecture.build(TINY), fit.Recipe(batch=2, warm_up=2, learning_rate=3e-3))
    before = halves.agreement(trainer.network, samples)
    rng = np.random.default_rng(2)

    for step in range(20):
        trainer.train_on(halves.draw_batch(samples, trainer.batch, rng), step / 20, halves.half_loss)

    assert halves.agreement(trainer.network, samples) < before
