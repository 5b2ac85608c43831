"""The simulated night does what it says: light, poses, Bayer mosaics, saturation and everything that goes wrong."""

from dataclasses import replace

import numpy as np
import pytest

from stackd.imaging.camera import BAYER_BANDS, Exposure, Night, expose
from stackd.imaging.psf import Psf
from stackd.imaging.skies import Sky
from stackd.imaging.stars import find_stars

SHAPE = (120, 150)
CLEAN = Night(
    frames=3,
    fwhm_px=(2.8, 2.8),
    ellipticity=(0.0, 0.0),
    transparency=(1.0, 1.0),
    sky=(100.0, 100.0),
    gradient=0.0,
    read_noise=1.0,
    hot_pixels=0.0,
    cosmic_rays_per_mpx=0.0,
)


@pytest.fixture
def sky(rng: np.random.Generator) -> Sky:
    """Stars on a loose grid in three bands, nothing diffuse."""
    y, x = (grid.ravel() for grid in np.mgrid[25:100:20, 25:130:20])
    x, y = x + rng.uniform(-4, 4, len(x)), y + rng.uniform(-4, 4, len(x))
    return Sky(np.zeros((3, *SHAPE), np.float32), x, y, rng.uniform(2e4, 6e4, (3, len(x))))


def mono(sky: Sky) -> Sky:
    return Sky(sky.diffuse[:1], sky.x, sky.y, sky.flux[:1])


def nights(sky: Sky, night: Night, seed: int = 1) -> list[Exposure]:
    return expose(sky, night, np.random.default_rng(seed))


def test_the_generator_decides_the_night(sky: Sky) -> None:
    """The same seed gives the same frames to the last bit, another seed others."""
    night = Night(frames=3, drift_px=1.0, defocus_chance=0.5, coma_chance=0.5, trail_chance=0.5, cloud_chance=0.5)

    one, again, other = (nights(sky, night, seed) for seed in (3, 3, 4))

    for a, b in zip(one, again):
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.matrix, b.matrix)
    assert not np.array_equal(one[0].pixels, other[0].pixels)
    assert not np.array_equal(one[0].pixels, one[1].pixels)


def test_the_first_frame_is_the_skys_own_grid(sky: Sky) -> None:
    """Its pose is the identity, and its stars lie where the catalogue says."""
    first = nights(mono(sky), CLEAN)[0]

    np.testing.assert_array_equal(first.matrix, np.eye(2, 3))
    stars = find_stars(first.pixels - 400, 10.0)
    distance = np.hypot(stars.x[:, None] - sky.x, stars.y[:, None] - sky.y).min(1)
    assert len(stars) == len(sky.x)
    assert distance.max() < 0.1


def test_poses_say_where_the_stars_are(sky: Sky) -> None:
    """A frame's stars, through its matrix, lie on the catalogue's within a tenth of a pixel; frames do move."""
    for exposure in nights(mono(sky), replace(CLEAN, rotation_deg=8.0))[1:]:
        stars = find_stars(exposure.pixels - 400, 10.0)
        x, y = exposure.matrix[:, :2] @ np.stack([stars.x, stars.y]) + exposure.matrix[:, 2:]
        distance = np.hypot(x[:, None] - sky.x, y[:, None] - sky.y).min(1)

        assert len(stars) > 10
        assert np.median(distance) < 0.1
        assert np.quantile(distance, 0.9) < 0.2
        assert np.abs(exposure.matrix - np.eye(2, 3)).max() > 0.5


