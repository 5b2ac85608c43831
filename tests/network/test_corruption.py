"""The corruption of 2019, figure by figure: its blur, its noise, its clipping."""

import numpy as np
import pytest

from stackd.network import corruption
from stackd.network.corruption import corrupt, random_kernel, reduce_picture


def test_eight_frames_of_a_picture(rng: np.random.Generator) -> None:
    """(120, 160) in, (120, 160, 8) float32 within 0..1 out; the picture itself stays as it was."""
    picture = np.zeros((120, 160), np.float32)
    picture[:, 80:] = 1
    before = picture.copy()

    frames = corrupt(picture, rng)

    assert frames.shape == (120, 160, 8)
    assert frames.dtype == np.float32
    assert frames.min() == 0
    assert frames.max() == 1
    np.testing.assert_array_equal(picture, before)


def test_the_same_generator_corrupts_alike() -> None:
    """Nothing is drawn from anywhere else."""
    picture = np.full((20, 30), 0.5, np.float32)

    one, again, other = (corrupt(picture, np.random.default_rng(seed)) for seed in (1, 1, 2))

    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01


def test_noise_is_a_twentieth_of_full_scale(rng: np.random.Generator) -> None:
    """Normal, of its own in each frame and pixel: a flat grey picture shows nothing else."""
    noise = corrupt(np.full((120, 160), 0.5, np.float32), rng)[10:-10, 10:-10] - 0.5

    assert noise.std() == pytest.approx(0.05, rel=0.01)
    assert abs(noise.mean()) < 0.001
    fourth_moment = np.mean((noise / noise.std()) ** 4)
    assert fourth_moment == pytest.approx(3, abs=0.1)  # as a normal distribution has
    between = np.corrcoef(noise.reshape(-1, 8).T) - np.eye(8)
    assert np.abs(between).max() < 0.03


def test_one_blur_a_picture(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """All frames of a picture are blurred alike, those of the next otherwise; no light is lost or moved."""
    monkeypatch.setattr(corruption, "NOISE", 0.0)
    star = np.zeros((41, 41), np.float32)
    star[20, 20] = 1

    first, second = corrupt(star, rng), corrupt(star, rng)

    np.testing.assert_array_equal(first, np.repeat(first[..., :1], 8, axis=2))
    assert np.abs(first - second).max() > 1e-3
    assert first[..., 0].sum() == pytest.approx(1, abs=1e-5)
    rows, columns = np.mgrid[:41, :41]
    assert (first[..., 0] * rows).sum() == pytest.approx(20, abs=0.01)
    assert (first[..., 0] * columns).sum() == pytest.approx(20, abs=0.01)


class Chosen:
    """A generator whose every uniform number is the same."""

    def __init__(self, number: float) -> None:
        self.number = number

    def uniform(self) -> float:
        return self.number


@pytest.mark.parametrize(("u", "sigma_px"), [(0.0, 0.01), (0.0625, 0.51), (0.9999, 1.01)])
def test_width_of_the_kernel(u: float, sigma_px: float) -> None:
    """Ten pixels wide, standard deviation 0.01 + u^(1/4) on both axes, of sum 1 even where it is narrowest."""
    kernel = random_kernel(Chosen(u))

    assert kernel.shape == (10, 10)
    assert kernel.sum() == pytest.approx(1)
    ratio = kernel[5, 4] / kernel[4, 4]  # one pixel beside the middle
    assert ratio == pytest.approx(np.exp(-1 / (2 * sigma_px**2)), rel=1e-3)
    np.testing.assert_allclose(kernel, kernel.T)


def test_axes_are_blurred_apart(rng: np.random.Generator) -> None:
    """Each axis has its own width, and they spread as the fourth root of a uniform number does."""
    kernels = [random_kernel(rng) for _ in range(2000)]

    beside = np.array([[kernel[5, 4], kernel[4, 5]] / kernel[4, 4] for kernel in kernels])
    sigmas = (-0.5 / np.log(beside)) ** 0.5

    assert abs(np.corrcoef(sigmas.T)[0, 1]) < 0.1
    assert np.median(sigmas) == pytest.approx(0.01 + 0.5**0.25, abs=0.02)
    assert sigmas.max() <= 1.01


@pytest.mark.parametrize("shape", [(120, 160), (240, 320), (300, 300), (97, 1000), (1000, 96)])
def test_any_picture_is_reduced(shape: tuple[int, int]) -> None:
    """Any size and proportion becomes 160 x 120; grey stays as bright as it was."""
    reduced = reduce_picture(np.full((*shape, 3), 0.25, np.float32))

    assert reduced.shape == (120, 160)
    assert reduced.dtype == np.float32
    np.testing.assert_allclose(reduced, 0.25, atol=1e-6)


def test_luminance_and_middle() -> None:
    """Green counts most, blue least; what is cut off lies at the sides, evenly."""
    picture = np.zeros((120, 200, 3), np.float32)
    picture[:, 20:] = [0, 1, 0]
    picture[:, 100:] = [0, 0, 1]

    reduced = reduce_picture(picture)

    np.testing.assert_allclose(reduced[:, :80], 0.587, atol=1e-6)
    np.testing.assert_allclose(reduced[:, 80:], 0.114, atol=1e-6)
