"""Hot pixels are found and mended; stars are left alone."""

import numpy as np
import pytest

from stackd.imaging.cosmetic import find_hot_pixels, repair
from tests.imaging.sky import exposure, star_positions

SHAPE = (160, 200)


def frames_with(rng, hot, drift_px, count=8, fwhm_px=2.2):
    places, fluxes = star_positions(rng, 60, SHAPE)
    frames = [
        exposure(rng, places + rng.uniform(-drift_px, drift_px, 2), fluxes, SHAPE, fwhm_px=fwhm_px)
        for _ in range(count)
    ]
    for frame in frames:
        frame += hot
    return frames


def hot_map(rng, share=1e-3):
    hot = np.zeros(SHAPE, np.float32)
    places = rng.random(SHAPE) < share
    hot[places] = rng.uniform(150, 4000, places.sum())
    return hot


@pytest.mark.parametrize("fwhm_px", [1.2, 2.2])
@pytest.mark.parametrize("drift_px", [0.0, 0.3, 8.0])
def test_hot_pixels_are_found_and_stars_are_not(drift_px, fwhm_px):
    """Nearly all hot pixels and hardly a star, dithered or not, however sharp."""
    rng = np.random.default_rng(5)
    hot = hot_map(rng)

    found = find_hot_pixels(frames_with(rng, hot, drift_px, fwhm_px=fwhm_px), bayer=False)

    assert (found & (hot > 0)).sum() >= 0.9 * (hot > 0).sum()
    assert (found & (hot == 0)).sum() <= 3  # of 60


@pytest.mark.parametrize("bayer", [False, True])
def test_unseen_pixels_hide_no_hot_one(bayer):
    """Blank pixels in one frame, and a corner blank in all: every hot pixel that is found without them, elsewhere."""
    rng = np.random.default_rng(5)
    hot = hot_map(rng)
    frames = frames_with(rng, hot, 8.0)
    want = find_hot_pixels(frames, bayer)
    frames[0][rng.random(SHAPE) < 0.01] = np.nan
    frames[0][0, 0] = np.nan  # where the frame's level is sampled
    for frame in frames:
        frame[-20:, -20:] = np.nan

    found = find_hot_pixels(frames, bayer)

    elsewhere = np.s_[:-25, :-25]
    assert want[elsewhere].sum() > 10
    assert (found[elsewhere] & want[elsewhere]).sum() >= 0.95 * want[elsewhere].sum()
    assert found.sum() <= want.sum() + 2
    assert not found[-20:, -20:].any()


def test_dead_pixels_and_columns_are_found():
    """A dead pixel and a bright column are as fixed as a hot pixel."""
    rng = np.random.default_rng(6)
    defects = np.zeros(SHAPE, np.float32)
    defects[40, 50] = -300
    defects[:, 120] = 400

    found = find_hot_pixels(frames_with(rng, defects, 5.0), bayer=False)

    assert found[40, 50]
    assert found[:, 120].mean() > 0.9
    assert found.sum() < 200


def test_a_cosmic_ray_in_one_frame_is_no_hot_pixel():
    """What one frame alone shows is left to the stack."""
    rng = np.random.default_rng(7)
    frames = frames_with(rng, np.zeros(SHAPE, np.float32), 5.0)
    frames[2][80, 80] += 5000

    assert not find_hot_pixels(frames, bayer=False)[80, 80]


def test_bayer_stars_are_not_eaten():
    """On a mosaic a star lights neighbours of other colours: no star goes, even without dither; hot pixels do."""
    rng = np.random.default_rng(8)
    hot = hot_map(rng)
    colours = np.tile(np.array([[300, 500], [500, 200]], np.float32), (SHAPE[0] // 2, SHAPE[1] // 2))
    frames = [frame + colours for frame in frames_with(rng, hot, 0.0)]

    found = find_hot_pixels(frames, bayer=True)

    assert (found & (hot > 0)).sum() >= 0.9 * (hot > 0).sum()
    assert (found & (hot == 0)).sum() <= 3  # of 60


@pytest.mark.parametrize("drift_px", [0.0, 0.3, 2.0])
def test_stars_of_one_colour_are_not_eaten(drift_px):
    """Through a narrowband filter a star lights hardly more than its own colour's pixels, two apart: bright ones stay,
    hot pixels go."""
    rng = np.random.default_rng(8)
    hot = hot_map(rng)
    light = np.tile(np.array([[1, 0.1], [0.1, 0.04]], np.float32), (SHAPE[0] // 2, SHAPE[1] // 2))
    frames = []
    for frame in frames_with(rng, np.zeros_like(hot), drift_px, fwhm_px=2.6):
        sky = np.median(frame)
        frames.append(sky + (frame - sky) * light + rng.normal(0, 5, SHAPE).astype(np.float32) + hot)

    found = find_hot_pixels(frames, bayer=True)

    assert (found & (hot > 0)).sum() >= 0.85 * (hot > 0).sum()
    assert (found & (hot == 0)).sum() <= 8


def test_colour_frames_are_searched_band_by_band():
    """A pixel hot in one band alone is marked there alone."""
    rng = np.random.default_rng(9)
    frames = [rng.normal(0, 5, (3, 40, 40)).astype(np.float32) for _ in range(8)]
    for frame in frames:
        frame[1, 20, 20] += 800

    found = find_hot_pixels(frames, bayer=False)

    assert found.shape == (3, 40, 40)
    assert np.argwhere(found).tolist() == [[1, 20, 20]]


def test_repair_takes_like_coloured_neighbours():
    """Mending a mosaic gives the pixel the level of its own colour, in a copy."""
    mosaic = np.tile(np.array([[10, 20], [30, 40]], np.float32), (6, 6))
    broken = mosaic.copy()
    hot = np.zeros(mosaic.shape, bool)
    for place in [(0, 0), (5, 5), (5, 6), (11, 11)]:
        broken[place], hot[place] = 9999, True

    mended = repair(broken, hot, bayer=True)

    assert np.array_equal(mended, mosaic)
    assert broken[0, 0] == 9999


@pytest.mark.parametrize("bayer", [False, True])
def test_single_gaps_are_filled_and_unseen_parts_are_not(bayer):
    """A bad-pixel mask's NaN would spread in debayering; a frame's unseen corner stays unseen."""
    image = np.full((40, 40), 7, np.float32)
    gaps = [(3, 4), (0, 0), (20, 21), (20, 22), (39, 12)]
    for place in gaps:
        image[place] = np.nan
    image[25:, 30:] = np.nan

    mended = repair(image, np.zeros(image.shape, bool), bayer)

    assert all(mended[place] == 7 for place in gaps)
    assert np.isnan(mended[26:, 31:]).all()
    assert np.isnan(image[3, 4])


def test_a_whole_hot_patch_is_bridged():
    """Where all near neighbours are hot too, farther ones serve."""
    image = np.full((20, 20), 7, np.float32)
    hot = np.zeros(image.shape, bool)
    hot[8:11, 8:11] = True
    image[hot] = 500

    assert np.array_equal(repair(image, hot, bayer=False), np.full((20, 20), 7, np.float32))
