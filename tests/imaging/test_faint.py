"""Faint peaks of a restored picture, settled by the plain stack: noise fades, stars stay, nothing else moves."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stackd.imaging.closure import mean_psf, reblurred, stack_blur
from stackd.imaging.faint import LARGEST_CHANGE, LEFT_OF_NOISE, settle_faint
from stackd.imaging.psf import Psf
from stackd.imaging.skies import Sky, blur, splat, splat_otf
from stackd.imaging.star_light import fit_kernel

SHAPE = (150, 161)
TARGET_PX = 2.0
PSFS, WEIGHTS = (Psf(2.6, 3.3), Psf(3.1, 3.0, 0.1, 0.5)), np.array([0.012, 0.008])
STARS, KERNEL = mean_psf(PSFS, WEIGHTS), stack_blur(SHAPE, PSFS, WEIGHTS, TARGET_PX)
NOISE = 3.0
SIGMA = NOISE * float(np.linalg.norm(fit_kernel(STARS)))  # of a star's light
ROW, COLUMN = 70, 80
Image = NDArray[np.float32]


def drawn(light: float, row: int = ROW, column: int = COLUMN) -> Image:
    """A restored star alone."""
    at = (np.array([float(v)]) for v in (column, row))
    return Sky(np.zeros((1, *SHAPE), np.float32), *at, np.array([[light]])).truth(TARGET_PX)[0]


def in_stack(light: float, row: int = ROW, column: int = COLUMN) -> Image:
    """The same star as the frames see it, without noise."""
    share = WEIGHTS / WEIGHTS.sum()
    points = splat(SHAPE, np.array([float(column)]), np.array([float(row)]), np.array([light]))
    return blur(points, sum(w * p.otf(SHAPE) for w, p in zip(share, PSFS)) / splat_otf(SHAPE))


def settled(images: Image, stacks: Image, noise_adu: float = NOISE) -> Image:
    """(bands, H, W) of these. The stacks are told to be noisy and are not, so that each star has exactly its light."""
    again = np.stack([reblurred(image, KERNEL) for image in images])
    return settle_faint(images, stacks, again, np.full_like(stacks, noise_adu), STARS, TARGET_PX)


def height(image: Image) -> float:
    """Of what stands at the star's place."""
    return float(image[ROW, COLUMN])


def test_a_peak_that_the_stack_does_not_show_fades() -> None:
    """A star of 6 sigma that the picture alone knows of."""
    invented = drawn(6 * SIGMA)

    after = settled(invented[None], np.zeros((1, *SHAPE), np.float32))[0]

    assert height(after) == pytest.approx(LEFT_OF_NOISE * height(invented), rel=0.02)


@pytest.mark.parametrize("share", [0.6, 1.0, 1.4])
def test_a_star_that_the_stack_shows_comes_half_way_to_it(share: float) -> None:
    """One of 10 sigma that the picture shows too faint, right or too bright."""
    claimed, true = drawn(share * 10 * SIGMA), drawn(10 * SIGMA)

    after = settled(claimed[None], in_stack(10 * SIGMA)[None])[0]

    assert height(after) == pytest.approx((height(claimed) + height(true)) / 2, rel=0.02)


def test_a_star_in_one_band_is_one_in_all() -> None:
    """A red star of 5 sigma stays, and so do its blue and green, which no stack of their own confirms; but
    they come half way to it, as far as a star may lose light."""
    images = np.stack([drawn(5 * SIGMA), drawn(2 * SIGMA), drawn(2 * SIGMA)])
    stacks = np.stack([in_stack(5 * SIGMA), *np.zeros((2, *SHAPE), np.float32)])

    red, green, blue = (height(b) / height(a) for a, b in zip(images, settled(images, stacks)))
    alone = settled(images[1:], stacks[1:])

    assert red > 0.97
    assert (green, blue) == pytest.approx((1 - 0.5 * LARGEST_CHANGE,) * 2, abs=0.02)
    assert height(alone[0]) == pytest.approx(LEFT_OF_NOISE * height(images[1]), rel=0.02)


def test_a_dim_star_of_every_band_is_seen_in_all_together() -> None:
    """Of 2.7 sigma in each of four bands, so of 5.4 in all of them; in one alone it fades half way."""
    images, stacks = np.stack([drawn(2.7 * SIGMA)] * 4), np.stack([in_stack(2.7 * SIGMA)] * 4)

    together, alone = settled(images, stacks), settled(images[:1], stacks[:1])

    assert height(together[0]) > 0.97 * height(images[0])
    assert 0.4 < height(alone[0]) / height(images[0]) < 0.7


