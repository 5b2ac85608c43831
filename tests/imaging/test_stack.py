"""The plain stack: what does not belong goes, what does stays, and its noise is what it says."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stackd.imaging.stack import combine, find_outliers
from tests.imaging.sky import picture, star_positions

SHAPE = (120, 140)
NOISE_ADU = np.array([9.0, 10.0, 12.0, 8.0, 10.0, 11.0, 9.0, 10.0])
KAPPA = 4.0


def noise_frames(rng: np.random.Generator, noise_adu=NOISE_ADU, shape=SHAPE) -> NDArray[np.float32]:
    return np.stack([rng.normal(0, s, shape) for s in noise_adu]).astype(np.float32)


def starry_frames(rng: np.random.Generator, fwhms_px: list[float]) -> NDArray[np.float32]:
    """Bright and faint stars, one seeing a frame, each star in the same place."""
    places, fluxes = star_positions(rng, 60, SHAPE, border=5)
    light = np.stack([picture(places, 3 * fluxes, SHAPE, fwhm_px) for fwhm_px in fwhms_px])
    return (rng.poisson(np.maximum(light, 0)) + noise_frames(rng, NOISE_ADU[: len(light)])).astype(np.float32)


def test_outliers_are_found(rng: np.random.Generator) -> None:
    """A cosmic ray, a leftover hot pixel and a satellite's trail: out of the frame that has them, and only there."""
    places, fluxes = star_positions(rng, 20, SHAPE, border=5)
    light = picture(places, np.minimum(fluxes, 8000), SHAPE, 2.8)
    clean = (rng.poisson(light) + noise_frames(rng)).astype(np.float32)
    frames, marks = clean.copy(), np.zeros(clean.shape, bool)
    marks[2, 50, 60:66] = True  # a ray
    marks[5, 80, 30] = True  # a hot pixel
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    marks[6] |= np.abs(y - 20 - 0.6 * x) < 2
    frames[marks] += 150

    outliers = find_outliers(frames, NOISE_ADU, KAPPA)

    # on a bright star's flank a difference of this size may be the seeing's
    dark = cv2.dilate(light, np.ones((5, 5))) < 50
    assert outliers[marks & dark].mean() > 0.99
    assert outliers[[0, 1, 3, 4, 7]].mean() < 0.001
    stack, want = combine(frames, NOISE_ADU, outliers), combine(clean, NOISE_ADU, marks)
    assert np.abs(stack.mean - want.mean)[marks[6] & dark].max() < 3 * stack.noise.max()
    dirty = combine(frames, NOISE_ADU, np.zeros_like(outliers)).mean
    assert np.abs(stack.mean - want.mean)[marks.any(0)].mean() < 0.2 * np.abs(dirty - want.mean)[marks.any(0)].mean()


def test_a_faint_trail_is_found_by_its_neighbours(rng: np.random.Generator) -> None:
    """Three sigma a pixel, four pixels wide: too faint for one pixel, plain for nine."""
    frames = noise_frames(rng)
    frames[3, 60:64, :] += 3 * NOISE_ADU[3]

    outliers = find_outliers(frames, NOISE_ADU, KAPPA)

    assert outliers[3, 60:64].mean() > 0.9
    assert outliers[:3].mean() < 0.001


def test_noise_alone_is_kept(rng: np.random.Generator) -> None:
    """Hardly a sample of an empty sky goes."""
    assert find_outliers(noise_frames(rng), NOISE_ADU, KAPPA).mean() < 0.001


def test_cores_are_kept_where_the_seeing_differs(rng: np.random.Generator) -> None:
    """Stars from 2.2 to 4.4 px wide over one sky: less than one sample in a thousand goes, and no star's light."""
    fwhms_px = [2.2, 2.5, 2.8, 3.0, 3.3, 3.6, 4.0, 4.4]
    frames = starry_frames(rng, fwhms_px)

    outliers = find_outliers(frames, NOISE_ADU, KAPPA)

    assert outliers.mean() < 0.001
    kept, plain = combine(frames, NOISE_ADU, outliers).mean, combine(frames, NOISE_ADU, np.zeros_like(outliers)).mean
    bright = plain > 300
    assert bright.sum() > 50
    assert kept[bright].sum() == pytest.approx(plain[bright].sum(), rel=0.005)


