"""Fused maps: as sharp, as bright and as noisy as the algebra says, whatever the frames' order, number and size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import fft

from stackd.imaging.fuse import CONDITIONS, REGULARISATIONS, Bank, fuse
from stackd.imaging.psf import Psf
from stackd.imaging.psf_field import PsfField
from stackd.imaging.skies import Sky, blur, splat, splat_otf
from stackd.imaging.stack import combine
from stackd.imaging.stars import find_stars

SHAPE = (150, 161)
TARGET_PX = 2.0
PSFS = (Psf(2.4, 3.5), Psf(3.0, 3.0, 0.1, 0.5), Psf(2.7, 4.0, 0.15, 2.0), Psf(3.4, 2.8))
NOISE_ADU = np.array([8.0, 10.0, 9.0, 12.0])


def noise_frames(rng: np.random.Generator, shape=SHAPE) -> NDArray[np.float32]:
    return np.stack([rng.normal(0, s, shape) for s in NOISE_ADU]).astype(np.float32)


def star_field(rng: np.random.Generator) -> Sky:
    """Stars of one brightness far from each other, and nothing else."""
    y, x = (grid.ravel() for grid in np.mgrid[30:130:28, 30:140:28])
    x, y = x + rng.uniform(-1, 1, len(x)), y + rng.uniform(-1, 1, len(x))
    return Sky(np.zeros((1, *SHAPE), np.float32), x, y, np.full((1, len(x)), 5e4))


def seen_through(sky: Sky, psfs: tuple[Psf, ...]) -> NDArray[np.float32]:
    """The sky through each PSF, no noise (N, H, W)."""
    points = splat(SHAPE, sky.x, sky.y, sky.flux[0])
    return np.stack([blur(points, p.otf(SHAPE) / splat_otf(SHAPE)) for p in psfs])


def bank_of(frames: NDArray[np.float32], psfs: tuple[Psf, ...] | None = PSFS, noise_adu=NOISE_ADU) -> Bank:
    return fuse(frames, noise_adu, combine(frames, noise_adu, np.zeros(frames.shape, bool)), psfs, TARGET_PX)


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(4)), seed=st.integers(0, 50))
def test_the_order_of_frames_does_not_matter(order: list[int], seed: int) -> None:
    """To a ten thousandth of the stack's noise."""
    frames = noise_frames(np.random.default_rng(seed), (50, 60))
    frames[2, :, 50:] = np.nan

    one, other = bank_of(frames), bank_of(frames[order], tuple(PSFS[k] for k in order), NOISE_ADU[order])

    for name in ("plain", "wiener", "background", "score", "spread", "depth", "conditions"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=1e-4)
    assert other.unit_adu == pytest.approx(one.unit_adu)
    assert other.floor_adu == pytest.approx(one.floor_adu, abs=1e-3)


def test_the_sharpest_map_is_the_truth_of_a_noiseless_sky(rng: np.random.Generator) -> None:
    """Stars at most an eighth wider than the truth's, of their full flux, where they are; the best frame is wider."""
    sky = star_field(rng)
    truth = sky.truth(TARGET_PX)[0]

    bank = bank_of(seen_through(sky, PSFS))

    sharp = bank.wiener[0] * bank.unit_adu + bank.floor_adu
    true_width = np.median(find_stars(truth, 1.0).fwhm_px)
    stars = find_stars(sharp, 5.0)
    bright = stars.flux > 1e4
    assert bright.sum() == len(sky.x)
    assert true_width * 0.98 < np.median(stars.fwhm_px[bright]) < true_width * 1.125 < min(p.fwhm_px for p in PSFS)
    for x, y, flux in zip(sky.x, sky.y, sky.flux[0]):
        around = slice(round(y) - 8, round(y) + 9), slice(round(x) - 8, round(x) + 9)
        assert sharp[around].sum() == pytest.approx(flux, rel=0.01)
        assert truth[around].sum() == pytest.approx(flux, rel=0.01)
    # the softer maps are softer, in order
    widths = [np.median(find_stars(m * bank.unit_adu + bank.floor_adu, 5.0).fwhm_px[: len(sky.x)]) for m in bank.wiener]
    assert widths[0] < widths[1] < widths[2]


def test_all_maps_keep_the_level_of_flat_light(rng: np.random.Generator) -> None:
    """A sky of one brightness stays so, up to the very edge."""
    flat = np.full((4, *SHAPE), 700, np.float32)

    bank = bank_of(flat)

    assert bank.floor_adu == pytest.approx(700)
    np.testing.assert_allclose(bank.plain * bank.unit_adu + bank.floor_adu, 700, rtol=1e-4)
    np.testing.assert_allclose(bank.wiener * bank.unit_adu + bank.floor_adu, 700, rtol=1e-3)


