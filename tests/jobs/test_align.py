"""From frames to one grid: where each frame lies, how sharp and how clear it was, and why one was left out."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from stackd.disk.frame import Frame
from stackd.errors import SetError
from stackd.imaging.camera import Exposure
from stackd.imaging.psf import Psf
from stackd.imaging.psf_fit import fit_psf
from stackd.imaging.warp import compose, invert
from stackd.jobs import align as align_room
from stackd.jobs.align import Aligned, align
from tests.jobs.nights import SHAPE, facts_of, frames_of, night_of, star_field


def brought(frames: Sequence[Frame], aligned: bool = False) -> Aligned:
    return align(frames, aligned=aligned, progress=lambda step, share: None)


def in_place(seed: int = 3, **changes: object) -> list[Exposure]:
    """A night whose frames lie on each other already."""
    return night_of(star_field(seed), shift_px=0.0, rotation_deg=0.0, **changes)


def with_pixels(frame: Frame, pixels: np.ndarray) -> Frame:
    return replace(frame, pixels=np.ascontiguousarray(pixels, np.float32))


@pytest.fixture(scope="module")
def night() -> list[Exposure]:
    return night_of(star_field(1), seed=4)


@pytest.fixture(scope="module")
def aligned(night: list[Exposure]) -> Aligned:
    return brought(frames_of(night))


def test_frames_lie_where_they_do(night: list[Exposure], aligned: Aligned) -> None:
    """Every transform against the simulated pose: a tenth of a pixel at the corners."""
    corners = np.array([[0, 0, 1], [SHAPE[1], 0, 1], [0, SHAPE[0], 1], [SHAPE[1], SHAPE[0], 1]]).T
    to_reference = invert(night[aligned.reference].matrix)

    assert aligned.used == tuple(range(6))
    for exposure, row in zip(night, aligned.frames):
        want = compose(to_reference, exposure.matrix) @ corners
        assert np.abs(row.transform.matrix @ corners - want).max() < 0.15
        assert row.reason == ""
        assert row.stars > 20


def test_what_is_measured_is_true(night: list[Exposure], aligned: Aligned) -> None:
    """Star width to 8 %, light to 5 %; sky and noise are the sky's and, by a little, those of the glow over it."""
    clear = night[aligned.reference].transparency
    for exposure, row in zip(night, aligned.frames):
        assert row.fwhm_px == pytest.approx(exposure.psf.fwhm_px, rel=0.08)
        assert row.light == pytest.approx(exposure.transparency / clear, rel=0.05)
        assert 0.97 < row.noise_adu / np.sqrt(exposure.sky_adu + 5.0**2) < 1.2
        assert 0 < row.sky_adu - exposure.sky_adu - 300 < 30
    assert aligned.psfs is not None
    assert len(aligned.psfs) == 6


def test_frames_become_one_level_and_scale(aligned: Aligned) -> None:
    """Gradients, glow and transparency are gone: frames differ from the reference by noise alone."""
    reference = aligned.bands[0][aligned.used.index(aligned.reference)]
    for frame, noise in zip(aligned.bands[0], aligned.noise_adu[0]):
        difference = frame - reference
        tiles = [np.nanmedian(t) for half in np.array_split(difference, 3) for t in np.array_split(half, 3, axis=1)]
        assert np.abs(tiles).max() < 0.5 * noise
    lights = [aligned.frames[k].light for k in aligned.used]
    raw = [aligned.frames[k].noise_adu for k in aligned.used]
    np.testing.assert_allclose(aligned.noise_adu[0], np.array(raw) / lights, rtol=1e-6)


def test_the_reference_stays_as_it_was(night: list[Exposure], aligned: Aligned) -> None:
    """Its pixels are only cleaned and brought above the sky: no resampling touches the grid's own frame."""
    raw = night[aligned.reference].pixels
    single = aligned.single[0]

    assert aligned.single.shape == (1, *SHAPE)
    off = single - raw - np.median(single - raw)
    assert np.mean(np.abs(off) < 0.01) > 0.99
    assert aligned.hot_pixels > 0


def test_the_order_of_frames_does_not_matter(night: list[Exposure], aligned: Aligned) -> None:
    """The same frame is the reference, the same figures come out, the bands come in the new order."""
    order = [3, 5, 0, 2, 4, 1]

    other = brought([frames_of(night)[k] for k in order])

    assert order[other.reference] == aligned.reference
    for place, k in enumerate(order):
        assert other.frames[place].light == pytest.approx(aligned.frames[k].light, rel=0.005)
        assert other.frames[place].fwhm_px == pytest.approx(aligned.frames[k].fwhm_px, rel=0.01)


