"""The light that a picture lacks of the stack's stars: right by aperture and by fit, the fit with less noise."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stackd.imaging.closure import reblurred, stack_blur
from stackd.imaging.psf import Psf
from stackd.imaging.skies import Sky, blur, splat, splat_otf
from stackd.imaging.star_light import Aperture, Fit, Lacking, aperture_px, stars_in_stack

SHAPE = (200, 210)
TARGET_PX = 2.0
STARS = Psf(3.0, 3.2)
NOISE_ADU = 6.0


@pytest.fixture
def sky(rng: np.random.Generator) -> Sky:
    """Stars apart from each other, alone on a dark sky."""
    y, x = (grid.ravel() for grid in np.mgrid[25:185:25, 25:195:25])
    x, y = x + rng.uniform(-3, 3, len(x)), y + rng.uniform(-3, 3, len(x))
    return Sky(np.zeros((1, *SHAPE), np.float32), x, y, rng.uniform(4e3, 4e4, (1, len(x))))


def stack_of(sky: Sky) -> NDArray[np.float32]:
    """Without noise."""
    points = splat(SHAPE, sky.x, sky.y, sky.flux[0])
    return blur(points, STARS.otf(SHAPE) / splat_otf(SHAPE))


def told(sky: Sky, stack: NDArray, picture: NDArray, excess: float = 0.0) -> tuple[Lacking, Lacking]:
    """By aperture and by fit."""
    difference = stack - reblurred(picture, stack_blur(SHAPE, (STARS,), np.ones(1), TARGET_PX))
    flux = stars_in_stack(stack, NOISE_ADU, STARS, sky.x, sky.y)[0]
    aperture = Aperture.around(sky.x, sky.y, STARS, aperture_px(STARS), lambda radius_px: excess)
    fit = Fit.of(sky.x, sky.y, STARS, TARGET_PX, aperture.excess)
    return aperture.lacking(difference, flux, NOISE_ADU), fit.lacking(picture, difference, flux, NOISE_ADU)


def with_flux(sky: Sky, flux: NDArray) -> Sky:
    return Sky(sky.diffuse, sky.x, sky.y, flux[None])


def test_both_tell_what_is_lacking(sky: Sky) -> None:
    """Every third star has nine tenths of its light; what all stars lack alike is a matter of wings."""
    share = np.where(np.arange(len(sky.x)) % 3, 1.0, 0.9)
    picture = with_flux(sky, share * sky.flux[0]).truth(TARGET_PX)[0]

    for way in told(sky, stack_of(sky), picture):
        lacks = way.light / sky.flux[0]
        np.testing.assert_allclose(lacks - np.median(lacks[share == 1]), 1 - share, atol=0.01)


def test_a_fit_has_less_noise_and_both_know_theirs(sky: Sky, rng: np.random.Generator) -> None:
    """In the scatter over noisy stacks, against what each claims."""
    picture, stack = sky.truth(TARGET_PX)[0], stack_of(sky)
    rows = [told(sky, stack + rng.normal(0, NOISE_ADU, SHAPE).astype(np.float32), picture) for _ in range(8)]

    seen = [np.std([row[k].light for row in rows], axis=0, ddof=1).mean() for k in (0, 1)]
    claimed = [np.mean([row[k].noise for row in rows]) for k in (0, 1)]

    assert seen == pytest.approx(claimed, rel=0.15)
    assert claimed[1] < 0.65 * claimed[0]


def test_a_star_of_another_width_lacks_no_light(sky: Sky) -> None:
    """Restored a fifth too wide, with all of its light: a fit to the difference would see a hole in its core."""
    wide = np.arange(len(sky.x)) % 3 == 0
    picture = sum(
        with_flux(sky, np.where(those, sky.flux[0], 0)).truth(width)[0]
        for those, width in ((wide, 1.2 * TARGET_PX), (~wide, TARGET_PX))
    )

    _, fit = told(sky, stack_of(sky), picture)

    lacks = fit.light / sky.flux[0]
    assert abs(np.median(lacks[wide]) - np.median(lacks[~wide])) < 0.02


def test_a_companions_light_is_its_own(sky: Sky) -> None:
    """Pairs 4.5 px apart, the fainter with a tenth of the light, and nothing lacking."""
    x, y = np.append(sky.x, sky.x + 4.5), np.append(sky.y, sky.y)
    pairs = Sky(sky.diffuse, x, y, np.append(sky.flux, 0.1 * sky.flux, axis=1))

    _, fit = told(pairs, stack_of(pairs), pairs.truth(TARGET_PX)[0])

    lacks = fit.light / pairs.flux[0]
    assert np.abs(lacks - np.median(lacks)).max() < 0.05


def test_stars_that_other_frames_saw_are_not_fitted(sky: Sky) -> None:
    """Their profile is not the one that is told."""
    aperture, fit = told(sky, stack_of(sky), sky.truth(TARGET_PX)[0], excess=0.03)

    assert np.isfinite(aperture.light).all()
    assert np.isnan(fit.light).all()
