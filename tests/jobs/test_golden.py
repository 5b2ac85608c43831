"""The golden set: always the same skies, and figures that tell a good picture from a bad one."""

from dataclasses import replace

import numpy as np
import pytest

from stackd.disk import model_store, models
from stackd.imaging import psf_fit
from stackd.imaging.camera import Night
from stackd.imaging.truth import matched
from stackd.jobs import golden, judging, promotion
from stackd.jobs.loading import load_restorer

SMALL = golden.GoldenSky("small", 7, size_px=256, stars_per_mpx=4000.0)


@pytest.fixture(scope="module")
def prepared() -> golden.Prepared:
    return golden.prepare(SMALL)


def test_the_skies_are_always_the_same(prepared: golden.Prepared) -> None:
    """To the last bit: a candidate of today is judged as one of last year was."""
    again = golden.prepare(SMALL)

    np.testing.assert_array_equal(again.truth.planes, prepared.truth.planes)
    np.testing.assert_array_equal(again.stacks[0].mean, prepared.stacks[0].mean)
    assert len({sky.seed for sky in golden.SKIES}) == len(golden.SKIES)
    assert {"stars", "empty", "nebula"} <= {sky.name for sky in golden.SKIES}


def test_the_truth_lies_on_the_frames(prepared: golden.Prepared) -> None:
    """The plain stack is the truth, blurred and noisy, on the same grid and in a unit that can be fitted."""
    inside = (slice(None), *[slice(golden.BORDER_PX, -golden.BORDER_PX)] * 2)
    stack, truth = np.stack([s.mean for s in prepared.stacks])[inside], prepared.truth.planes[inside]
    fitted, scale = matched(stack, truth)

    assert 0.7 < scale[0] < 1.5
    assert np.corrcoef(fitted.ravel(), truth.ravel())[0, 1] > 0.8
    assert len(prepared.aligned.used) == 8


def test_a_sky_on_which_a_picture_says_nothing_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stars all gone, a flux error cannot be told: nor can the mean, and the candidate fails. Figures that a
    nebula's knots forbid are left out for all."""
    skies = [SMALL, replace(SMALL, name="nebula", detail=True)]
    stars = {"psnr": 40.0, "flux_error": 0.01, "found": 0.5, "invented": 1.0}
    said = iter([stars, {"psnr": 42.0, "flux_error": np.nan}])
    monkeypatch.setattr(golden, "figures", lambda prepared, restorer: next(said))

    mine = golden.judge([golden.Prepared(sky, None, [], None) for sky in skies], None)

    assert (mine["psnr"], mine["found"], mine["invented"]) == (41.0, 0.5, 1.0)
    rules = [rule for rule in judging.RULES if rule.judged_on == judging.GOLDEN]
    compared = promotion.compare({judging.GOLDEN: mine}, {judging.GOLDEN: stars}, "it", rules)
    assert compared.failed() == "flux_error on the golden set"


@pytest.mark.timeout(200)
def test_lopsided_stars_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharp stars with tails, no ellipse: what a table tells of them beside the profile brings the picture nearer to
    the truth by half a decibel or more."""
    night = Night(fwhm_px=(1.3, 1.8), coma_chance=1.0, drift_px=0.7)
    restorer = load_restorer(str(models.resolve(models.SHIPPED.parent / "no store", "default").path))
    sky = replace(SMALL, seed=11, size_px=320, night=night)

    told = golden.figures(golden.prepare(sky), restorer)["psnr"]
    monkeypatch.setattr(psf_fit, "TABLE_STARS", 10**6)
    untold = golden.figures(golden.prepare(sky), restorer)["psnr"]

    assert told > untold + 0.5


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_golden_set_says_everything() -> None:
    """On its skies the shipped model has every figure as a number: one that is none decides nothing, or everything."""
    version = models.resolve(models.SHIPPED.parent / "no store", "default")

    said = golden.judge(golden.prepare_all(), load_restorer(str(version.path)))

    assert set(golden.FIGURES) <= set(said)
    assert np.isfinite(list(said.values())).all()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_worse_networks_have_worse_figures(prepared: golden.Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped model against the same with noise on its weights: less PSNR; and a mean over the skies is given."""
    version = models.resolve(models.SHIPPED.parent / "no store", "default")
    good = load_restorer(str(version.path))
    _, weights = model_store.load_weights(version)
    rng = np.random.default_rng(1)
    spoilt = {name: v + rng.normal(0, 0.1 * v.std() + 1e-3, v.shape).astype(np.float32) for name, v in weights.items()}
    bad = type(good)(good.card, spoilt)

    mine, theirs = golden.judge([prepared], good), golden.judge([prepared], bad)

    assert set(golden.FIGURES) <= set(mine)
    assert mine["psnr"] == mine["psnr small"]
    assert mine["psnr"] > theirs["psnr"] + 0.5
    assert mine["found"] > 0.5
    assert mine["flux_error"] < 0.1
