"""Claimed errors against real ones on whole nights: after the curve, a claim is what really is off."""

from dataclasses import replace

import numpy as np
import pytest

from stackd.disk import model_store, models
from stackd.jobs import golden, honesty
from stackd.jobs.golden import GoldenSky
from stackd.network.restorer import Restorer

SMALL = GoldenSky("small", 11, size_px=256, stars_per_mpx=4000.0)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_curve_makes_claims_true(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bin by bin of the claimed error the real one is within 30 % of it, on another night than the curve's.

    On the emptiest quarter of the sky, where a few faint stars missed are all the error there is, within 50 %.
    """
    version = models.resolve(models.SHIPPED.parent / "no store", "default")
    card, weights = model_store.load_weights(version)
    monkeypatch.setattr(honesty, "NIGHTS", (SMALL,))

    curve = honesty.measured_curve(card, weights)
    claimed, error = honesty.claims(
        golden.prepare(replace(SMALL, seed=12)), Restorer(card | {"sigma_curve": curve}, weights)
    )

    assert len(claimed) > 0.8 * SMALL.size_px**2
    for quarter in range(4):
        low, high = np.quantile(claimed, [0.25 * quarter, 0.25 * (quarter + 1)])
        inside = (claimed >= low) & (claimed <= high)
        wild = 5 * np.quantile(error[inside], 0.683)
        real = np.sqrt(np.mean(np.minimum(error[inside], wild) ** 2))
        usual = np.sqrt(np.mean(np.minimum(np.exp(claimed[inside]), wild) ** 2))
        assert real == pytest.approx(usual, rel=0.3 if quarter else 0.5)
