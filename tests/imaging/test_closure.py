"""The restored picture held against the plain stack: the truth passes, lost and invented light does not."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from stackd.imaging.closure import (
    LARGEST_CORRECTION,
    NETWORK_FLUX_ERROR,
    check_fluxes,
    close_fluxes,
    darkest_around,
    mean_psf,
    reblurred,
    stack_blur,
    stack_view,
    widened,
)
from stackd.imaging.psf import Psf
from stackd.imaging.psf_field import PsfField
from stackd.imaging.skies import Sky, blur, splat, splat_otf
from stackd.imaging.star_light import APERTURES_PX, RING_APERTURES, stars_in_stack

SHAPE = (180, 191)
TARGET_PX = 2.0
PSFS = (Psf(2.4, 3.5), Psf(3.1, 3.0, 0.1, 0.5), Psf(3.6, 2.8, 0.05, 2.0))
WEIGHTS = np.array([0.012, 0.01, 0.007])
STARS = mean_psf(PSFS, WEIGHTS)
KERNEL = stack_blur(SHAPE, PSFS, WEIGHTS, TARGET_PX)


@pytest.fixture
def sky(rng: np.random.Generator) -> Sky:
    """Stars apart from each other over a faint glow."""
    y, x = (grid.ravel() for grid in np.mgrid[25:165:26, 25:175:26])
    x, y = x + rng.uniform(-3, 3, len(x)), y + rng.uniform(-3, 3, len(x))
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    glow = 50 * np.exp(-((columns - 90) ** 2 + (rows - 80) ** 2) / 1800)
    return Sky(glow[None].astype(np.float32), x, y, rng.uniform(5e3, 5e4, (1, len(x))))


def plain_stack(sky: Sky) -> NDArray[np.float32]:
    """The weighted mean of noiseless frames; diffuse light is not integrated over pixels again."""
    points = splat(SHAPE, sky.x, sky.y, sky.flux[0])
    share = WEIGHTS / WEIGHTS.sum()
    otf = sum(w * p.otf(SHAPE) for w, p in zip(share, PSFS))
    return blur(points, otf / splat_otf(SHAPE)) + blur(sky.diffuse[0], otf)


def seen_again(sky: Sky) -> NDArray[np.float32]:
    return reblurred(sky.truth(TARGET_PX)[0], KERNEL)


def test_the_truth_reblurred_is_the_plain_stack(sky: Sky) -> None:
    """Away from the edge, to 3 % at the brightest star's peak, everywhere else far less; no light is lost."""
    stack, again = plain_stack(sky), seen_again(sky)

    inner = slice(10, -10), slice(10, -10)
    difference = (again - stack)[inner]
    assert np.abs(difference).max() < 0.03 * stack.max()
    assert np.sqrt(np.mean(difference**2)) < 0.001 * stack.max()
    assert again.sum() == pytest.approx(stack.sum(), rel=0.002)
    assert again.dtype == np.float32


def test_unseen_pixels_do_not_spread(sky: Sky) -> None:
    """A picture with NaN gives numbers everywhere, right ones a few widths away from the hole."""
    picture = sky.truth(TARGET_PX)[0]
    picture[:, :15] = np.nan

    again = reblurred(picture, KERNEL)

    assert np.isfinite(again).all()
    assert np.abs(again - seen_again(sky))[:, 45:].max() < 5


def test_true_fluxes_pass(sky: Sky, rng: np.random.Generator) -> None:
    """Hardly a change and hardly a scatter, noise in the stack or not, unseen parts or not."""
    stack = plain_stack(sky) + rng.normal(0, 3, SHAPE).astype(np.float32)
    stack[:, :30] = np.nan

    check = check_fluxes(stack, seen_again(sky), STARS, sky.x, sky.y, sky.flux[0])

    assert check is not None
    assert 15 < check.stars < len(sky.x)
    assert abs(check.change_mag) < 0.005
    assert check.scatter_mag < 0.01


@pytest.mark.parametrize("share", [0.8, 1.25])
def test_dimmed_and_brightened_stars_show(sky: Sky, share: float) -> None:
    """A network that takes or adds light at all stars: the change in magnitudes."""
    wrong = Sky(sky.diffuse, sky.x, sky.y, sky.flux * share)

    check = check_fluxes(plain_stack(sky), seen_again(wrong), STARS, sky.x, sky.y, sky.flux[0])

    assert check is not None
    assert check.change_mag == pytest.approx(-2.5 * np.log10(share), abs=0.06)


