"""Pictures for people: a dark but not black sky, nothing burnt out, right colours, one stretch for all."""

import numpy as np
import pytest

from stackd.imaging.preview import SKY_BRIGHTNESS, apply_stretch, find_stretch, is_bright_body


def star_field(rng: np.random.Generator, noise: float = 10.0, sky: float = 300.0, stars: int = 150) -> np.ndarray:
    image = rng.normal(sky, noise, (240, 320))
    y, x = np.mgrid[:240, :320]
    for _ in range(stars):
        at_x, at_y, flux = rng.uniform(5, 315), rng.uniform(5, 235), 10 ** rng.uniform(2, 4.3)
        image += flux / 18 * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / 5.8)
    return image.astype(np.float32)


def disc(radius: float, level: float, centre: tuple[float, float] = (120, 160)) -> np.ndarray:
    y, x = np.mgrid[:240, :320]
    inside = np.hypot(y - centre[0], x - centre[1]) < radius
    return (inside * level * (0.75 + 0.25 * np.sin(y / 6) * np.cos(x / 9))).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
@pytest.mark.parametrize("offset", [0.0, 500.0])
def test_sky_is_dark_grey_whatever_the_unit(rng: np.random.Generator, scale: float, offset: float) -> None:
    """Level and unit of the pixels do not show."""
    image = (star_field(rng) * scale + offset * scale).astype(np.float32)

    picture = apply_stretch(image, find_stretch(image))

    assert picture.dtype == np.uint8 and picture.shape == image.shape
    assert np.median(picture) / 255 == pytest.approx(SKY_BRIGHTNESS, abs=0.03)
    assert np.mean(picture == 0) < 0.01
    assert 0 < np.mean(picture == 255) < 0.01


def test_order_of_brightness_is_kept(rng: np.random.Generator) -> None:
    """A brighter pixel is never shown darker."""
    image = star_field(rng)
    picture = apply_stretch(image, find_stretch(image))
    order = np.argsort(image.ravel())
    assert (np.diff(picture.ravel()[order].astype(int)) >= 0).all()


def test_single_frame_is_shown_with_its_noise_under_the_stacks_stretch(rng: np.random.Generator) -> None:
    """Before and after are comparable: same brightness of the sky, more grain, little of it cut off."""
    stack = star_field(np.random.default_rng(5), noise=10 / np.sqrt(8))
    single = star_field(np.random.default_rng(5), noise=10)
    stretch = find_stretch(stack)

    before, after = apply_stretch(single, stretch), apply_stretch(stack, stretch)

    assert abs(float(np.median(before)) - float(np.median(after))) < 8
    assert before.std() > 1.2 * after.std()
    assert np.mean(before == 0) < 0.12


def test_planet_is_not_burnt_out(rng: np.random.Generator) -> None:
    """A large bright disc on black keeps its bands."""
    image = disc(45, 20_000) + rng.normal(0, 20, (240, 320)).astype(np.float32)
    assert is_bright_body(image)

    picture = apply_stretch(image, find_stretch(image))
    inside = picture[disc(40, 1) > 0]

    assert np.mean(inside >= 254) < 0.02
    assert inside.std() > 15
    assert np.median(picture) < 12


def test_body_that_fills_the_frame_keeps_its_contrast() -> None:
    """The Moon close up has no sky at all."""
    y, x = np.mgrid[:240, :320]
    image = (9000 + 4000 * np.sin(y / 17) * np.cos(x / 23)).astype(np.float32)

    picture = apply_stretch(image, find_stretch(image))

    assert picture.std() > 40
    assert np.mean(picture == 255) < 0.02


@pytest.mark.parametrize("noise", [2.0, 10.0, 40.0])
def test_stars_and_noise_are_no_body(rng: np.random.Generator, noise: float) -> None:
    """However noisy or crowded, a star field is stretched as one."""
    assert not is_bright_body(star_field(rng, noise))
    assert not is_bright_body(rng.normal(100, noise, (240, 320)).astype(np.float32))


def test_colours_are_neutral_for_sky_and_stars_and_kept_for_a_nebula(rng: np.random.Generator) -> None:
    """A green-heavy camera under a reddish sky: sky grey, white stars white, a teal nebula teal."""
    response = np.asarray([0.6, 1.2, 0.8])[:, None, None]
    stars = star_field(np.random.default_rng(2), noise=0, sky=0, stars=250)
    y, x = np.mgrid[:240, :320]
    nebula = 220 * np.exp(-((x - 160) ** 2 + (y - 120) ** 2) / 1600)
    teal = np.asarray([0.35, 1.0, 1.0])[:, None, None]
    sky = np.asarray([700.0, 400.0, 300.0])[:, None, None]
    image = response * (stars + teal * nebula) + sky + rng.normal(0, 4, (3, 240, 320))

    picture = apply_stretch(image.astype(np.float32), find_stretch(image.astype(np.float32))).astype(float)

    corner = np.median(picture[:40, :40], axis=(0, 1))
    assert np.ptp(corner) < 8
    red, green, blue = np.median(picture[112:128, 152:168], axis=(0, 1))
    assert green > 1.25 * red and blue > 1.25 * red and abs(green - blue) < 0.15 * green
    bright = (stars > 250) & (nebula < 1)
    assert np.ptp(np.median(picture[bright], axis=0)) < 20


@pytest.mark.parametrize(
    "image",
    [
        np.full((40, 50), np.nan, np.float32),
        np.zeros((40, 50), np.float32),
        np.full((3, 40, 50), 7.0, np.float32),
        np.ones((1, 1), np.float32),
        np.full((3, 5, 4), np.inf, np.float32),
    ],
)
def test_images_with_nothing_in_them_are_shown_without_complaint(image: np.ndarray) -> None:
    """Empty, flat and tiny images give a picture too; numpy stays silent."""
    with np.errstate(all="raise", under="ignore"):
        picture = apply_stretch(image, find_stretch(image))
    assert picture.shape == (image.shape if image.ndim == 2 else (*image.shape[1:], 3))


def test_unseen_pixels_are_black_and_do_not_disturb(rng: np.random.Generator) -> None:
    """NaN at the border changes nothing elsewhere."""
    image = star_field(rng)
    holed = image.copy()
    holed[:20] = np.nan

    picture = apply_stretch(holed, find_stretch(holed))

    assert (picture[:20] == 0).all()
    assert np.median(picture[20:]) / 255 == pytest.approx(SKY_BRIGHTNESS, abs=0.03)


def test_strips_leave_no_seam(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Working in strips is only about memory."""
    image = np.stack([star_field(rng) for _ in range(3)])
    stretch = find_stretch(image)
    whole = apply_stretch(image, stretch)
    monkeypatch.setattr("stackd.imaging.preview.STRIP_PIXELS", 320 * 7)
    np.testing.assert_array_equal(apply_stretch(image, stretch), whole)
