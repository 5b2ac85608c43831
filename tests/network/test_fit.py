"""Training: it learns, it can be stopped and taken up again as if never stopped, and it says how good it is."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from stackd.errors import ModelError
from stackd.network import architecture, fit
from stackd.network.fit import Batch, Recipe, Trainer, evaluate
from stackd.network.weights import set_weights
from tests.network.nights import quick_skies

TINY = {"widths": [8, 8, 8], "blocks": [1, 1, 1]}
CROP_PX = 32


def batch(number: int, size: int = 2) -> Batch:
    samples = [quick_skies(1, number * size + k)[0] for k in range(size)]
    cut = slice(0, CROP_PX)
    return (
        np.stack([s.bank[cut, cut] for s in samples]),
        np.stack([s.conditions for s in samples]),
        np.stack([s.truth[cut, cut] for s in samples]),
    )


def trainer(**recipe: Any) -> Trainer:
    """A tiny network that starts the same every time."""
    keras.utils.set_random_seed(2)
    return Trainer(architecture.build(TINY), Recipe(**({"steps": 20, "warm_up": 5, "crop_px": CROP_PX} | recipe)))


def test_steps_lower_the_loss() -> None:
    """One batch over and over: after 25 steps it is clearly better fitted, and the averaged weights are as well."""
    run = trainer(learning_rate=3e-3)
    same = batch(0)

    losses = [run.train_on(same, k / 25) for k in range(25)]

    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
    before = evaluate(trainer().network, [same])["loss"]
    set_weights(run.network, run.averaged_weights())
    assert evaluate(run.network, [same])["loss"] < before


def test_a_step_of_an_inner_kernel_goes_equally_far_in_all_directions() -> None:
    """Muon's: as a matrix from patches to channels, of nearly equal singular values."""
    run = trainer(weight_decay=0.0)
    before = {v.path: np.asarray(v).copy() for v in run.network.trainable_variables}
    run.train_on(batch(0), 0.0)
    steps = {v.path: np.asarray(v) - before[v.path] for v in run.network.trainable_variables}

    inner = [step for path, step in steps.items() if "kernel" in path and "_0_" in path]
    assert inner
    for step in inner:
        widths = np.linalg.svd(step.reshape(-1, step.shape[-1]), compute_uv=False)
        assert widths.max() < 2 * widths.min()


def test_a_stopped_run_goes_on_as_if_never_stopped() -> None:
    """Weights, their average, the optimiser's moments and the step: all the same after 3 + 3 steps as after 6."""
    whole = trainer()
    for step in range(6):
        whole.train_on(batch(step), step / 6)

    first, second = trainer(), trainer(learning_rate=1e-3)
    for step in range(3):
        first.train_on(batch(step), step / 6)
    second.train_on(batch(9), 0.5)  # has gone elsewhere before
    second.resume(first.state())
    for step in range(3, 6):
        second.train_on(batch(step), step / 6)

    assert second.step == 6
    assert whole.state().keys() == second.state().keys()
    for name, values in whole.state().items():
        np.testing.assert_allclose(second.state()[name], values, rtol=1e-6, atol=1e-7, err_msg=name)


def test_another_networks_state_is_refused_untouched() -> None:
    """Of another width, or of an optimiser with other variables: an error, and the trainer is as it was."""
    run = trainer()
    before = run.state()
    foreign = before | {"average/" + run.network.trainable_variables[0].path: np.zeros((1, 2, 3))}
    with pytest.raises(ModelError, match="another network or optimiser"):
        run.resume(foreign)
    with pytest.raises(ModelError, match="conv_muon"):
        run.resume({name: values for name, values in before.items() if "momentum" not in name})

    for name, values in run.state().items():
        np.testing.assert_array_equal(values, before[name])


def test_a_state_is_plain_arrays() -> None:
    """What a checkpoint file can hold without pickling."""
    for values in trainer().state().values():
        assert isinstance(values, np.ndarray)
        assert values.dtype.kind in "fiu"


def test_the_learning_rate_rises_then_falls() -> None:
    """Linearly over the first steps, then as a cosine down to the last rate, and never beyond its end."""
    run = trainer(warm_up=10, learning_rate=1e-3, last_learning_rate=1e-5)

    rates = []
    for step in range(100):
        run.step = step
        rates.append(run.learning_rate(step / 100))

    assert rates[0] == pytest.approx(1e-4)
    assert np.argmax(rates) == 9
    assert (np.diff(rates[10:]) < 0).all()
    assert run.learning_rate(1.0) == pytest.approx(1e-5)
    assert run.learning_rate(1.7) == pytest.approx(1e-5)


def test_the_average_follows_and_lags() -> None:
    """After one step it has left the random start; later it moves less than the weights do."""
    run = trainer(ema=0.9)
    start = run.averaged_weights()
    run.train_on(batch(0), 0.0)
    one = run.averaged_weights()
    for step in range(1, 12):
        run.train_on(batch(step), 0.2)
    name = next(n for n in start if "kernel" in n)
    weights = {v.path: np.asarray(v) for v in run.network.trainable_variables}

    assert not np.array_equal(one[name], start[name])
    far, near = (np.linalg.norm(weights[name] - w) for w in (start[name], run.averaged_weights()[name]))
    assert 0 < near < far


def test_evaluation_tells_psnr_and_loss() -> None:
    """Of network and plain stack on the same batches; a bank whose plain map is the truth cannot be beaten."""
    network = trainer().network
    bank, conditions, truth = batch(0)
    perfect = bank.copy()
    perfect[..., 0] = truth
    seen: list[int] = []

    scores = evaluate(network, [(bank, conditions, truth), (perfect, conditions, truth)], seen.append)
    noisy = evaluate(network, [(bank, conditions, truth)])

    assert seen == [1, 2]
    assert scores.keys() == {"psnr", "psnr_plain", "loss"}
    assert all(isinstance(v, float) and np.isfinite(v) for v in scores.values())
    assert scores["psnr_plain"] > noisy["psnr_plain"] + 10
    assert noisy["psnr_plain"] == pytest.approx(evaluate(network, [batch(0)])["psnr_plain"])


def test_a_model_is_judged_in_full_precision() -> None:
    """After a training in fast arithmetic a compiled network gives what the plain one does, on any processor."""
    bank, conditions, _ = batch(0)
    fit.use_fast_arithmetic()
    fit.use_full_precision()
    network = architecture.build(TINY)

    compiled = tf.function(lambda maps, told: network([maps, told]))

    for one, other in zip(compiled(bank, conditions), network([bank, conditions])):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert not tf.config.optimizer.get_experimental_options()[fit.BFLOAT16_ON_PROCESSORS]