def test_maps_count_from_the_darkest_smooth_sky(rng: np.random.Generator) -> None:
    """Nebula over most of the picture: zero is where it is not, within a fifth of a frame's noise; noise, stars and an
    unseen border do not decide. Any constant light over it changes no map."""
    nebula = np.full(SHAPE, 400.0)
    nebula[:70, :70] = 40
    frames = noise_frames(rng) + nebula.astype(np.float32)
    frames[:, 20::30, 20::30] += 3000
    frames[:, :5] = np.nan

    bank, lit = bank_of(frames), bank_of(frames + np.float32(256))

    assert bank.floor_adu == pytest.approx(40, abs=2)
    assert lit.floor_adu == pytest.approx(bank.floor_adu + 256, abs=1e-3)
    for name in ("plain", "wiener", "background", "spread", "depth", "conditions"):
        np.testing.assert_allclose(getattr(lit, name), getattr(bank, name), atol=1e-3)
    np.testing.assert_allclose(lit.score, bank.score, atol=1e-2)


def test_holes_do_not_move_the_floor(rng: np.random.Generator) -> None:
    """Unseen pixels in every cell: maps count from the same sky as without them, and all are finite."""
    frames = noise_frames(rng) + np.float32(300)
    whole = bank_of(frames)
    frames[:, ::16, ::16] = np.nan

    bank = bank_of(frames)

    assert bank.floor_adu == pytest.approx(whole.floor_adu, abs=1)
    assert np.isfinite(bank.wiener).all()


def test_a_picture_hardly_seen_counts_from_its_measured_sky(rng: np.random.Generator) -> None:
    """Two pixels of three unseen: no cell tells the darkest sky, maps count from zero."""
    frames = noise_frames(rng)
    frames[:, ::3] = frames[:, 1::3] = np.nan

    assert bank_of(frames).floor_adu == 0


def test_the_score_is_in_sigma(rng: np.random.Generator) -> None:
    """Pure noise scores with unit variance and no mean but the sky's own height over the floor."""
    bank = bank_of(noise_frames(rng, (300, 320)))

    per_adu = np.sum(NOISE_ADU**-2) / np.sqrt(sum((p.stamp() ** 2).sum() / s**2 for p, s in zip(PSFS, NOISE_ADU)))
    inner = bank.score[20:-20, 20:-20] + bank.floor_adu * per_adu
    assert inner.std() == pytest.approx(1, abs=0.05)
    assert inner.mean() == pytest.approx(0, abs=0.05)
    assert np.mean(inner**4) / inner.std() ** 4 == pytest.approx(3, abs=0.3)


def test_the_score_of_a_star_is_its_signal_to_noise_ratio(rng: np.random.Generator) -> None:
    """Flux times the root of the frames' summed powers over noise: the best that any filter reaches."""
    sky = star_field(rng)
    sky = Sky(sky.diffuse, np.round(sky.x), np.round(sky.y), sky.flux)

    score = bank_of(seen_through(sky, PSFS)).score

    best = 5e4 * np.sqrt(sum((p.stamp() ** 2).sum() / s**2 for p, s in zip(PSFS, NOISE_ADU)))
    peaks = score[sky.y.astype(int), sky.x.astype(int)]
    np.testing.assert_allclose(peaks, best, rtol=0.02)


def test_the_sharper_the_noisier(rng: np.random.Generator) -> None:
    """Noise falls from the first Wiener map to the last; the conditions tell each map's own."""
    bank = bank_of(noise_frames(rng))

    noise = [m.std() for m in bank.wiener]
    assert noise == sorted(noise, reverse=True)
    assert bank.plain.std() == pytest.approx(1, rel=0.03)
    assert bank.conditions.shape == (CONDITIONS,)
    assert np.isfinite(bank.conditions).all()
    assert np.exp(bank.conditions[3]) == pytest.approx(1, rel=0.1)
    told = np.diff(bank.conditions[4:])
    assert (told < 0).all()


def test_what_the_stack_left_out_is_not_in_the_maps(rng: np.random.Generator) -> None:
    """A ray that was rejected leaves no more in any map than its pixels' own light."""
    frames = noise_frames(rng)
    ray = frames.copy()
    ray[1, 70, 60:66] += 5000
    outliers = ray != frames

    with_ray = fuse(ray, NOISE_ADU, combine(ray, NOISE_ADU, outliers), PSFS, TARGET_PX)
    without = fuse(frames, NOISE_ADU, combine(frames, NOISE_ADU, outliers), PSFS, TARGET_PX)

    for name in ("plain", "wiener", "score"):
        np.testing.assert_allclose(getattr(with_ray, name), getattr(without, name), atol=1e-4)


def test_without_star_shapes_the_maps_are_the_plain_stack(rng: np.random.Generator) -> None:
    """Nobody knows what to sharpen: every map is the stack in units of its noise, and the conditions say so."""
    frames = noise_frames(rng)

    bank = bank_of(frames, None)

    for plane in (*bank.wiener, bank.score):
        np.testing.assert_array_equal(plane, bank.plain)
    mean = np.average(frames, axis=0, weights=NOISE_ADU**-2.0)
    assert bank.plain * bank.unit_adu + bank.floor_adu == pytest.approx(mean, abs=1e-3)
    assert bank.conditions[:3].tolist() == [0, 0, 1]


