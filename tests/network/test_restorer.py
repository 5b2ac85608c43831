"""The network at work: tiles agree with the whole, foreign weights are refused, errors are put right by the curve."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from stackd.errors import ModelError
from stackd.imaging.fuse import CONDITIONS, ESTIMATES, REGULARISATIONS, Bank, fuse
from stackd.imaging.psf import Psf
from stackd.imaging.stack import combine
from stackd.network.architecture import HALO_PX, PRESETS, STRIDE, build
from stackd.network.calibrate import AS_CLAIMED
from stackd.network.channels import network_input
from stackd.network.restorer import SMALL_TILE_PX, TILE_PX, Restored, Restorer
from stackd.network.weights import set_weights, weights_of

STEP_PX = TILE_PX - 2 * HALO_PX


def card(**fields: Any) -> dict[str, Any]:
    return {"architecture": PRESETS["small"], "target_fwhm_px": 2.0, "sigma_curve": AS_CLAIMED} | fields


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """A network whose every weight speaks: random ones, larger than at a training's start."""
    built = build(PRESETS["small"])
    rng = np.random.default_rng(9)
    for variable in built.weights:
        fan_in = max(np.prod(variable.shape[:-1]), 1)
        spread = 0.05 if variable.path.endswith("bias") else 0.8 / np.sqrt(fan_in)
        variable.assign(rng.normal(0, spread, variable.shape).astype(np.float32))
    return built


@pytest.fixture(scope="module")
def restorer(network: keras.Model) -> Restorer:
    return Restorer(card(), weights_of(network))


def random_bank(
    rng: np.random.Generator, height: int, width: int, unit_adu: float = 3.0, floor_adu: float = 0.0
) -> Bank:
    maps = rng.normal(0, 1, (ESTIMATES + 1, height, width))
    maps += np.where(rng.random((height, width)) < 0.01, rng.exponential(100, (height, width)), 0)
    plane, *others, score = maps.astype(np.float32)
    wiener, background = np.split(np.array(others), [len(REGULARISATIONS)])
    spread, depth = rng.uniform(0.8, 1.4, (2, height, width)).astype(np.float32)
    conditions = rng.normal(0, 0.5, CONDITIONS).astype(np.float32)
    return Bank(plane, wiener, background, score, spread, depth, unit_adu, floor_adu, conditions)


@pytest.mark.parametrize("size", [(STEP_PX + 37, STEP_PX + 90), (SMALL_TILE_PX - 2 * HALO_PX, 94)])
def test_tiles_give_what_the_whole_gives(
    network: keras.Model, restorer: Restorer, rng: np.random.Generator, size: tuple[int, int]
) -> None:
    """Two by two tiles, and a single small one: everywhere within 1e-5 of the noise (and of a star's light) of one big
    pass."""
    height, width = size
    bank = random_bank(rng, height, width)

    tiled = restorer.restore([bank])[0]

    around = [(HALO_PX, HALO_PX + (-n) % STRIDE) for n in (height, width)]
    whole = np.pad(network_input([bank])[0], (*around, (0, 0)), mode="symmetric")
    restored, log_sigma = network([whole[None], bank.conditions[None]])
    window = slice(HALO_PX, HALO_PX + height), slice(HALO_PX, HALO_PX + width)
    want = np.asarray(restored)[0][window]
    assert np.std(want) > 0.1
    np.testing.assert_allclose(tiled.image / 3.0, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.log(tiled.sigma / 3.0), np.asarray(log_sigma)[0][window], atol=1e-4)


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 300), (121, 94)])
def test_any_picture_with_one_band_or_three(
    restorer: Restorer, bands: int, height: int, width: int, rng: np.random.Generator
) -> None:
    """A picture and an error for each band, of its size, in its own unit."""
    banks = [random_bank(rng, height, width, unit_adu=2.0 + k) for k in range(bands)]

    out = restorer.restore(banks)

    assert len(out) == bands
    for one in out:
        assert one.image.shape == one.sigma.shape == (height, width)
        assert one.image.dtype == one.sigma.dtype == np.float32
        assert np.isfinite(one.image).all()
        assert (one.sigma > 0).all()


