"""How star shapes change over the field is measured where stars tell it, and nothing is made up where they do not."""

from dataclasses import replace

import numpy as np
import pytest

from stackd.imaging.camera import Night, expose
from stackd.imaging.psf import Psf
from stackd.imaging.psf_field import PsfField
from stackd.imaging.psf_field_fit import measure_field
from stackd.imaging.psf_fit import fit_psf
from stackd.imaging.skies import Sky

SIZE_PX = 560
MIDDLE_PX = (SIZE_PX - 1) / 2
NOISE_ADU = 12.0
FWHM_PX = 2.6
QUIET = Night(
    frames=1, fwhm_px=(FWHM_PX, FWHM_PX), beta=(3.3, 3.3), ellipticity=(0.0, 0.0), transparency=(1.0, 1.0),
    sky=(120.0, 120.0), gradient=0.0, read_noise=5.0, hot_pixels=0.0, cosmic_rays_per_mpx=0.0,
)  # fmt: skip


def star_field(rng: np.random.Generator, count: int) -> Sky:
    flux = np.exp(rng.uniform(np.log(3e3), np.log(2e5), (1, count)))
    x, y = rng.uniform(0, SIZE_PX, (2, count))
    return Sky(np.zeros((1, SIZE_PX, SIZE_PX), np.float32), x, y, flux)


def seen(sky: Sky, rng: np.random.Generator, **night: float) -> np.ndarray:
    """One quiet exposure above its sky."""
    return expose(sky, replace(QUIET, **night), rng)[0].pixels - 420


def usual_of(image: np.ndarray, sky: Sky) -> Psf:
    """The shape of the stars in the middle."""
    near = np.hypot(sky.x - MIDDLE_PX, sky.y - MIDDLE_PX) < SIZE_PX / 5
    usual = fit_psf(image, sky.x[near], sky.y[near], sky.flux[0][near], NOISE_ADU)
    assert usual is not None
    return usual


def measured(image: np.ndarray, sky: Sky) -> PsfField | None:
    return measure_field(image, NOISE_ADU, 5e4, usual_of(image, sky), np.ones(image.shape, bool), len(sky.x))


def test_stars_that_grow_towards_the_corners(rng: np.random.Generator) -> None:
    """Widths in the middle and halfway within 6 %; farther out, where the narrowest stars of the outer cells tell,
    within 10 % and rather too small; longer away from the middle."""
    sky = star_field(rng, 700)

    image = seen(sky, rng, corner_growth=0.4)

    found, usual = measured(image, sky), usual_of(image, sky)

    assert found is not None
    assert found.fwhm_px_at(usual, MIDDLE_PX, MIDDLE_PX) == pytest.approx(FWHM_PX, rel=0.06)
    for off_px, off_axis, least in ((140, 0.25, 0.94), (210, 0.5625, 0.9)):
        for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            width = found.fwhm_px_at(usual, MIDDLE_PX + x * off_px, MIDDLE_PX + y * off_px)
            assert least < width / (FWHM_PX * (1 + 0.4 * off_axis)) < 1.06
    corner = found.psf_at(usual, MIDDLE_PX + 210, MIDDLE_PX + 210).stamp(8)
    assert np.trace(corner) > 1.1 * np.trace(corner[::-1])  # along the diagonal that leads to the corner


def test_nothing_is_followed_where_shapes_are_one(rng: np.random.Generator) -> None:
    """Noise is no change."""
    sky = star_field(rng, 700)

    assert measured(seen(sky, rng), sky) is None


def test_too_few_stars_tell_nothing(rng: np.random.Generator) -> None:
    """Even if they do change."""
    sky = star_field(rng, 60)

    assert measured(seen(sky, rng, corner_growth=0.4), sky) is None


def test_what_no_lens_draws_is_not_followed(rng: np.random.Generator) -> None:
    """Widths that jump from part to part of a picture, as those of knots do among nebulae."""
    sky = star_field(rng, 700)
    image = np.empty((SIZE_PX, SIZE_PX), np.float32)
    part = SIZE_PX // 4
    for k, width in enumerate(rng.permuted(np.tile([2.4, 2.6, 3.1, 3.5], 4))):
        window = np.s_[k // 4 * part : (k // 4 + 1) * part, k % 4 * part : (k % 4 + 1) * part]
        image[window] = seen(sky, rng, fwhm_px=(width, width))[window]

    assert measured(image, sky) is None
