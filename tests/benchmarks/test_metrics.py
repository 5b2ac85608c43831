"""The quality benchmark's judge: it must tell good pictures from bad ones, each figure by what it is for."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from stackd.imaging import skies
from stackd.imaging.judge import EDGE_PX

SHAPE = (320, 320)
NOISE = 8.0


@pytest.fixture(scope="module")
def metrics() -> ModuleType:
    """benchmarks/metrics.py, which is no part of the package."""
    path = Path(__file__).parents[2] / "benchmarks" / "metrics.py"
    spec = importlib.util.spec_from_file_location("benchmark_metrics", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def truth(metrics: ModuleType, rng: np.random.Generator):
    """Stars on a flat sky."""
    sky = skies.Sky(np.zeros((1, *SHAPE), np.float32), *skies.star_catalogue(SHAPE, 1, rng, 1500, (250, 1e5)))
    return metrics.Truth(sky.truth(2.0), sky, NOISE, 3 * NOISE, False)


SEEN = np.pad(np.ones((300, 300), bool), 10)


def test_a_better_picture_has_better_figures(metrics: ModuleType, truth, rng: np.random.Generator) -> None:
    """Less noise, narrower stars: every figure says so."""
    noise = rng.normal(0, NOISE, (1, *SHAPE)).astype(np.float32)

    good = metrics.figures(truth.planes + 0.3 * noise, truth, SEEN)
    bad = metrics.figures(truth.sky.truth(4.0) + 2 * noise, truth, SEEN)

    for figure in ("psnr", "ssim", "found"):
        assert good[figure] > bad[figure], figure
    for figure in ("flux_scatter", "fwhm"):
        assert good[figure] < bad[figure], figure
    assert good["found"] > 0.9
    assert good["flux_error"] == pytest.approx(0, abs=0.01)


def test_light_that_is_lost_is_seen(metrics: ModuleType, truth) -> None:
    """Ten per cent less light is 0.11 mag, without scatter."""
    error, scatter = metrics.flux_error(0.9 * truth.planes[0], truth)

    assert error == pytest.approx(0.114, abs=0.002)
    assert scatter == pytest.approx(0, abs=0.002)


def test_a_blank_picture_finds_nothing(metrics: ModuleType, truth, rng: np.random.Generator) -> None:
    """Noise alone finds next to no star."""
    blank = rng.normal(0, NOISE, SHAPE).astype(np.float32)

    assert metrics.share_found(blank, truth, 3.0) < 0.05


def test_a_slope_that_ends_shows_no_false_peaks(metrics: ModuleType, truth, rng: np.random.Generator) -> None:
    """A steep ground that was seen in part: as many stars are found as in the same part of a flat one."""
    slope = np.linspace(0, 200 * NOISE, SHAPE[1], dtype=np.float32)
    light = truth.planes[0] + rng.normal(0, NOISE / 3, SHAPE).astype(np.float32)
    part = np.pad(SEEN[:, :-90], ((0, 0), (0, 90)))

    flat, steep = (metrics.share_found(np.where(part, v, np.nan), truth, 2.0) for v in (light, light + slope))

    assert flat > 0.9
    assert steep > flat - 0.05


def test_invented_stars_are_counted(metrics: ModuleType, truth, rng: np.random.Generator) -> None:
    """Stars put where the sky is empty are counted, those of the catalogue are not."""
    light = truth.planes[0] + rng.normal(0, NOISE / 3, SHAPE).astype(np.float32)
    empty = truth.empty()
    row, column = np.argwhere(empty[20:-20, 20:-20])[:: max(1, empty.sum() // 6)][:5].T + 20
    stars = skies.splat(SHAPE, column.astype(float), row.astype(float), np.full(len(row), 20 * truth.flux_error))

    before = metrics.invented_per_mpx(light, truth)
    after = metrics.invented_per_mpx(light + stars, truth)

    assert before == 0
    assert after == pytest.approx(len(row) / (empty[EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX].sum() / 1e6), rel=0.01)


def test_a_picture_without_empty_sky_tells_nothing_of_invented_stars(metrics: ModuleType, truth) -> None:
    """Neither none nor many."""
    light = np.where(np.arange(SHAPE[1]) % 15 > 0, truth.planes[0], np.nan)

    assert np.isnan(metrics.invented_per_mpx(light, truth))


@pytest.mark.parametrize("claimed", [0.5, 1.0])
def test_deviations_tell_whether_sigma_is_true(
    metrics: ModuleType, truth, rng: np.random.Generator, claimed: float
) -> None:
    """Normal errors of the size that is claimed deviate by 0.67 in the median; claims too small show."""
    image = truth.planes + rng.normal(0, NOISE, truth.planes.shape).astype(np.float32)
    sigma = np.full_like(image, claimed * NOISE)

    sky = metrics.deviations(image, sigma, truth, SEEN)[0]

    assert np.median(sky) == pytest.approx(0.674 / claimed, rel=0.02)