def test_removed_stars_show(sky: Sky) -> None:
    """Every second star's light halved: the scatter tells, whatever the median says; all light gone: no star left."""
    flux = sky.flux.copy()
    flux[:, ::2] *= 0.5
    halved, none = Sky(sky.diffuse, sky.x, sky.y, flux), Sky(sky.diffuse, sky.x, sky.y, sky.flux * 0)

    check = check_fluxes(plain_stack(sky), seen_again(halved), STARS, sky.x, sky.y, sky.flux[0])
    gone = check_fluxes(plain_stack(sky), seen_again(none), STARS, sky.x, sky.y, sky.flux[0])

    assert check is not None
    assert max(check.scatter_mag, abs(check.change_mag)) > 0.3
    assert gone is None or gone.change_mag > 1.5


def test_too_few_stars_give_no_verdict(sky: Sky) -> None:
    """Below five stars away from the edge there is nothing to say."""
    stack, again = plain_stack(sky), seen_again(sky)

    assert check_fluxes(stack, again, STARS, sky.x[:4], sky.y[:4], sky.flux[0, :4]) is None
    edge = np.full(9, 3.0)
    assert check_fluxes(stack, again, STARS, edge, np.linspace(20, 160, 9), np.full(9, 1e4)) is None


def test_the_mean_psf_is_the_stacks_own(sky: Sky) -> None:
    """Star fluxes measured with it on the plain stack are the true ones to 3 %, and their noise is told."""
    flux, snr = stars_in_stack(plain_stack(sky), 3.0, STARS, sky.x, sky.y)

    assert min(p.fwhm_px for p in PSFS) < STARS.fwhm_px < max(p.fwhm_px for p in PSFS)
    np.testing.assert_allclose(flux, sky.flux[0], rtol=0.05)
    assert np.median(flux / sky.flux[0]) == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(snr * 3.0 * 1.5 * STARS.fwhm_px, flux)


def closed_again(sky: Sky, wrong: Sky, psf: Psf, noise_adu: float = 0.01) -> tuple[NDArray, NDArray]:
    """The wrong sky's picture closed on the true sky's stack, and that as the stack would show it."""
    flux = stars_in_stack(plain_stack(sky), 3.0, psf, sky.x, sky.y)[0]
    closed = close_band(
        wrong.truth(TARGET_PX)[0], plain_stack(sky), seen_again(wrong), psf, sky.x, sky.y, flux, noise_adu, TARGET_PX
    )
    return closed, reblurred(closed, KERNEL)


def close_band(
    image: NDArray, stack: NDArray, again: NDArray, psf: Psf, x, y, flux, noise_adu: float, target_fwhm_px, **told
) -> NDArray:
    """A single band closed."""
    planes = image[None], stack[None], again[None]
    return close_fluxes(*planes, psf, x, y, flux[None], [noise_adu], target_fwhm_px, **told)[0]


def some_wrong(sky: Sky, share: float) -> Sky:
    """Every third star with this share of its light."""
    flux = sky.flux.copy()
    flux[:, ::3] *= share
    return Sky(sky.diffuse, sky.x, sky.y, flux)


def test_sky_that_nobody_saw_lacks_no_light(sky: Sky) -> None:
    """A star beside unseen pixels, on a high ground: what is not known there is not given to the star."""
    ground, star = np.float32(200), 8
    stack = plain_stack(sky) + ground
    flux = stars_in_stack(plain_stack(sky), 3.0, STARS, sky.x, sky.y)[0]
    row, column = round(sky.y[star]), round(sky.x[star])
    stack[row - 11 : row + 12, column + 8 : column + 12] = np.nan
    truth = sky.truth(TARGET_PX)[0] + ground

    closed = close_band(truth, stack, seen_again(sky) + ground, STARS, sky.x, sky.y, flux, 0.01, TARGET_PX)

    around = np.s_[row - 5 : row + 6, column - 5 : column + 6]
    assert abs((closed - truth)[around].sum()) < 0.02 * sky.flux[0, star]


