"""The judge of real frames: given a deep picture of the same field, it must tell good ways from bad ones."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from stackd.imaging import skies
from stackd.imaging.warp import Transform

SHAPE = (320, 320)
NOISE = 4.0
SHIFT = Transform(np.array([[1.0, 0.0, 3.0], [0.0, 1.0, -2.0]]), "stars", 0, 0.0)


@pytest.fixture
def deep(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/deep.py, which is no part of the package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("benchmarks.deep")


@pytest.fixture
def field(deep: ModuleType, rng: np.random.Generator):
    """(the deep picture, its sky moved by SHIFT without noise)."""
    x, y = rng.uniform(10, SHAPE[0] - 10, (2, 200))
    flux = np.geomspace(60, 8000, 200)[None]
    sky = skies.Sky(np.zeros((1, *SHAPE), np.float32), x, y, flux)
    moved = skies.Sky(sky.diffuse, *SHIFT(x, y).T, flux)
    light = sky.truth(2.5)[0] + rng.normal(0, NOISE, SHAPE).astype(np.float32)
    return deep._catalogued(light, np.ones(SHAPE, bool), 1e6), moved.truth(2.5)[0]


def test_a_quieter_picture_is_judged_better(deep: ModuleType, field, rng: np.random.Generator) -> None:
    """Less noise: more stars found, less scatter, whatever unit it has and wherever its grid lies."""
    judge, light = field
    quiet, _ = deep.figures(0.01 * (light + rng.normal(0, NOISE, SHAPE).astype(np.float32)), SHIFT, judge)
    loud, _ = deep.figures(light + rng.normal(0, 5 * NOISE, SHAPE).astype(np.float32), SHIFT, judge)

    assert quiet["found_100"] > loud["found_100"] + 0.05
    assert quiet["scatter"] < loud["scatter"]
    assert quiet["found_100"] > 0.8
    assert quiet["fwhm"] == pytest.approx(2.6, abs=0.3)


def test_invented_stars_are_counted(deep: ModuleType, field, rng: np.random.Generator) -> None:
    """Stars where the deep picture's sky is empty are false."""
    judge, light = field
    row, column = np.argwhere(judge.empty[30:-30, 30:-30])[::3000].T + 30
    x, y = SHIFT(column.astype(float), row.astype(float)).T
    added = skies.Sky(np.zeros((1, *SHAPE), np.float32), x, y, np.full((1, len(x)), 20 * judge.flux_error))
    honest = light + rng.normal(0, NOISE, SHAPE).astype(np.float32)

    before, _ = deep.figures(honest, SHIFT, judge)
    after, _ = deep.figures(honest + added.truth(2.5)[0], SHIFT, judge)

    per_mpx = len(x) / (judge.empty.sum() / 1e6)
    assert after["invented"] - before["invented"] == pytest.approx(per_mpx, rel=0.2)
    assert after["found_10"] < before["found_10"]


def test_a_star_beside_a_brighter_one_is_not_lonely(deep: ModuleType, rng: np.random.Generator) -> None:
    """Its aperture holds the other's light, whatever share of it the way's star width lets in."""
    x, y = np.array([100.0, 107.0, 220.0]), np.array([160.0, 160.0, 160.0])
    sky = skies.Sky(np.zeros((1, *SHAPE), np.float32), x, y, np.array([[40000.0, 3000.0, 3000.0]]))
    light = sky.truth(2.5)[0] + rng.normal(0, NOISE, SHAPE).astype(np.float32)

    judge = deep._catalogued(light, np.ones(SHAPE, bool), 1e6)

    assert np.sort(np.rint(judge.bright.x)).tolist() == [100, 220]


def test_every_frame_serves_on_both_sides(deep: ModuleType) -> None:
    """Sets of the asked size, and no frame always in the set."""
    paths = [Path(str(k)) for k in range(17)]

    sets = deep.splits(paths, 8)

    assert all(len(members) == 8 for members in sets.values())
    assert not set(sets["first"]) & set(sets["last"])
    assert not set(sets["even"]) & set(sets["odd"])