def test_the_input_is_not_edited(night: list[Exposure]) -> None:
    """Frames are somebody else's."""
    frames = frames_of(night)

    brought(frames)

    for frame, exposure in zip(frames, night):
        np.testing.assert_array_equal(frame.pixels, exposure.pixels)


def test_the_reference_is_chosen_on_merit() -> None:
    """The sharp clear frame in the middle of the night, not the first, and never the cloudy one."""
    sky = star_field(5)
    poor = night_of(sky, frames=4, fwhm_px=(3.6, 4.0), transparency=(0.7, 0.75), shift_px=3.0)
    good = night_of(sky, seed=2, frames=2, fwhm_px=(2.3, 2.4), transparency=(1.0, 1.0), shift_px=3.0)[1]
    cloudy = night_of(sky, seed=3, frames=2, cloud_chance=1.0, fwhm_px=(2.3, 2.4), shift_px=3.0)[1]

    found = brought(frames_of([poor[0], cloudy, poor[1], good, poor[2], poor[3]]))

    assert found.reference == 3
    assert found.frames[1].light < 0.6
    assert max(found.noise_adu[0]) == found.noise_adu[0][1]


def test_a_frame_of_another_field_is_left_out() -> None:
    """With its reason; the others are used as if it were not there."""
    exposures = night_of(star_field(1))
    exposures[2] = night_of(star_field(77))[0]

    found = brought(frames_of(exposures))

    assert found.used == (0, 1, 3, 4, 5)
    assert "reference" in found.frames[2].reason
    assert found.frames[2].transform is None
    assert len(found.bands[0]) == len(found.psfs) == found.noise_adu.shape[1] == 5


def test_no_two_frames_of_one_sky_is_an_error() -> None:
    """Every frame's reason is named, and what to do."""
    exposures = [night_of(star_field(seed))[0] for seed in (1, 77)]

    with pytest.raises(SetError, match=r"light_\d.fits: ") as error:
        brought(frames_of(exposures))

    assert error.value.remedy


def test_one_frame_alone() -> None:
    """It is its own reference, with its own star shape."""
    found = brought(frames_of(night_of(star_field(1), frames=1)))

    assert (found.reference, found.used) == (0, (0,))
    assert found.frames[0].light == pytest.approx(1)
    assert found.bands[0].shape == (1, *SHAPE)


def test_aligned_frames_stay_in_place() -> None:
    """With `aligned` nothing is moved: identity for all, whatever the stars say."""
    found = brought(frames_of(in_place(frames=4)), aligned=True)

    assert found.used == (0, 1, 2, 3)
    for row in found.frames:
        np.testing.assert_array_equal(row.transform.matrix, np.eye(2, 3))


def test_a_frame_that_saw_next_to_nothing_is_left_out() -> None:
    """Thick cloud: its place is known and its light is not worth having."""
    frames = frames_of(in_place(frames=4))
    rng = np.random.default_rng(1)
    dim = 500 + 0.02 * (frames[1].pixels - 500) + rng.normal(0, 0.5, SHAPE)
    frames[1] = with_pixels(frames[1], dim)

    found = brought(frames, aligned=True)

    assert found.used == (0, 2, 3)
    assert "light" in found.frames[1].reason


def test_one_bright_frame_among_clouded_ones_is_no_set() -> None:
    """Nothing would tell a star from a cosmic ray in it: refused, with each frame's reason."""
    frames = frames_of(in_place(frames=4))
    rng = np.random.default_rng(1)
    for k in (0, 2, 3):
        frames[k] = with_pixels(frames[k], 500 + 0.02 * (frames[k].pixels - 500) + rng.normal(0, 0.5, SHAPE))

    with pytest.raises(SetError, match=r"no two frames.*light came through") as error:
        brought(frames, aligned=True)

    assert error.value.reason.count("of the reference's light") == 3