@pytest.mark.parametrize("share", [0.7, 1.0, 1.3])
def test_the_light_of_stars_is_given_back(sky: Sky, share: float) -> None:
    """Some stars with too little or too much light: closed, they and the others are right to 0.02 mag, and the open
    sky between them is as it was."""
    wrong = some_wrong(sky, share)

    closed, again = closed_again(sky, wrong, STARS)

    for those in (slice(0, None, 3), slice(1, None, 3), slice(2, None, 3)):
        check = check_fluxes(plain_stack(sky), again, STARS, sky.x[those], sky.y[those], sky.flux[0, those])
        assert check is not None
        assert abs(check.change_mag) < 0.02
        assert check.scatter_mag < 0.02
    picture = wrong.truth(TARGET_PX)[0]
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    far = np.min([np.hypot(y - b, x - a) for a, b in zip(sky.x, sky.y)], axis=0) > 8
    assert np.abs(closed - picture)[far].max() < 5e-4 * picture.max()


def test_a_noisy_stack_is_believed_less(sky: Sky) -> None:
    """Every third star without a tenth of its light. Where the stack's noise in an aperture is as much as the network's
    own error, half of it is given back or, by a fit of half that noise, up to four fifths; where it is ten times that,
    hardly any."""
    dimmed = slice(0, None, 3)
    ring = RING_APERTURES[1] ** 2 - RING_APERTURES[0] ** 2
    pixels = np.pi * APERTURES_PX[1] ** 2 * (1 + 1 / ring)
    equal = NETWORK_FLUX_ERROR * float(np.median(sky.flux[0, dimmed])) / np.sqrt(pixels)

    left = []
    for noise_adu in (0.01, equal, 10 * equal):
        _, again = closed_again(sky, some_wrong(sky, 0.9), STARS, noise_adu)
        check = check_fluxes(plain_stack(sky), again, STARS, sky.x[dimmed], sky.y[dimmed], sky.flux[0, dimmed])
        assert check is not None
        left.append(check.change_mag)

    assert abs(left[0]) < 0.01
    assert 0.2 < left[1] / left[2] < 0.6
    assert left[2] == pytest.approx(-2.5 * np.log10(0.9), abs=0.015)