def test_the_unit_scales_the_result(restorer: Restorer, rng: np.random.Generator) -> None:
    """The same bank in a unit ten times as large gives ten times the picture and its error."""
    small = random_bank(rng, 64, 80, unit_adu=1.5)
    large = replace(small, unit_adu=15.0)

    one, ten = restorer.restore([small])[0], restorer.restore([large])[0]

    np.testing.assert_allclose(ten.image, 10 * one.image, rtol=1e-5)
    np.testing.assert_allclose(ten.sigma, 10 * one.sigma, rtol=1e-5)


def test_the_floor_is_added_back(restorer: Restorer, rng: np.random.Generator) -> None:
    """The same maps over a floor: the picture on that floor, its error the same."""
    low = random_bank(rng, 64, 80)

    one, raised = restorer.restore([low])[0], restorer.restore([replace(low, floor_adu=250.0)])[0]

    np.testing.assert_allclose(raised.image - 250, one.image, atol=1e-4 * low.unit_adu)
    np.testing.assert_array_equal(raised.sigma, one.sigma)


def test_where_the_sky_lies_changes_nothing(rng: np.random.Generator) -> None:
    """A constant light over all frames: the same maps, and a network gives its picture higher by that light.

    Within a thousandth of the noise. A network that barely began, so that rounding is all there is between the two.
    """
    frames = rng.normal(0, 8, (3, 100, 120)).astype(np.float32)
    frames[:, 50, 60] += 4000
    noise_adu, psfs = np.full(3, 8.0), (Psf(2.6), Psf(3.0), Psf(3.4))
    keras.utils.set_random_seed(3)
    untrained = Restorer(card(), weights_of(build(PRESETS["small"])))

    def restored(light_adu: float) -> tuple[Bank, Restored]:
        lit = frames + np.float32(light_adu)
        bank = fuse(lit, noise_adu, combine(lit, noise_adu, np.zeros(lit.shape, bool)), psfs, 2.0)
        return bank, untrained.restore([bank])[0]

    (dark_bank, dark), (lit_bank, lit) = restored(0.0), restored(128.0)

    assert lit_bank.floor_adu - dark_bank.floor_adu == pytest.approx(128, abs=1e-3)
    assert lit_bank.unit_adu == dark_bank.unit_adu
    np.testing.assert_allclose(lit.image - dark.image, 128, atol=1e-3 * dark_bank.unit_adu)
    np.testing.assert_allclose(lit.sigma, dark.sigma, rtol=1e-3)


def test_bands_know_of_each_other(restorer: Restorer, rng: np.random.Generator) -> None:
    """The guide is all bands together: a band changes when another one does, and does not when they change places."""
    banks = [random_bank(rng, 40, 40) for _ in range(3)]

    first = restorer.restore(banks)[0].image
    swapped = restorer.restore([banks[0], banks[2], banks[1]])[0].image
    alone = restorer.restore(banks[:1])[0].image

    np.testing.assert_allclose(swapped, first, rtol=1e-4, atol=1e-4)
    assert np.abs(alone - first).max() > 0.01


def test_no_size_makes_tensorflow_trace_again(network: keras.Model, rng: np.random.Generator) -> None:
    """One shape of tile for small pictures and one for all others: memory and time do not grow with every new size."""
    fresh = Restorer(card(), weights_of(network))
    for height, width in ((40, 50), (8, 8), (176, 176), (177, 8), (20, 600), (90, 33)):
        fresh.restore([random_bank(rng, height, width)])

    assert fresh._call.experimental_get_tracing_count() == 2


def held_otherwise(bank: Bank, turn: Callable[[np.ndarray], np.ndarray]) -> Bank:
    """The same sky with the camera held another way."""
    turned = {name: turn(getattr(bank, name)) for name in ("plain", "score", "spread", "depth")}
    turned |= {name: np.array([turn(one) for one in getattr(bank, name)]) for name in ("wiener", "background")}
    return replace(bank, **turned)