def test_unseen_pixels_hold_zero(rng: np.random.Generator) -> None:
    """No NaN reaches the network; where fewer frames saw the sky the depth says by how much it is noisier."""
    frames = noise_frames(rng)
    frames[:, :9] = np.nan
    frames[:2, :, :30] = np.nan

    bank = bank_of(frames)

    for name in ("plain", "wiener", "background", "score", "spread", "depth"):
        assert np.isfinite(getattr(bank, name)).all()
    assert not bank.plain[:9].any()
    full, part = (NOISE_ADU**-2.0).sum(), (NOISE_ADU[2:] ** -2.0).sum()
    assert bank.unit_adu == pytest.approx(full**-0.5)
    np.testing.assert_allclose(bank.depth[9:, :30], np.sqrt(full / part), rtol=1e-5)


@pytest.mark.parametrize("shape", [(33, 47), (64, 31), (7, 5), (3, 200), (41, 40)])
def test_any_size(shape: tuple[int, int], rng: np.random.Generator) -> None:
    """Odd, thin and tiny pictures: planes of the picture's own size, all finite."""
    bank = bank_of(noise_frames(rng, shape))

    assert bank.wiener.shape == (len(REGULARISATIONS), *shape)
    for name in ("plain", "wiener", "background", "score", "spread", "depth", "conditions"):
        values = getattr(bank, name)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert name in ("wiener", "background", "conditions") or values.shape == shape


def test_one_frame_is_fused_too(rng: np.random.Generator) -> None:
    """The Wiener map of a single frame is the textbook's: conj(H) Y / (|H|^2 + r), at the target's width."""
    frame = noise_frames(rng)[:1]

    bank = bank_of(frame, PSFS[:1], NOISE_ADU[:1])

    power = np.abs(fft.rfft2(bank.wiener[2][40:-40, 40:-40])) ** 2
    assert power[:5, :5].mean() > 50 * power[30:40, 30:].mean()
    assert bank.unit_adu == NOISE_ADU[0]
    np.testing.assert_array_equal(bank.spread, 1)


def field(growth_px2: float) -> PsfField:
    """Stars as the frames' in the middle, and wider towards the sides by so much, in squared widths (px²)."""
    terms = np.zeros((3, 6))
    terms[(0, 2), 3] = terms[(0, 2), 5] = growth_px2
    return PsfField(terms, SHAPE)


def test_pieces_join_without_a_seam(rng: np.random.Generator) -> None:
    """A field that adds nothing gives what the whole gives, within a fiftieth of each map's noise; stars within one."""
    sky = star_field(rng)
    frames = noise_frames(rng) + seen_through(sky, PSFS)
    stack = combine(frames, NOISE_ADU, np.zeros(frames.shape, bool))

    whole = fuse(frames, NOISE_ADU, stack, PSFS, TARGET_PX)
    joined = fuse(frames, NOISE_ADU, stack, PSFS, TARGET_PX, field(0.0))

    np.testing.assert_array_equal(joined.plain, whole.plain)
    for mine, wanted in zip((*joined.wiener, joined.score), (*whole.wiener, whole.score)):
        noise = 1.48 * np.median(np.abs(wanted))
        assert np.median(np.abs(mine - wanted)) < 0.02 * noise
        assert np.abs(mine - wanted).max() < max(noise, 0.002 * wanted.max())


def test_stars_of_all_places_come_out_alike_where_the_field_is_known(rng: np.random.Generator) -> None:
    """Stars that grow towards the sides: told so, the sharpest map makes them nearly as narrow as in the middle."""
    sky, grown = star_field(rng), field(6.0)
    frames = np.zeros((len(PSFS), *SHAPE), np.float32)
    for k, psf in enumerate(PSFS):
        for x, y, flux in zip(sky.x, sky.y, sky.flux[0]):
            one = splat(SHAPE, np.array([x]), np.array([y]), np.array([flux]))
            frames[k] += blur(one, grown.psf_at(psf, x, y).otf(SHAPE) / splat_otf(SHAPE))
    stack = combine(frames, NOISE_ADU, np.zeros(frames.shape, bool))

    def widths(bank: Bank) -> tuple[float, float]:
        """In the middle, and near the sides."""
        stars = find_stars(bank.wiener[0], 1.0)
        outside = np.abs(stars.x - SHAPE[1] / 2) > 40
        return float(np.median(stars.fwhm_px[~outside])), float(np.median(stars.fwhm_px[outside]))

    middle, side = widths(fuse(frames, NOISE_ADU, stack, PSFS, TARGET_PX, grown))
    _, untold = widths(fuse(frames, NOISE_ADU, stack, PSFS, TARGET_PX))

    assert untold > 1.15 * middle
    assert side - middle < 0.4 * (untold - middle)