@pytest.mark.parametrize("level", [300.0, 900.0])
def test_a_frame_of_nothing_but_sky_does_no_harm(level: float) -> None:
    """Closed in entirely, yet said to be aligned: every number that goes on is a number."""
    frames = frames_of(in_place(frames=4))
    rng = np.random.default_rng(2)
    frames[2] = with_pixels(frames[2], np.round(rng.normal(level, 15, SHAPE)))

    found = brought(frames, aligned=True)

    assert found.psfs is not None
    assert all(np.isfinite(p.fwhm_px) and np.isfinite(p.beta) for p in found.psfs)
    assert np.isfinite(found.noise_adu).all()
    assert np.isfinite(found.bands[0]).all()


@pytest.mark.parametrize("bayer", ["RGGB", "GBRG"])
def test_a_mosaic_becomes_three_bands(bayer: str) -> None:
    """Debayered, each band with its raw pixels' noise and all with one star shape."""
    exposures = night_of(star_field(4, bands=3, per_mpx=700, glow_peak=0.0), frames=4, bayer=bayer)

    found = brought(frames_of(exposures, bayer))

    assert len(found.bands) == 3
    assert all(b.shape == (4, *SHAPE) for b in found.bands)
    assert found.single.shape == (3, *SHAPE)
    assert found.noise_adu.shape == (3, 4)
    want = [np.sqrt(e.sky_adu + 25) / r.light for e, r in zip(exposures, found.frames)]
    np.testing.assert_allclose(found.noise_adu, np.tile(want, (3, 1)), rtol=0.15)


def test_frames_scaled_to_full_scale_are_frames(night: list[Exposure], aligned: Aligned) -> None:
    """A calibration program's 0..1: the same stars, shapes and light as in ADU, and noise in the file's unit."""
    frames = [
        replace(
            f, pixels=f.pixels / np.float32(65535), facts=replace(f.facts, sample_type="float32"), saturation_adu=1.0
        )
        for f in frames_of(night)
    ]

    found = brought(frames)

    assert len(found.stars) == pytest.approx(len(aligned.stars), abs=2)
    np.testing.assert_allclose(found.noise_adu * 65535, aligned.noise_adu, rtol=0.02)
    for one, other in zip(found.psfs, aligned.psfs):
        assert one.fwhm_px == pytest.approx(other.fwhm_px, rel=0.02)
    frames[0].pixels[5, 5] = 3.0  # a hot pixel that dark subtraction and flat made brighter than anything
    assert frames[0].electrons_per_unit == pytest.approx(65535)
    assert frames_of(night)[0].electrons_per_unit == 1.0


def test_black_borders_are_no_sky(night: list[Exposure], aligned: Aligned) -> None:
    """Unseen in the result, and the rest as it is without them."""
    frames = frames_of(night)
    for frame in frames:
        frame.pixels[:20] = 0

    found = brought(frames)

    assert np.isnan(found.single[0, :20]).all()
    assert len(found.stars) >= 0.9 * (aligned.stars.y > 30).sum()
    for one, other in zip(found.psfs, aligned.psfs):
        assert one.fwhm_px == pytest.approx(other.fwhm_px, rel=0.05)
    np.testing.assert_allclose(found.noise_adu, aligned.noise_adu, rtol=0.03)
    for band, plane in zip(found.bands, found.single):  # one level on all of the sky
        assert np.nanmedian(np.abs(np.nanmedian(band, axis=(1, 2)) - np.nanmedian(plane))) < 4


def test_clouds_over_most_frames_cost_no_star() -> None:
    """Three frames of eight are clear: what all of them show is a star, though the other five hide the faint ones."""
    exposures = night_of(star_field(1), frames=8, rotation_deg=0.0)
    clear = brought(frames_of(exposures), aligned=True)
    rng, frames = np.random.default_rng(3), frames_of(exposures)
    for k in set(range(8)) - {clear.reference, *[k for k in range(8) if k != clear.reference][:2]}:
        sky = np.median(frames[k].pixels)
        frames[k] = with_pixels(frames[k], sky + 0.1 * (frames[k].pixels - sky) + rng.normal(0, 25, SHAPE))

    clouded = brought(frames, aligned=True)

    assert clouded.reference == clear.reference
    assert len(clouded.stars) >= 0.7 * len(clear.stars)


