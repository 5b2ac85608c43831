"""A judge must know good from bad: units do not matter to it, noise and blur do, and poses are followed exactly."""

import numpy as np
import pytest

from stackd.imaging import camera, skies
from stackd.imaging.truth import matched, psnr_db, seen_from, star_width_px

SHAPE = (256, 320)
NOISE = 20.0


@pytest.fixture
def sky(rng: np.random.Generator) -> skies.Sky:
    """A soft nebula and stars, one band."""
    diffuse = skies.soften(skies.procedural(SHAPE, 1, rng, 500.0), 20)
    return skies.Sky(diffuse, *skies.star_catalogue(SHAPE, 1, rng, 2000, (500, 2e5)))


@pytest.mark.parametrize("noise", [0.0, 20.0, 100.0])
def test_unit_and_ground_are_found_through_noise(sky: skies.Sky, rng: np.random.Generator, noise: float) -> None:
    """A picture in another unit above another, tilted sky comes back in the truth's, however noisy it is."""
    truth = sky.truth(2.0)
    tilt = np.linspace(-60, 60, SHAPE[1])
    picture = (0.01 * (truth + tilt + rng.normal(0, noise, truth.shape)) - 7).astype(np.float32)

    fitted, scale = matched(picture, truth)

    assert scale == pytest.approx([100], rel=0.02)
    assert np.abs(np.median(fitted - truth, axis=1)).max() < 0.3 * noise + 0.5


def test_a_burnt_out_star_does_not_set_the_unit(sky: skies.Sky) -> None:
    """The brightest star cut to a third, a hot pixel added: everything else still fits."""
    truth = sky.truth(2.0)
    picture = np.minimum(truth, truth.max() / 3)
    picture[0, 40, 50] += 1e6

    _, scale = matched(picture, truth)

    assert scale == pytest.approx([1], rel=0.02)


def test_unseen_pixels_are_left_out(sky: skies.Sky, rng: np.random.Generator) -> None:
    """NaN stays NaN, and neither the fit nor the figure minds."""
    truth = sky.truth(2.0)
    picture = 2 * truth + 1e-3 * rng.normal(0, 1, truth.shape).astype(np.float32)
    picture[:, :50] = np.nan

    fitted, scale = matched(picture, truth)

    assert scale == pytest.approx([0.5], rel=1e-3)
    assert np.isnan(fitted[:, :50]).all()
    assert psnr_db(fitted, truth, NOISE) > 60


def test_less_noise_and_less_blur_are_better(sky: skies.Sky, rng: np.random.Generator) -> None:
    """PSNR falls with noise and with the width of stars."""
    truth, wide = sky.truth(2.0), sky.truth(4.0)
    noise = rng.normal(0, NOISE, truth.shape)

    assert psnr_db(truth + 0.3 * noise, truth, NOISE) > psnr_db(truth + noise, truth, NOISE) + 5
    assert psnr_db(truth + 0.3 * noise, truth, NOISE) > psnr_db(wide + 0.3 * noise, truth, NOISE)


@pytest.mark.parametrize("fwhm_px", [2.5, 4.0])
def test_star_width(sky: skies.Sky, fwhm_px: float) -> None:
    """The width that was drawn, integrated over pixels, is measured."""
    width = star_width_px(sky.truth(fwhm_px)[0], sky)

    assert width == pytest.approx(np.hypot(fwhm_px, 0.68), rel=0.04)


def test_no_width_without_stars(sky: skies.Sky, rng: np.random.Generator) -> None:
    """Noise alone has no star width."""
    assert star_width_px(rng.normal(0, 1e6, SHAPE).astype(np.float32), sky) is None


def test_the_truth_lies_on_the_frame(sky: skies.Sky, rng: np.random.Generator) -> None:
    """Each frame of a night agrees with the truth on its own grid, not with that of another pose."""
    night = camera.Night(
        frames=3, fwhm_px=(2.0, 2.0), beta=(5, 5), ellipticity=(0, 0), rotation_deg=3, sky=(1, 1), gradient=0,
        read_noise=1, hot_pixels=0, cosmic_rays_per_mpx=0, transparency=(1, 1),
    )  # fmt: skip
    inner = (slice(None), slice(30, -30), slice(30, -30))

    for exposure in camera.expose(sky, night, rng)[1:]:
        frame = exposure.pixels[None] - night.offset_adu - exposure.sky_adu
        there = psnr_db(frame[inner], seen_from(sky, exposure.matrix).truth(2.2)[inner], NOISE)
        elsewhere = psnr_db(frame[inner], sky.truth(2.2)[inner], NOISE)
        assert there > 30
        assert there > elsewhere + 8
