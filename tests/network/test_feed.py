"""Simulated skies: the seed and the number alone decide them, and they are what the network takes."""

import numpy as np
import pytest

from stackd.imaging.fuse import CONDITIONS, REGULARISATIONS
from stackd.imaging.psf import Psf
from stackd.network import feed
from stackd.network.channels import CHANNELS, MIXED
from stackd.network.feed import SKY_PX, simulate


def test_a_sky_is_its_seed_and_number() -> None:
    """The same two give the same samples to the last bit, another number or seed others."""
    one, again = simulate(3, 5, ()), simulate(3, 5, ())

    assert len(one) == len(again)
    for a, b in zip(one, again):
        for name in ("bank", "conditions", "truth"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for seed, number in ((3, 6), (4, 5)):
        assert not np.array_equal(simulate(seed, number, ())[0].truth, one[0].truth)


def test_samples_are_what_the_network_takes() -> None:
    """Shapes, float32, all finite; one band or three, of which both occur; maps in units of the stack's noise."""
    skies = [simulate(1, number, ()) for number in range(6)]

    assert {len(samples) for samples in skies} == {1, 3}
    for sample in (s for samples in skies for s in samples):
        assert sample.bank.shape == (SKY_PX, SKY_PX, CHANNELS)
        assert sample.conditions.shape == (CONDITIONS,)
        assert sample.truth.shape == (SKY_PX, SKY_PX)
        for values in (sample.bank, sample.conditions, sample.truth):
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
        assert np.median(sample.bank[..., MIXED + 2]) >= 1 - 1e-6  # depth
        off = sample.bank[..., len(REGULARISATIONS)] - sample.truth  # the quietest Wiener map against the truth
        assert np.median(np.abs(off)) < 5


def test_pictures_are_used(rng: np.random.Generator) -> None:
    """With a gallery some skies show its pictures: the same number gives another sky than without."""
    gallery = [rng.random((300, 300, 3)).astype(np.float32) for _ in range(2)]

    changed = [not np.array_equal(simulate(2, n, gallery)[0].truth, simulate(2, n, ())[0].truth) for n in range(3)]

    assert any(changed)


def test_told_star_shapes_are_nearly_right() -> None:
    """As a fit gives them: some per cent off, never impossible, now and then none at all."""

    class Seen:
        psf = Psf(3.0, 3.0, 0.1, 0.4)

    rng = np.random.default_rng(6)
    told = [feed._told_psfs([Seen()] * 4, rng) for _ in range(300)]

    none = sum(t is None for t in told)
    widths = np.array([p.fwhm_px for t in told if t for p in t])
    assert 5 < none < 40
    assert np.median(widths) == pytest.approx(3.0, rel=0.02)
    assert 0.01 < np.std(np.log(widths)) < 0.1
    assert all(1.8 <= p.beta <= 8 and 0 <= p.ellipticity <= 0.5 for t in told if t for p in t)