@pytest.mark.parametrize("turn", [lambda image: np.rot90(image, 2), np.transpose], ids=["upside down", "transposed"])
def test_how_the_camera_was_held_is_no_matter(
    restorer: Restorer, rng: np.random.Generator, turn: Callable[[np.ndarray], np.ndarray]
) -> None:
    """In all orientations a turned sky gives the same picture and error, turned; in one it does not."""
    bank = random_bank(rng, 96, 120)

    straight, turned = (restorer.restore([b], orientations=4)[0] for b in (bank, held_otherwise(bank, turn)))

    np.testing.assert_allclose(turned.image, turn(straight.image), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(turned.sigma, turn(straight.sigma), rtol=1e-4)
    one = restorer.restore([bank])[0].image
    assert np.abs(restorer.restore([held_otherwise(bank, turn)])[0].image - turn(one)).max() > 0.1


def test_orientations_are_averaged(restorer: Restorer, rng: np.random.Generator) -> None:
    """Two of them: the mean of the picture seen straight and seen upside down."""
    bank = random_bank(rng, 64, 80)
    straight = restorer.restore([bank])[0]
    upside_down = restorer.restore([held_otherwise(bank, lambda image: np.rot90(image, 2))])[0]

    both = restorer.restore([bank], orientations=2)[0]

    np.testing.assert_allclose(both.image, (straight.image + np.rot90(upside_down.image, 2)) / 2, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(both.sigma, (straight.sigma + np.rot90(upside_down.sigma, 2)) / 2, rtol=1e-5)


@pytest.mark.parametrize("orientations", [1, 4])
def test_progress_is_told_to_the_end(restorer: Restorer, rng: np.random.Generator, orientations: int) -> None:
    """Shares of the work, rising over tiles, orientations and bands, the last one 1."""
    shares: list[float] = []

    restorer.restore([random_bank(rng, 20, 600), random_bank(rng, 20, 600)], shares.append, orientations=orientations)

    steps = 4 * orientations  # two tiles each
    assert shares == pytest.approx([(n + 1) / steps for n in range(steps)])


def test_claimed_errors_are_put_right(network: keras.Model, rng: np.random.Generator) -> None:
    """Along the card's curve: below it never less than its least, above it by its end's own correction."""
    bank = random_bank(rng, 64, 64, unit_adu=1.0)
    weights = weights_of(network)
    claimed = np.log(Restorer(card(), weights).restore([bank])[0].sigma)
    low, high = np.quantile(claimed, [0.2, 0.8])

    curve = [[float(low), float(high)], [float(low) + 0.5, float(high) + 1.0]]
    real = np.log(Restorer(card(sigma_curve=curve), weights).restore([bank])[0].sigma)

    below, above = claimed <= low, claimed >= high
    np.testing.assert_allclose(real[below], low + 0.5, atol=1e-3)
    np.testing.assert_allclose(real[above] - claimed[above], 1.0, atol=1e-3)
    between = ~below & ~above
    want = 0.5 + 0.5 * (claimed[between] - low) / (high - low)
    np.testing.assert_allclose(real[between] - claimed[between], want, atol=1e-3)


def test_weights_go_and_come_back(network: keras.Model) -> None:
    """What was read from one network makes another give the same."""
    other = build(PRESETS["small"])

    set_weights(other, weights_of(network))

    bank = tf.random.stateless_normal((1, 16, 16, network.inputs[0].shape[-1]), (1, 2)) + 2.0
    told = tf.zeros((1, CONDITIONS))
    np.testing.assert_array_equal(other([bank, told])[0], network([bank, told])[0])


@pytest.mark.parametrize("what", ["missing", "foreign", "odd shape", "other preset"])
def test_foreign_weights_are_refused(network: keras.Model, what: str) -> None:
    """A weight too few, one too many, one of another shape, another architecture: ModelError that says which."""
    weights = weights_of(network)
    name = next(iter(weights))
    if what == "missing":
        del weights[name]
    elif what == "foreign":
        weights["stem/other"] = np.zeros(3, np.float32)
        name = "stem/other"
    elif what == "odd shape":
        weights[name] = np.zeros((*weights[name].shape, 1), np.float32)
    else:
        weights, name = weights_of(build(PRESETS["default"])), "weights are not of this architecture|has shape"

    with pytest.raises(ModelError, match=name):
        Restorer(card(), weights)