def test_a_sharp_star_in_the_middle_of_a_pixel_is_a_star() -> None:
    """In the reference it looks like a defect; the frames that lie half a pixel beside it saw what it is. A star that
    is missed does not get its light back."""
    rng = np.random.default_rng(8)
    row, column = np.indices(SHAPE)
    grid = np.array([(x, y) for x in range(20, SHAPE[1] - 15, 17) for y in range(20, SHAPE[0] - 15, 17)], float)
    middle = np.arange(len(grid)) % 4 == 0
    places = grid + np.where(middle[:, None], 0, rng.uniform(0.3, 0.7, grid.shape))
    flux = rng.permutation(np.geomspace(2000, 30000, len(grid)))
    frames = []
    for k in range(6):
        left, up = (0.0, 0.0) if k == 0 else (1.5 * k, 3.5 - k)
        stars = (f * np.exp(-((column - x - left) ** 2 + (row - y - up) ** 2) / 0.6) for f, (x, y) in zip(flux, places))
        pixels = (200 + sum(stars) + rng.normal(0, 4 + 4 * (k > 0), SHAPE)).astype(np.float32)
        frames.append(Frame(f"/night/light_{k}.fits", f"{k:064}", facts_of(pixels, minute=k), pixels, 65535.0))

    found = brought(frames)

    assert found.reference == 0
    apart_px = np.hypot(*(np.stack([found.stars.x, found.stars.y]).T[:, None] - places).transpose(2, 0, 1))
    assert (apart_px.min(0)[middle] < 0.5).all()


def test_unseen_pixels_cost_no_star(night: list[Exposure], aligned: Aligned) -> None:
    """Rows that no frame saw at the top, or gaps here and there: the stars elsewhere keep their vote."""
    frames = frames_of(night)
    for frame in frames:
        frame.pixels[:7] = np.nan

    stars = brought(frames).stars

    assert len(stars) >= 0.9 * (aligned.stars.y > 15).sum()


def test_too_few_stars_give_no_shape() -> None:
    """A nebula without stars is aligned by what it shows, and nobody pretends to know its stars' width."""
    sky = star_field(6, per_mpx=0)
    rng = np.random.default_rng(8)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    knots = sum(
        rng.uniform(100, 400) * np.exp(-((x - rng.uniform(20, 190)) ** 2 + (y - rng.uniform(20, 180)) ** 2) / 150)
        for _ in range(25)
    )
    sky = replace(sky, diffuse=knots[None].astype(np.float32))
    exposures = night_of(sky, frames=4, rotation_deg=0.0, shift_px=4.0)

    found = brought(frames_of(exposures))

    assert found.psfs is None
    assert found.used == (0, 1, 2, 3)
    clear = exposures[found.reference].transparency
    for exposure, row in zip(exposures, found.frames):
        assert row.light == pytest.approx(exposure.transparency / clear, rel=0.1)


def test_sharp_noise_is_no_star() -> None:
    """A phone's night, cut off at black: single bright pixels in every frame, far more of them than stars, are narrower
    than any star. The star shape is the stars'."""
    exposures = in_place(6, fwhm_px=(5.0, 5.5), beta=(3.0, 3.5))
    rng = np.random.default_rng(7)
    frames = []
    for frame in frames_of(exposures):
        black = np.quantile(frame.pixels, 0.9)
        sparks = (rng.random(SHAPE) < 2e-3) * rng.uniform(300, 3000, SHAPE)
        frames.append(with_pixels(frame, np.maximum(frame.pixels - black, 0) + sparks))

    aligned = brought(frames)

    assert aligned.psfs is not None
    assert len(aligned.points) > 5
    assert min(aligned.points.fwhm_px) > 4.0
    for psf in aligned.psfs:
        assert 4.0 < psf.fwhm_px < 6.0


def test_half_of_the_shapes_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clouds hide the stars of two frames of four: the clear ones' shapes serve all; one's alone do not."""
    fits = {"clear": 2}

    def cloudy(image: np.ndarray, *arguments: object, **named: object) -> Psf | None:
        fits["clear"] -= 1
        return fit_psf(image, *arguments, **named) if fits["clear"] >= 0 else None

    monkeypatch.setattr(align_room, "fit_psf", cloudy)
    frames = frames_of(night_of(star_field(1), frames=4, rotation_deg=0.0))

    assert len(brought(frames).psfs) == 4
    fits["clear"] = 1
    assert brought(frames).psfs is None


def test_progress_is_told() -> None:
    """Named steps, shares rising."""
    told: list[tuple[str, float]] = []

    align(frames_of(in_place(frames=2)), aligned=True, progress=lambda step, share: told.append((step, share)))

    assert [step for step, _ in told] == ["register", "warp", "measure"]
    assert [share for _, share in told] == sorted(share for _, share in told)
