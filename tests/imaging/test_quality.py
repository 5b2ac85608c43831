"""Sky level and noise are what they were made to be, whatever lies on top."""

import numpy as np
import pytest

from stackd.imaging.quality import measure_sky, share_at_black


def test_level_and_noise_of_plain_sky():
    """Gaussian sky comes back to a fraction of its noise."""
    image = np.random.default_rng(1).normal(300, 12, (400, 400)).astype(np.float32)

    sky = measure_sky(image)

    assert sky.level_adu == pytest.approx(300, abs=0.2)
    assert sky.noise_adu == pytest.approx(12, rel=0.02)


def test_stars_and_holes_hardly_count():
    """Five per cent of bright pixels, NaN and infinities move the level by less than a third of the noise."""
    rng = np.random.default_rng(2)
    image = rng.normal(100, 5, (300, 300))
    bright = rng.random(image.shape) < 0.05
    image[bright] += rng.exponential(800, bright.sum())
    image[:20], image[50, 50] = np.nan, np.inf

    sky = measure_sky(image.astype(np.float32))

    assert sky.level_adu == pytest.approx(100, abs=1.5)
    assert sky.noise_adu == pytest.approx(5, rel=0.15)


def test_a_sky_clipped_at_zero_still_has_noise():
    """An 8-bit picture whose sky is black is not taken for free of noise."""
    image = np.zeros((200, 200), np.float32)
    image[::40, ::40] = 90
    image[1::40, ::40] = 91

    sky = measure_sky(image)

    assert sky.level_adu == 0
    assert sky.noise_adu == pytest.approx(1 / np.sqrt(12), rel=1e-6)


def test_nothing_seen_is_no_error():
    """An image of NaN alone has a sky of zero."""
    sky = measure_sky(np.full((5, 5), np.nan, np.float32))

    assert (sky.level_adu, sky.noise_adu) == (0.0, 0.0)


def test_a_nebula_in_a_bayer_mosaic_does_not_bias_the_sample():
    """Sampling a large mosaic keeps its colours in proportion."""
    image = np.zeros((1200, 1200), np.float32)
    image[0::2, 0::2], image[1::2, 1::2] = 100, 300
    image[0::2, 1::2] = image[1::2, 0::2] = 200
    image += np.random.default_rng(3).normal(0, 5, image.shape).astype(np.float32)

    assert measure_sky(image).level_adu == pytest.approx(200, abs=5)


@pytest.mark.parametrize(
    ("level", "noise", "share"), [(0.0, 5.0, 0.54), (6.0, 6.0, 0.18), (300.0, 12.0, 0.0), (20.0, 0.6, 0.0)]
)
def test_what_was_cut_off_at_black(level, noise, share):
    """Half of a sky set to zero, a sixth of one a sigma above; none of a clear one, however coarse its steps."""
    image = np.random.default_rng(1).normal(level, noise, (300, 300)).round().clip(0).astype(np.float32)

    assert share_at_black(image) == pytest.approx(share, abs=0.02)
