"""Masters: what a detector shows without light is taken out, its uneven answer evened, and no wild pixel decides."""

import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from stackd.imaging.camera import Night, calibration_frame
from stackd.imaging.cosmetic import find_loud_pixels
from stackd.imaging.masters import (
    LEAST_TOGETHER,
    NOTHING_KNOWN,
    TOGETHER,
    Image,
    Masters,
    answer_to_light,
    evened,
    mean_frame,
)

SHAPE = (96, 128)


def test_the_mean_leaves_cosmic_rays_out_and_keeps_hot_pixels(rng: np.random.Generator) -> None:
    """One frame's hit is no part of it; what is bright and loud in every frame is."""
    frames = rng.normal(300, 4, (20, *SHAPE)).astype(np.float32)
    frames[:, 5, 5] = rng.normal(2000, 45, 20)
    frames[3, 40:43, 50] += 900

    mean = mean_frame(iter(frames))

    assert mean.dtype == np.float32
    assert np.std(mean - 300) < 60  # the hot pixel
    assert mean[40:43, 50] == pytest.approx(300, abs=5)
    assert mean[5, 5] == pytest.approx(2000, abs=45)
    assert float(np.median(np.abs(mean - 300))) == pytest.approx(0.6745 * 4 / np.sqrt(20), rel=0.1)


@pytest.mark.parametrize("count", [3, 8, 9, 10, 11, 17, 18, 50])
def test_a_hit_is_left_out_of_any_number_of_frames(count: int, rng: np.random.Generator) -> None:
    """Also in the last frame, which may be left over from the others."""
    frames = rng.normal(300, 4, (count, 16, 16)).astype(np.float32)
    frames[-1, 5, 5] += 20_000

    assert mean_frame(frames)[5, 5] == pytest.approx(300, abs=15)


def test_whole_numbers_are_averaged_and_not_voted_on(rng: np.random.Generator) -> None:
    """A camera of little noise: most frames agree, and the others tell where between two numbers the truth is."""
    frames = np.rint(rng.normal(300.3, 0.4, (8, 64, 64))).astype(np.float32)

    error, least = (float(np.std(mean - 300.3)) for mean in (mean_frame(frames), frames.mean(0)))
    assert error < 1.1 * least


@pytest.mark.parametrize("count", [1, 2, 8, 9])
def test_any_number_of_frames_makes_a_mean(count: int) -> None:
    """Also where the last batch holds a single one."""
    frames = [np.full(SHAPE, 10.0 + k, np.float32) for k in range(count)]

    assert mean_frame(frames) == pytest.approx(10 + (count - 1) / 2)


def test_no_frames_make_no_mean() -> None:
    assert mean_frame(iter(())) is None


def test_few_frames_are_held_at_once() -> None:
    """Fifty biases of a large camera must not fill the memory."""
    given: list[weakref.ref] = []
    held: list[int] = []

    def frames() -> Iterator[Image]:
        for _ in range(30):
            frame = np.zeros(SHAPE, np.float32)
            given.append(weakref.ref(frame))
            held.append(sum(one() is not None for one in given))
            yield frame

    assert mean_frame(frames()) is not None
    assert len(held) == 30
    assert max(held) <= TOGETHER + LEAST_TOGETHER


def test_a_frame_comes_out_as_a_perfect_camera_would_show_it(rng: np.random.Generator) -> None:
    """Dark current, hot corner, vignetting and dust: gone to a fraction of a per cent."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    answer = (1 - 0.4 * ((x - 64) ** 2 + (y - 48) ** 2) / 80**2).astype(np.float32)
    answer[20:30, 20:30] *= 0.9
    night = Night(sensitivity=answer, dark_current=rng.exponential(50, SHAPE).astype(np.float32), offset_adu=400)
    dark = mean_frame(calibration_frame(night, SHAPE, rng) for _ in range(16))
    bias = mean_frame(calibration_frame(night, SHAPE, rng, exposures=0) for _ in range(16))
    flats = (calibration_frame(night, SHAPE, rng, light=f, exposures=0.01) for f in np.linspace(3e4, 1e4, 16))
    masters = Masters(dark, answer_to_light(mean_frame(evened(flat, bias) for flat in flats), bayer=False))

    seen = np.mean([masters.applied_to(calibration_frame(night, SHAPE, rng, light=5000)) for _ in range(32)], axis=0)

    np.testing.assert_allclose(seen / np.median(seen), 1, atol=0.03)
    assert np.std(seen / np.median(seen)) < 0.006
    assert np.median(seen) == pytest.approx(5000 * np.quantile(answer, 0.98), rel=0.02)


def test_colours_of_a_mosaic_keep_their_balance(rng: np.random.Generator) -> None:
    """A reddish flat lamp must not make the sky blue."""
    lamp = np.full(SHAPE, 1000.0, np.float32)
    lamp[::2, ::2], lamp[1::2, 1::2] = 3000, 400

    assert answer_to_light(evened(lamp, None), bayer=True) == pytest.approx(1, abs=1e-6)
    assert np.ptp(answer_to_light(evened(lamp, None), bayer=False)) > 0.5


def test_what_sees_next_to_no_light_is_unseen() -> None:
    flat = np.ones(SHAPE, np.float32)
    flat[:5] = 0.02
    flat[9, 9] = np.nan

    answer = answer_to_light(flat, bayer=False)

    assert np.isnan(answer[:5]).all()
    assert np.isnan(answer[9, 9])
    assert np.isfinite(answer[5:9]).all()


def test_a_flat_without_light_is_nothing() -> None:
    """A closed cover: no level to divide by."""
    assert not evened(np.full(SHAPE, 299, np.float32), np.full(SHAPE, 300, np.float32)).any()


def test_nothing_known_changes_nothing(rng: np.random.Generator) -> None:
    pixels = rng.normal(0, 1, SHAPE).astype(np.float32)

    assert NOTHING_KNOWN.applied_to(pixels) is pixels
    assert NOTHING_KNOWN.limit_adu(65535) == 65535


def test_saturated_pixels_are_known_afterwards(rng: np.random.Generator) -> None:
    """Wherever in the field they lie, and however sensitive the pixel is by itself."""
    answer = answer_to_light(rng.normal(1, 0.01, SHAPE).astype(np.float32), bayer=False)
    masters = Masters(np.full(SHAPE, 500, np.float32), answer)

    assert (masters.applied_to(np.full(SHAPE, 60000, np.float32)) >= masters.limit_adu(60000)).mean() > 0.95


@pytest.mark.parametrize("bayer", [False, True])
def test_loud_pixels_are_those_noisier_than_the_frame(bayer: bool) -> None:
    """By their dark current, in electrons; an even glow is no pixel's own."""
    dark = np.full(SHAPE, 300, np.float32)
    dark[50:] += np.linspace(0, 2000, 46, dtype=np.float32)[:, None]
    dark[7, 7], dark[20, 20] = 300 + 150, 300 + 50

    assert np.argwhere(find_loud_pixels(dark, 10.0, 1.0, bayer)).tolist() == [[7, 7]]
    assert not find_loud_pixels(dark, 20.0, 1.0, bayer).any()
    assert find_loud_pixels(np.stack([dark] * 3), 10.0, 1.0, False).sum() == 3
