"""A resampled image shows the sky where the transform says, and nothing where nothing was seen."""

import numpy as np
import pytest

from stackd.imaging.warp import Transform, apply_transform, compose, identity, invert
from tests.imaging.sky import move, picture, similarity, star_positions

SHAPE = (120, 150)


def transform(matrix):
    return Transform(matrix, "stars", 10, 0.05)


@pytest.mark.parametrize(
    "matrix",
    [
        similarity(0, 3.3, -2.6),
        similarity(7, 5, 4, about=(75, 60)),
        similarity(180, 1.5, 0.5, about=(74.5, 59.5)),
        similarity(2, 0, 0, scale=1.01, about=(75, 60)),
    ],
)
def test_stars_land_where_the_transform_says(matrix):
    """A frame resampled equals the sky drawn at the moved places, to 2 % of the brightest star."""
    places, fluxes = star_positions(np.random.default_rng(20), 25, SHAPE, border=15)
    fluxes = np.minimum(fluxes, 8000)
    frame = picture(places, fluxes, SHAPE, fwhm_px=3.2).astype(np.float32)
    wanted = picture(move(places, matrix), fluxes, SHAPE, fwhm_px=3.2)

    moved, footprint = apply_transform(frame, transform(matrix), SHAPE)

    assert moved.dtype == np.float32
    assert np.abs(moved - wanted)[footprint].max() < 0.02 * wanted.max()
    assert footprint.mean() > 0.7


def test_the_identity_changes_nothing():
    """Same pixels, in a copy, NaN where NaN was."""
    frame = np.random.default_rng(21).normal(0, 1, SHAPE).astype(np.float32)
    frame[3, 4] = np.nan

    moved, footprint = apply_transform(frame, identity(), SHAPE)

    assert np.array_equal(moved, frame, equal_nan=True)
    assert moved is not frame
    assert footprint.sum() == frame.size - 1


def test_what_was_not_seen_is_nan_and_does_not_ring():
    """Holes and edges over a bright sky come out as NaN with a rim, and leave the rest at its level."""
    frame = np.full(SHAPE, 1000, np.float32)
    frame[50:60, 70:90] = np.nan
    frame[20, 30] = np.nan

    moved, footprint = apply_transform(frame, transform(similarity(3, 10.4, 5.7)), SHAPE)

    assert np.array_equal(np.isfinite(moved), footprint)
    assert np.allclose(moved[footprint], 1000, atol=0.5)
    assert not footprint[:10, :10].any()
    hole = move(np.array([[80.0, 55.0]]), similarity(3, 10.4, 5.7))[0].round().astype(int)
    assert not footprint[hole[1], hole[0]]
    assert footprint.sum() > 0.7 * frame.size


def test_beside_a_saturated_column_the_sky_stays_as_light_as_it_was():
    """A column that bleeds: nothing is darker than the darkest pixel, and the sky keeps its level."""
    rng = np.random.default_rng(23)
    frame = rng.normal(100, 5, SHAPE).astype(np.float32)
    frame[30:90, 74:77] = 60000

    moved, footprint = apply_transform(frame, transform(similarity(0, 2.4, 3.3)), SHAPE)

    assert moved[footprint].min() >= frame.min()
    assert moved[footprint].max() > 60000
    assert np.mean(moved[100:, 5:-5]) == pytest.approx(100, abs=0.2)


def test_colour_moves_together_and_onto_another_size():
    """Bands of (3, H, W) share one footprint; the grid need not be the frame's."""
    frame = np.random.default_rng(22).normal(0, 1, (3, *SHAPE)).astype(np.float32)
    frame[1, 60, 60] = np.nan

    moved, footprint = apply_transform(frame, transform(similarity(0, 4, 4)), (140, 100))

    assert moved.shape == (3, 140, 100)
    assert not footprint[64, 64]
    assert np.isnan(moved[:, 64, 64]).all()


def test_a_frame_of_nan_alone_gives_nan_alone():
    """Nothing seen stays nothing seen."""
    moved, footprint = apply_transform(np.full(SHAPE, np.nan, np.float32), transform(similarity(1, 2, 3)), SHAPE)

    assert np.isnan(moved).all()
    assert not footprint.any()


def test_matrices_compose_and_invert():
    """There and back is nowhere."""
    there = similarity(33, 12, -8, scale=1.02)

    assert np.allclose(compose(invert(there), there), np.eye(2, 3), atol=1e-12)
    assert np.allclose(transform(there)(np.array([2.0]), np.array([3.0])), move(np.array([[2.0, 3.0]]), there))