def test_a_false_peak_takes_no_star_with_it() -> None:
    """Both of 8 sigma, 3 px apart: the star stays but for some light that the stack misses around it."""
    picture = drawn(8 * SIGMA) + drawn(8 * SIGMA, ROW, COLUMN + 3)

    after = settled(picture[None], in_stack(8 * SIGMA)[None])[0]

    assert height(after) > 0.85 * height(picture)


def test_a_star_is_given_no_more_than_a_part_of_what_the_stack_says() -> None:
    """The stack shows 10 sigma where the picture has one: it may be a fit's mistake."""
    claimed, true = drawn(1 * SIGMA), drawn(10 * SIGMA)

    after = settled(claimed[None], in_stack(10 * SIGMA)[None])[0]

    assert height(after) == pytest.approx(height(claimed) + 0.5 * LARGEST_CHANGE * height(true), rel=0.02)


def test_a_star_that_may_be_noise_is_given_less() -> None:
    """Of 4.5 sigma, half as sure as one of 5 or more."""
    claimed, true = drawn(0.6 * 4.5 * SIGMA), drawn(4.5 * SIGMA)

    after = settled(claimed[None], in_stack(4.5 * SIGMA)[None])[0]

    assert height(after) == pytest.approx(0.75 * height(claimed) + 0.25 * height(true), rel=0.02)


def test_brighter_stars_are_not_given_light() -> None:
    """Of 30 sigma, a tenth too faint: those are closed, by apertures and fits."""
    dimmed = drawn(0.9 * 30 * SIGMA)

    after = settled(dimmed[None], in_stack(30 * SIGMA)[None])[0]

    assert height(after) == pytest.approx(height(dimmed), rel=0.001)


def test_bright_stars_and_smooth_light_are_left_alone() -> None:
    """A star of 300 sigma on a slope: not a hundredth of its peak changes anywhere near, the slope by a tenth of the
    stack's noise at most."""
    slope = np.linspace(0, 10, SHAPE[1], dtype=np.float32) * np.ones((SHAPE[0], 1), np.float32)
    picture, stack = drawn(300 * SIGMA) + slope, in_stack(300 * SIGMA) + slope

    change = np.abs(settled(picture[None], stack[None])[0] - picture)

    assert change[ROW - 8 : ROW + 9, COLUMN - 8 : COLUMN + 9].max() < 0.01 * height(picture)
    assert np.quantile(change, 0.99) < 0.1 * NOISE


@pytest.mark.parametrize("in_the_stack", [0.0, 1.3])
def test_a_nebulas_detail_is_left_alone(in_the_stack: float) -> None:
    """Knots of light all over, of which a fit of stars in the stack finds nothing, or a third more."""
    rng = np.random.default_rng(3)
    points = np.zeros(SHAPE, np.float32)
    points[rng.integers(0, SHAPE[0], 4000), rng.integers(0, SHAPE[1], 4000)] = rng.uniform(0, 8 * SIGMA, 4000)
    knots = blur(points, STARS.otf(SHAPE))
    picture = (knots + 200)[None]

    after = settled(picture, 200 + in_the_stack * knots[None])

    assert np.abs(after - picture).max() < 0.1 * np.ptp(picture)