def test_noise_that_neighbours_share_is_not_taken_for_light(sky: Sky, rng: np.random.Generator) -> None:
    """A picture that is right and a stack whose pixels err in cells of 4 x 4, as a debayered colour's nearly do: an
    aperture's noise is four times what single pixels tell, and a quarter of it at most goes into faint stars."""
    noise_adu, cell_px = 20.0, 4
    faint = Sky(sky.diffuse, sky.x, sky.y, sky.flux / 4)
    cells = rng.normal(0, noise_adu, [size // cell_px + 1 for size in SHAPE])
    noise = np.kron(cells, np.ones((cell_px, cell_px)))[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    picture = faint.truth(TARGET_PX)[0]

    closed = close_band(
        picture, plain_stack(faint) + noise, seen_again(faint), STARS, sky.x, sky.y, faint.flux[0], noise_adu, TARGET_PX
    )

    columns, rows = np.rint(sky.x).astype(int), np.rint(sky.y).astype(int)
    added = np.array([(closed - picture)[r - 5 : r + 6, c - 5 : c + 6].sum() for r, c in zip(rows, columns)])
    in_aperture = cell_px * noise_adu * np.sqrt(np.pi) * APERTURES_PX[1]
    assert np.std(added) < in_aperture / 4


@pytest.mark.parametrize("apart_px", [4.5, 9.5])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_neighbours_light_is_not_a_companions(sky: Sky, apart_px: float, share: float) -> None:
    """Every star with a faint companion; every third bright one lacks a tenth of its light, the companions none.
    The bright ones get it back, and the companions hardly any of it."""
    count = len(sky.x)
    x, y = np.append(sky.x, sky.x + apart_px), np.append(sky.y, sky.y)
    pairs = Sky(sky.diffuse, x, y, np.append(sky.flux, share * sky.flux, axis=1))
    wrong = replace(pairs, flux=pairs.flux.copy())
    wrong.flux[:, :count:3] *= 0.9

    closed = close_band(
        wrong.truth(TARGET_PX)[0], plain_stack(pairs), seen_again(wrong), STARS, x, y, pairs.flux[0], 3.0, TARGET_PX
    )

    added = closed - wrong.truth(TARGET_PX)[0]
    columns, rows = np.rint(x).astype(int), np.rint(y).astype(int)
    light = np.array([added[r - 1 : r + 2, c - 1 : c + 2].sum() for r, c in zip(rows, columns)])
    assert np.median(light[:count:3] / sky.flux[0, ::3]) > 0.05
    assert np.abs(light[count:] / pairs.flux[0, count:]).max() < 0.25


def test_what_only_sharp_frames_saw_lacks_nothing(sky: Sky) -> None:
    """On the right the stack is sharper than its mean PSF: told so, closing adds nothing there; untold it would."""
    sharp = stack_blur(SHAPE, PSFS[:1], np.ones(1), TARGET_PX)
    right = sky.x > SHAPE[1] / 2
    stack = np.where(np.arange(SHAPE[1]) > SHAPE[1] / 2, reblurred(sky.truth(TARGET_PX)[0], sharp), plain_stack(sky))

    def excess(radius_px: float) -> NDArray:
        return np.where(right, PSFS[0].share_within(radius_px) / STARS.share_within(radius_px) - 1, 0)

    added = []
    for told in ({"excess": excess}, {}):
        picture = sky.truth(TARGET_PX)[0]
        closed = close_band(picture, stack, seen_again(sky), STARS, sky.x, sky.y, sky.flux[0], 3.0, TARGET_PX, **told)
        columns, rows = np.rint(sky.x).astype(int), np.rint(sky.y).astype(int)
        light = [(closed - picture)[r - 5 : r + 6, c - 5 : c + 6].sum() for r, c in zip(rows, columns)]
        added.append(np.ptp([np.median((light / sky.flux[0])[side]) for side in (right, ~right)]))

    assert added[0] < 0.02
    assert added[1] > 0.03


def test_colours_stay_the_stacks_own(sky: Sky) -> None:
    """Red stars whose blue the network took from their green: closed, blue is the stack's, though all of them had too
    much of it alike. What all lack in the brightest band is the wings' and is left in both."""
    colours = Sky(np.repeat(sky.diffuse, 2, 0), sky.x, sky.y, np.concatenate([sky.flux, 0.1 * sky.flux]))
    wrong = replace(colours, flux=colours.flux * [[0.97], [1.4]])
    stacks, again = (np.stack([reblurred(band, KERNEL) for band in one.truth(TARGET_PX)]) for one in (colours, wrong))

    closed = close_fluxes(
        wrong.truth(TARGET_PX), stacks, again, STARS, sky.x, sky.y, colours.flux, [3.0, 3.0], TARGET_PX
    )

    left = [
        check_fluxes(stack, reblurred(band, KERNEL), STARS, sky.x, sky.y, flux)
        for stack, band, flux in zip(stacks, closed, colours.flux)
    ]
    assert left[0].change_mag == pytest.approx(-2.5 * np.log10(0.97), abs=0.01)
    assert abs(left[1].change_mag) < 0.06


def test_stars_need_no_true_psf(sky: Sky) -> None:
    """A PSF a tenth too narrow: what an aperture measures is right all the same."""
    dimmed = slice(0, None, 3)

    _, again = closed_again(sky, some_wrong(sky, 0.5), replace(STARS, fwhm_px=0.9 * STARS.fwhm_px))

    check = check_fluxes(plain_stack(sky), again, STARS, sky.x[dimmed], sky.y[dimmed], sky.flux[0, dimmed])
    assert check is not None
    assert abs(check.change_mag) < 0.02


def test_bright_stars_that_differ_in_width_keep_their_light(sky: Sky) -> None:
    """Stars wider on the right than on the left and a picture that has their light right already: what a narrow
    aperture misses of the wide ones is not taken for light that the picture has too much of."""
    usual = Psf(1.9, 3.0)
    stack = np.zeros(SHAPE)
    for x, y, flux in zip(sky.x, sky.y, sky.flux[0]):
        star = replace(usual, fwhm_px=usual.fwhm_px * (1 + 0.1 * (x - SHAPE[1] / 2) / SHAPE[1]))
        stack += blur(splat(SHAPE, *(np.array([v]) for v in (x, y, flux))), star.otf(SHAPE) / splat_otf(SHAPE))
    picture = Sky(0 * sky.diffuse, sky.x, sky.y, sky.flux).truth(TARGET_PX)[0]
    again = reblurred(picture, stack_blur(SHAPE, (usual,), np.ones(1), TARGET_PX))

    closed = close_band(
        picture, stack.astype(np.float32), again, usual, sky.x, sky.y, sky.flux[0], noise_adu=1.0,
        target_fwhm_px=TARGET_PX,
    )  # fmt: skip

    columns, rows = np.rint(sky.x).astype(int), np.rint(sky.y).astype(int)
    added = np.array([(closed - picture)[r - 5 : r + 6, c - 5 : c + 6].sum() for r, c in zip(rows, columns)])
    assert np.std(added / sky.flux[0]) < 0.002


@pytest.mark.parametrize("column_adu", [-2e5, 2e5])
def test_a_misread_star_is_not_put_out(sky: Sky, column_adu: float) -> None:
    """What is no star (a bleeding column) fills a star's ring or aperture: no more than LARGEST_CORRECTION of its
    light is given or taken, and stars far from it are left alone."""
    star = len(sky.x) // 2
    picture, stack = sky.truth(TARGET_PX)[0], plain_stack(sky)
    stack[:, round(sky.x[star]) + 8 : round(sky.x[star]) + 10] -= np.float32(column_adu)
    flux = stars_in_stack(plain_stack(sky), 3.0, STARS, sky.x, sky.y)[0]

    closed = close_band(picture, stack, seen_again(sky), STARS, sky.x, sky.y, flux, 0.01, TARGET_PX)

    columns, rows = np.rint(sky.x).astype(int), np.rint(sky.y).astype(int)
    added = np.array([(closed - picture)[r - 5 : r + 6, c - 5 : c + 6].sum() for r, c in zip(rows, columns)])
    assert np.abs(added / sky.flux[0]).max() < LARGEST_CORRECTION + 0.02
    far = np.abs(sky.x - sky.x[star]) > 40
    assert far.sum() > 5
    assert np.abs(added / sky.flux[0])[far].max() < 0.02


def test_no_light_is_darker_than_the_sky_around(sky: Sky, rng: np.random.Generator) -> None:
    """The truth passes, stars, glow and a dark half; the limit is the darkest sky around, and where nobody saw anything
    there is none."""
    ground = np.where(np.arange(SHAPE[1]) < 60, 0, 500).astype(np.float32)
    truth = sky.truth(TARGET_PX)[0] + ground
    stack = (plain_stack(sky) + ground + rng.normal(0, 10, SHAPE)).astype(np.float32)
    stack[:70, 120:] = np.nan

    darkest = darkest_around(stack)

    assert (truth > darkest - 10).all()
    assert darkest[100, 50] == pytest.approx(0, abs=10)
    assert darkest[150, 160] == pytest.approx(500, abs=10)
    assert darkest[10, 185] == -np.inf
    assert (darkest_around(np.full(SHAPE, np.nan, np.float32)) == -np.inf).all()


def test_what_all_stars_lack_alike_is_left(sky: Sky) -> None:
    """A fifth of every star's light gone: it may be the wings' fault, so hardly anything is added, and the check
    tells."""
    wrong = Sky(sky.diffuse, sky.x, sky.y, 0.8 * sky.flux)

    _, again = closed_again(sky, wrong, STARS)

    check = check_fluxes(plain_stack(sky), again, STARS, sky.x, sky.y, sky.flux[0])
    assert check is not None
    assert check.change_mag == pytest.approx(-2.5 * np.log10(0.8), abs=0.03)
    assert check.scatter_mag < 0.02


def test_a_wider_star_is_a_blur_away(sky: Sky) -> None:
    """The truth at one width made wider is the truth at that width; no light is lost."""
    narrow, wide = (sky.truth(width_px)[0] for width_px in (TARGET_PX, 3.2))

    found = widened(narrow, TARGET_PX, 3.2)

    inner = slice(8, -8), slice(8, -8)
    np.testing.assert_allclose(found[inner], wide[inner], atol=2e-3 * wide.max())
    assert found.sum() == pytest.approx(narrow.sum(), rel=0.002)


def test_the_stacks_view_follows_the_field(sky: Sky) -> None:
    """Without a field all bands are blurred alike; with one that adds nothing, too; with one that adds, more so where
    it does."""
    bands = np.stack([sky.truth(TARGET_PX)[0]] * 2)
    terms = np.zeros((3, 6))
    flat = PsfField(terms, SHAPE)
    terms = terms.copy()
    terms[(0, 2), 1] = 3.0  # wider on the right, narrower on the left
    tilted = replace(flat, terms=terms)

    alike, level, tilt = (stack_view(SHAPE, PSFS, WEIGHTS, TARGET_PX, field)(bands) for field in (None, flat, tilted))

    np.testing.assert_array_equal(alike, np.stack([reblurred(band, KERNEL) for band in bands]))
    np.testing.assert_allclose(level, alike, atol=2e-3 * alike.max())
    columns, rows = np.round(sky.x).astype(int), np.round(sky.y).astype(int)
    change = tilt[0, rows, columns] / alike[0, rows, columns]
    assert np.median(change[columns > 0.7 * SHAPE[1]]) < 0.95
    assert np.median(change[columns < 0.3 * SHAPE[1]]) > 1.05