def test_diffuse_light_moves_with_the_stars(sky: Sky) -> None:
    """A wide glow's centre is where a frame's pose says, as the stars are."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    glow = (500 * np.exp(-((x - 70) ** 2 + (y - 55) ** 2) / 128)).astype(np.float32)
    field = Sky(glow[None], sky.x[:0], sky.y[:0], sky.flux[:1, :0])

    for exposure in nights(field, replace(CLEAN, rotation_deg=8.0, sky=(20.0, 20.0))):
        light = np.where((image := exposure.pixels - 320) > 40, image, 0)
        centre = np.array([(light * x).sum(), (light * y).sum()]) / light.sum()

        np.testing.assert_allclose(exposure.matrix @ [*centre, 1], [70, 55], atol=0.4)


def test_light_is_neither_made_nor_lost(sky: Sky) -> None:
    """Electrons of the stars times transparency over gain, plus sky and offset: the sum of a frame."""
    night = replace(CLEAN, frames=1, transparency=(0.7, 0.7), electrons_per_adu=2.0)

    frame = nights(mono(sky), night)[0]

    want = 0.7 * sky.flux[0].sum() / 2 + frame.pixels.size * (100 / 2 + 300)
    assert frame.pixels.sum() - frame.pixels.size * 350 == pytest.approx(0.7 * sky.flux[0].sum() / 2, rel=0.02)
    assert frame.pixels.sum() == pytest.approx(want, rel=0.001)
    assert (frame.sky_adu, frame.transparency) == (50.0, 0.7)


def test_noise_is_that_of_photons_and_readout() -> None:
    """Variance of an empty frame: sky electrons plus read noise squared, in ADU."""
    empty = Sky(np.zeros((1, 200, 200), np.float32), *(np.empty(0),) * 2, np.empty((1, 0)))

    frame = nights(empty, replace(CLEAN, frames=1, sky=(400.0, 400.0), read_noise=10.0, electrons_per_adu=0.5))[0]

    assert frame.pixels.var() == pytest.approx((400 + 100) / 0.25, rel=0.04)
    assert frame.pixels.mean() == pytest.approx(400 / 0.5 + 300, abs=1)


@pytest.mark.parametrize("pattern", BAYER_BANDS)
def test_a_mosaic_shows_each_pixel_its_own_band(pattern: str) -> None:
    """A sky of three flat brightnesses: each pixel has that of the letter the pattern gives it."""
    diffuse = np.empty((3, 40, 50), np.float32)
    diffuse[:] = np.array([1000, 4000, 9000], np.float32)[:, None, None]
    field = Sky(diffuse, np.empty(0), np.empty(0), np.empty((3, 0)))

    frame = nights(field, replace(CLEAN, frames=1, bayer=pattern))[0].pixels

    assert frame.shape == (40, 50)
    for k, letter in enumerate(pattern):
        seen = frame[k // 2 :: 2, k % 2 :: 2].mean()
        assert seen == pytest.approx({"R": 1000, "G": 4000, "B": 9000}[letter] + 400, rel=0.02)


def test_three_bands_without_a_mosaic(sky: Sky) -> None:
    """A camera that sees all bands at once gives (3, H, W), one band a plain (H, W)."""
    colour, grey = nights(sky, replace(CLEAN, frames=1))[0], nights(mono(sky), replace(CLEAN, frames=1))[0]

    assert colour.pixels.shape == (3, *SHAPE)
    assert grey.pixels.shape == SHAPE
    assert colour.pixels.dtype == grey.pixels.dtype == np.float32
    for band, flux in zip(colour.pixels, sky.flux):
        assert band.sum() - band.size * 400 == pytest.approx(flux.sum(), rel=0.02)


def test_saturation_cuts_off(sky: Sky) -> None:
    """No pixel above the limit, several on it, and everything a whole number from 0 on."""
    frame = nights(mono(sky), replace(CLEAN, frames=1, saturation_adu=2500.0))[0].pixels

    assert frame.max() == 2500
    assert (frame == 2500).sum() > 20
    np.testing.assert_array_equal(frame, np.round(frame))
    assert frame.min() >= 0


def test_hot_pixels_stay_on_the_detector(sky: Sky) -> None:
    """The same pixels in every frame, however the frames moved."""
    dark = Sky(sky.diffuse[:1], *(np.empty(0),) * 2, np.empty((1, 0)))

    frames = nights(dark, replace(CLEAN, hot_pixels=0.002))

    hot = [set(zip(*np.nonzero(f.pixels > 600))) for f in frames]
    assert len(hot[0]) > 10
    assert len(set.intersection(*hot)) > 0.8 * len(hot[0])


def test_rays_trails_and_clouds_come_as_asked(sky: Sky) -> None:
    """Trails are straight and bright, clouds dim the stars and light up the sky; the frame says which it had."""
    dark = Sky(sky.diffuse[:1], *(np.empty(0),) * 2, np.empty((1, 0)))

    rays = nights(dark, replace(CLEAN, cosmic_rays_per_mpx=2000.0))
    trails = nights(dark, replace(CLEAN, trail_chance=1.0))
    clouds = nights(dark, replace(CLEAN, cloud_chance=1.0))
    calm = nights(dark, CLEAN)

    assert all((r.pixels > 500).sum() > 20 for r in rays)
    assert all(t.trail and (t.pixels > 435).sum() > 100 for t in trails)
    assert all(c.cloudy and c.transparency < 0.51 and np.median(c.pixels) > 445 for c in clouds)
    assert all(not (c.trail or c.cloudy) and (c.pixels > 470).sum() == 0 for c in calm)


@pytest.mark.parametrize("fwhm_px", [1.2, 1.5, 2.0, 2.4, 2.6])
def test_stars_are_what_a_camera_sees_of_them(sky: Sky, fwhm_px: float) -> None:
    """Each pixel holds the light that falls on it, wherever on it a star stands: sharp stars differ with that."""
    bright = Sky(sky.diffuse[:1], sky.x, sky.y, np.full((1, len(sky.x)), 5e6))
    night = replace(CLEAN, frames=1, fwhm_px=(fwhm_px, fwhm_px), beta=(3.5, 3.5), electrons_per_adu=100.0)

    light = nights(bright, night)[0].pixels - 301

    column, row = np.round(sky.x).astype(int), np.round(sky.y).astype(int)
    want = 50_000 * Psf(fwhm_px, 3.5).at(sky.x - column, sky.y - row, 2)
    for j, i, star in zip(column, row, want):
        np.testing.assert_allclose(light[i - 2 : i + 3, j - 2 : j + 3], star, atol=0.025 * star.max())


def test_aberrations_leave_light_and_place_alone(sky: Sky) -> None:
    """Drift, defocus and coma widen the stars; a frame's light and its stars' centres stay."""
    night = replace(CLEAN, frames=4, drift_px=2.0, defocus_chance=1.0, coma_chance=1.0, shift_px=0.0, rotation_deg=0.0)

    for exposure in nights(mono(sky), night):
        light = exposure.pixels - 400
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        assert light.sum() == pytest.approx(sky.flux[0].sum(), rel=0.02)
        want = (sky.flux[0] * sky.x).sum() / sky.flux[0].sum(), (sky.flux[0] * sky.y).sum() / sky.flux[0].sum()
        bright = np.where(light > 60, light, 0)
        assert (bright * x).sum() / bright.sum() == pytest.approx(want[0], abs=0.5)
        assert (bright * y).sum() / bright.sum() == pytest.approx(want[1], abs=0.5)
        assert np.median(find_stars(light, 10.0).fwhm_px) > 3.0