def test_a_filament_stays_where_no_place_of_it_is_sure() -> None:
    """A slanted line, some 2 sigma of a star at each place, under a stack's real noise: most of it stays, and would
    not were each place asked alone."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    line = np.exp(-0.5 * ((0.8 * (rows - ROW) - 0.6 * (columns - COLUMN)) / 1.2) ** 2)
    on_line = line > 0.8
    light = 6.0 * reblurred(line, KERNEL) / reblurred(line, KERNEL).max()
    rng = np.random.default_rng(5)
    stack = light + rng.normal(0, NOISE, SHAPE).astype(np.float32)
    grain = cv2.GaussianBlur(rng.normal(0, 1, SHAPE).astype(np.float32), (0, 0), 1.2)
    picture = 8.0 * line * (1 + grain)

    after = settled(picture[None], stack[None])[0]

    assert after[on_line].mean() > 0.9 * picture[on_line].mean()


def test_a_star_draws_no_line() -> None:
    """A peak of noise 10 px beside a star of 15 sigma is no filament: it fades."""
    star, invented = drawn(15 * SIGMA, ROW, COLUMN + 10), drawn(3 * SIGMA)

    after = settled((star + invented)[None], in_stack(15 * SIGMA, ROW, COLUMN + 10)[None])[0]

    assert height(after) == pytest.approx(LEFT_OF_NOISE * height(invented), rel=0.05)


def test_rings_that_a_wrong_star_shape_leaves_are_given_nothing() -> None:
    """Around a star of 5000 sigma that is a twentieth wider than told."""
    wide = Psf(1.05 * STARS.fwhm_px, STARS.beta)
    points = splat(SHAPE, np.array([float(COLUMN)]), np.array([float(ROW)]), np.array([5000 * SIGMA]))
    stack = blur(points, wide.otf(SHAPE) / splat_otf(SHAPE))
    bumps = [drawn(2 * SIGMA, ROW + y, COLUMN + x) for y, x in ((8, 0), (0, -7), (-6, 5), (4, 9))]
    picture = drawn(5000 * SIGMA) + sum(bumps)

    change = settled(picture[None], stack[None])[0] - picture

    assert change[ROW - 12 : ROW + 13, COLUMN - 12 : COLUMN + 13].max() < 0.1 * bumps[0].max()


def test_closest_to_the_brightest_stars_nothing_fades() -> None:
    """4 px beside one of 20,000 sigma, whose wings in the stack are a twentieth too narrow: a star of 50 sigma."""
    narrow = Psf(0.95 * STARS.fwhm_px, STARS.beta)
    both = np.array([float(COLUMN), COLUMN + 4.0]), np.array([float(ROW), float(ROW)])
    points = splat(SHAPE, *both, np.array([20_000, 50]) * SIGMA)
    stack = blur(points, narrow.otf(SHAPE) / splat_otf(SHAPE))
    picture = drawn(20_000 * SIGMA) + drawn(50 * SIGMA, ROW, COLUMN + 4)

    after = settled(picture[None], stack[None])[0]

    assert after[ROW, COLUMN + 4] > 0.95 * picture[ROW, COLUMN + 4]


def test_a_border_of_unseen_pixels_says_nothing() -> None:
    """A peak so near it that a fit lacks pixels: as it was, where it would fade elsewhere."""
    picture = drawn(4 * SIGMA)[None]
    stack, noise = np.zeros_like(picture), np.full_like(picture, NOISE)
    stack[:, :, : COLUMN - 5] = noise[:, :, : COLUMN - 5] = np.nan

    after = settle_faint(picture, stack, np.stack([reblurred(picture[0], KERNEL)]), noise, STARS, TARGET_PX)

    assert height(after[0]) == pytest.approx(height(picture[0]), rel=0.001)


@pytest.mark.parametrize("share_of_few", [0.2, 0.8])
def test_where_fewer_frames_saw_the_sky_more_is_needed(share_of_few: float) -> None:
    """Two frames instead of eight on some columns, so twice the noise there: peaks of 6 of the depth's own sigma stay
    and of 1 fade, on both sides alike, whichever of them is the larger."""
    rng = np.random.default_rng(8)
    noise = np.full((1, *SHAPE), NOISE, np.float32)
    noise[:, :, : int(share_of_few * SHAPE[1])] *= 2
    stack = rng.normal(0, noise).astype(np.float32)
    places = [(row, column) for row in range(15, 140, 30) for column in (10, 20, 140, 150)]
    picture = np.zeros(SHAPE, np.float32)
    for number, (row, column) in enumerate(places):
        sigma = SIGMA * noise[0, row, column] / NOISE
        picture += drawn((6 if number % 2 else 1) * sigma, row, column)
        stack[0] += in_stack((6 if number % 2 else 0) * sigma, row, column)

    after = settle_faint(
        picture[None], stack, np.stack([reblurred(picture, KERNEL)]), noise, STARS, TARGET_PX
    )[0]  # fmt: skip

    left = np.array([after[place] / picture[place] for place in places])
    assert (left[1::2] > 0.75).mean() > 0.8
    assert np.median(left[0::2]) < LEFT_OF_NOISE + 0.1


def test_unseen_pixels_do_not_spread() -> None:
    """Unseen columns in the stack, a peak in them: numbers wherever the picture has them, the star beside them as
    before."""
    picture, stack = (drawn(30 * SIGMA) + drawn(5 * SIGMA, 30, 30))[None], in_stack(30 * SIGMA)[None]
    noise = np.full_like(stack, NOISE)
    stack[:, :, : COLUMN - 8] = noise[:, :, : COLUMN - 8] = np.nan

    after = settle_faint(picture, stack, np.stack([reblurred(picture[0], KERNEL)]), noise, STARS, TARGET_PX)

    assert np.isfinite(after).all()
    assert height(after[0]) == pytest.approx(height(picture[0]), rel=0.01)


def test_a_stack_without_noise_is_believed() -> None:
    """Nothing divides by it: what the stack shows stays."""
    picture = drawn(500.0)[None]

    after = settled(picture, in_stack(500.0)[None], noise_adu=0.0)

    assert np.isfinite(after).all()
    assert height(after[0]) == pytest.approx(height(picture[0]), rel=0.02)


def test_an_empty_picture_stays_empty() -> None:
    """No peak, no change."""
    nothing = np.zeros((2, *SHAPE), np.float32)

    assert not settled(nothing, nothing).any()