def test_few_frames_give_no_verdict(rng: np.random.Generator) -> None:
    """Of two that differ nobody knows which one is wrong."""
    frames = noise_frames(rng)[:2]
    frames[0, 50, 60] += 5000

    assert not find_outliers(frames, NOISE_ADU[:2], KAPPA).any()
    assert not find_outliers(frames[:1], NOISE_ADU[:1], KAPPA).any()


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(8)), seed=st.integers(0, 99))
def test_the_order_of_frames_does_not_matter(order: list[int], seed: int) -> None:
    """The same samples go and the same mean comes out."""
    rng = np.random.default_rng(seed)
    frames = noise_frames(rng, shape=(40, 50))
    frames[rng.integers(8, size=20), rng.integers(40, size=20), rng.integers(50, size=20)] += 400
    frames[1, :, :7] = np.nan

    one = find_outliers(frames, NOISE_ADU, KAPPA)
    other = find_outliers(frames[order], NOISE_ADU[order], KAPPA)

    np.testing.assert_array_equal(other, one[order])
    a, b = combine(frames, NOISE_ADU, one), combine(frames[order], NOISE_ADU[order], other)
    for name in ("mean", "noise", "spread"):
        np.testing.assert_allclose(getattr(b, name), getattr(a, name), rtol=1e-5, atol=1e-5)


def test_unseen_pixels(rng: np.random.Generator) -> None:
    """NaN only where no frame saw the sky; elsewhere the frames that did see it decide, the ray among them goes."""
    frames = noise_frames(rng)
    frames[:4, :, :20] = np.nan
    frames[:, :10, :10] = np.nan
    frames[6, 40, 5] += 500

    outliers = find_outliers(frames, NOISE_ADU, KAPPA)
    stack = combine(frames, NOISE_ADU, outliers)

    nobody = np.zeros(SHAPE, bool)
    nobody[:10, :10] = True
    for plane in (stack.mean, stack.noise, stack.spread):
        np.testing.assert_array_equal(np.isnan(plane), nobody)
    assert not stack.good[:, nobody].any()
    assert outliers[6, 40, 5]
    assert stack.noise[60, 5] == pytest.approx((NOISE_ADU[4:] ** -2.0).sum() ** -0.5, rel=1e-5)
    assert np.isfinite(combine(frames[:1], NOISE_ADU[:1], outliers[:1]).mean[60, 60])


def test_the_noise_map_is_true(rng: np.random.Generator) -> None:
    """1 / sqrt(sum of 1 / noise^2) of the samples used, and the mean does scatter so; the spread is about 1."""
    frames = noise_frames(rng, shape=(300, 300))

    stack = combine(frames, NOISE_ADU, np.zeros(frames.shape, bool))

    want = (NOISE_ADU**-2.0).sum() ** -0.5
    np.testing.assert_allclose(stack.noise, want, rtol=1e-6)
    assert stack.mean.std() == pytest.approx(want, rel=0.02)
    assert np.sqrt(np.mean(stack.spread**2)) == pytest.approx(1, abs=0.01)
    weighted = np.average(frames, axis=0, weights=NOISE_ADU**-2.0)
    np.testing.assert_allclose(stack.mean, weighted, rtol=1e-4, atol=1e-4)
    assert stack.mean.dtype == stack.noise.dtype == stack.spread.dtype == np.float32


def test_rejected_samples_leave_the_rest(rng: np.random.Generator) -> None:
    """The mean of those kept, with their noise; where all were rejected all are used after all."""
    frames = noise_frames(rng)
    outliers = np.zeros(frames.shape, bool)
    outliers[0, 30, 40] = True
    outliers[:, 50, 60] = True

    stack = combine(frames, NOISE_ADU, outliers)

    rest = NOISE_ADU[1:] ** -2.0
    assert stack.mean[30, 40] == pytest.approx(np.average(frames[1:, 30, 40], weights=rest), rel=1e-4)
    assert stack.noise[30, 40] == pytest.approx(rest.sum() ** -0.5, rel=1e-5)
    assert stack.mean[50, 60] == pytest.approx(np.average(frames[:, 50, 60], weights=NOISE_ADU**-2.0), rel=1e-4)
    assert stack.good[:, 50, 60].all()
    assert not stack.good[0, 30, 40]


@pytest.mark.parametrize("count", [1, 2])
def test_one_frame_or_two_make_a_stack(count: int, rng: np.random.Generator) -> None:
    """One is its own stack and has no scatter to show; two are averaged."""
    frames, noise_adu = noise_frames(rng)[:count], NOISE_ADU[:count]

    stack = combine(frames, noise_adu, find_outliers(frames, noise_adu, KAPPA))

    np.testing.assert_allclose(stack.mean, np.average(frames, axis=0, weights=noise_adu**-2.0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(stack.noise, (noise_adu**-2.0).sum() ** -0.5, rtol=1e-6)
    if count == 1:
        np.testing.assert_array_equal(stack.spread, 1)
