"""The golden set: always the same skies, and figures that tell a good picture from a bad one."""

import numpy as np
import pytest

from stackd.disk import model_store, models
from stackd.imaging.truth import matched
from stackd.jobs import golden
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
