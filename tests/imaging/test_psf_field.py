"""Star shapes that change over the field: what they are at a place, and pieces that add up to the whole."""

import numpy as np
import pytest

from stackd.imaging.psf import FWHM_PER_SIGMA, Psf
from stackd.imaging.psf_field import PsfField, pieces

SHAPE = (301, 420)
ROUND = Psf(2.5, 3.2)


def field(xx: float = 0.0, xy: float = 0.0, yy: float = 0.0, growth: float = 0.0) -> PsfField:
    """Squared widths (px²) that are added everywhere, and `growth` (px²) that all get at the end of the longer side."""
    terms = np.zeros((3, 6))
    terms[:, 0] = xx, xy, yy
    terms[(0, 2), 3] = terms[(0, 2), 5] = growth
    return PsfField(terms, SHAPE)


def second_moments(stamp: np.ndarray) -> np.ndarray:
    """xx, xy, yy (px²) of a centred stamp, as squared widths of a Gaussian."""
    steps = np.arange(len(stamp)) - len(stamp) // 2
    y, x = np.meshgrid(steps, steps, indexing="ij")
    return FWHM_PER_SIGMA**2 * np.array([(stamp * x * x).sum(), (stamp * x * y).sum(), (stamp * y * y).sum()])


@pytest.mark.parametrize("shape", [SHAPE, (64, 1000), (97, 33)])
def test_shares_add_up_to_the_whole(shape: tuple[int, int]) -> None:
    """Every pixel is told by pieces whose shares come to 1, and a piece counts for nothing at its inner edges."""
    flat = PsfField(np.zeros((3, 6)), shape)
    whole = np.zeros(shape)

    for piece in pieces(shape, (ROUND,), flat):
        whole[piece.window] += piece.share
        assert piece.share.shape == whole[piece.window].shape
        for edge, inner in zip(
            (piece.share[0], piece.share[-1], piece.share[:, 0], piece.share[:, -1]),
            (piece.window[0].start > 0, piece.window[0].stop < shape[0],
             piece.window[1].start > 0, piece.window[1].stop < shape[1]),
        ):  # fmt: skip
            assert not inner or (edge == 0).all()

    np.testing.assert_allclose(whole, 1, atol=1e-6)


def test_the_places_widths_are_added_to_the_frames() -> None:
    """Second moments add up, in the direction that the field says, and the light stays one."""
    psf = Psf(2.2, 4.0, 0.15, 0.4)

    there = field(1.5, 0.6, 0.9).psf_at(psf, 100, 50).stamp()

    assert there.sum() == pytest.approx(1)
    np.testing.assert_allclose(second_moments(there) - second_moments(psf.stamp()), [1.5, 0.6, 0.9], atol=0.06)


def test_no_change_is_no_change() -> None:
    """A field that adds nothing leaves a frame's star as it is, its table too."""
    table = np.zeros((9, 9))
    table[4, 5], table[4, 3] = 0.01, -0.01
    psf = Psf(1.8, 3.0, 0.1, 1.0, 20, table)

    np.testing.assert_allclose(field().psf_at(psf, 10, 290).stamp(), psf.stamp(), atol=2e-4)


def test_a_wider_core_leaves_the_wings() -> None:
    """What widens stars towards the corners (defocus, field curvature) hardly reaches 12 px out: wings that were said
    to grow with the core made bright stars' fluxes scatter."""
    here, there = ROUND.stamp(), field(2.5, 0.0, 2.5).psf_at(ROUND, 0, 0).stamp()

    middle = len(here) // 2
    assert there[middle, middle] < 0.8 * here[middle, middle]
    assert 0.75 < there[middle, middle + 12] / here[middle, middle + 12] < 1.3  # of a wider Moffat star: 2.1


def test_places_sharper_than_the_frames_own_shape() -> None:
    """Negative additions make the star narrower, never below half of its width."""
    usual, sharp, sharpest = (
        field(added, 0.0, added).psf_at(ROUND, 0, 0).stamp().max() for added in (0.0, -2.0, -1000.0)
    )

    assert usual < sharp < sharpest
    assert sharp == pytest.approx(Psf(np.sqrt(2.5**2 - 2), 3.2).stamp().max(), rel=0.01)
    assert sharpest == pytest.approx(Psf(1.25, 3.2).stamp().max(), rel=0.01)


def test_widths_grow_towards_the_corners() -> None:
    """Each piece has its place's shape."""
    grows = field(growth=4.0)
    middle_x, middle_y = (SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2

    assert grows.fwhm_px_at(ROUND, middle_x, middle_y) == pytest.approx(2.5)
    assert grows.fwhm_px_at(ROUND, 419, middle_y) == pytest.approx(np.sqrt(2.5**2 + 4), rel=0.01)
    peaks = [piece.psfs[0].stamp().max() for piece in pieces(SHAPE, (ROUND,), grows)]
    assert np.argmax(peaks) == len(peaks) // 2
