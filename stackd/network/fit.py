"""Train a given network on a given stream of batches. Knows no paths, pictures or clocks beyond what it is handed.

Muon with warm-up and cosine decay, clipped gradients and an exponential moving average of the weights, which is what
is kept (Polyak & Juditsky 1992). On one device, on several of a machine, or on several machines: each
device takes its part of a batch, so that the result is that of the whole batch on one.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stackd.errors import ModelError
from stackd.network import losses
from stackd.network.muon import ConvMuon
from stackd.network.weights import set_weights

Batch = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
Loss = Callable[..., Any]
BFLOAT16_ON_PROCESSORS = "auto_mixed_precision_onednn_bfloat16"  # TensorFlow's switch
BFLOAT16_CAPABILITY = (8, 0)  # compute capability of the first GPUs that multiply in it


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: everything that, with the seed, decides the result."""

    steps: int = 24_000
    batch: int = 6
    crop_px: int = 112
    learning_rate: float = 1e-3
    last_learning_rate: float = 1e-5
    warm_up: int = 300
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema: float = 0.998


RECIPES = {"large": Recipe(batch=16, crop_px=128)}  # of presets that are not trained by the usual one: to fill a GPU


def use_fast_arithmetic() -> None:
    """Multiply in bfloat16 where that is faster: on processors with units for it (1.4 times faster; others ignore the
    switch) and, as Keras's mixed precision, on GPUs that have them."""
    tf.config.optimizer.set_experimental_options({BFLOAT16_ON_PROCESSORS: True})
    gpus = tf.config.list_physical_devices("GPU")
    able = [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]
    if able and min(able) >= BFLOAT16_CAPABILITY:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")


def use_full_precision() -> None:
    """For what is built, or called for the first time, from here on: a model is judged in the arithmetic that it will
    be used in."""
    tf.config.optimizer.set_experimental_options({BFLOAT16_ON_PROCESSORS: False})
    keras.mixed_precision.set_global_policy("float32")


def choose_strategy() -> tf.distribute.Strategy:
    """Where to train: on the machines that TF_CONFIG names, else on all GPUs of this one, else on its processor.

    Has to be called before anything else is asked of TensorFlow.
    """
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def workers() -> int:
    """How many processes train together, as TF_CONFIG says."""
    cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
    return max(1, sum(len(cluster.get(role, ())) for role in ("chief", "worker")))


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process judges and stores: the cluster's chief, else the first of its workers, or the only one."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or resolver.task_type in (None, "chief"):
        return True
    return resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs


class Trainer:
    """One training run that can be stopped after any step and taken up again from its state.

    Build it, and the network, inside the scope of the strategy.
    """

    def __init__(self, network: keras.Model, recipe: Recipe, loss: Loss = losses.restoration_loss) -> None:
        self.network, self.recipe, self.loss = network, recipe, loss
        self.strategy = tf.distribute.get_strategy()
        self.optimizer = ConvMuon(recipe.learning_rate, recipe.weight_decay)
        self.optimizer.build(network.trainable_variables)
        self.average = [tf.Variable(v.value, trainable=False) for v in network.trainable_variables]
        self.step = 0
        self._steps: dict[Loss, Any] = {}

    @property
    def batch(self) -> int:
        """Samples in a batch: the recipe's, filled up so that each device has as many."""
        replicas = self.strategy.num_replicas_in_sync
        return math.ceil(self.recipe.batch / replicas) * replicas

    def learning_rate(self, progress: float) -> float:
        """Warm-up over the first steps, then a cosine from the first to the last rate; progress is 0 to 1."""
        recipe = self.recipe
        warm = min(1.0, (self.step + 1) / recipe.warm_up)
        cosine = 0.5 * (1 + np.cos(np.pi * min(progress, 1.0)))
        return warm * (recipe.last_learning_rate + (recipe.learning_rate - recipe.last_learning_rate) * cosine)

    def train_on(self, batch: Sequence[NDArray[Any]], progress: float, loss: Loss | None = None) -> float:
        """One step; returns its loss.

        `batch` is (bank, conditions, wanted ...) and `loss` (default: the trainer's) takes what is wanted, then the
        network's two outputs.
        """
        loss = loss or self.loss
        if loss not in self._steps:
            self._steps[loss] = tf.function(lambda parts, keep: self._train_step(loss, parts, keep))
        self.optimizer.learning_rate.assign(self.learning_rate(progress))
        # a short memory at first: the average must not hold on to the random start
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        value = self._steps[loss](self._parts(batch), tf.constant(keep, tf.float32))
        self.step += 1
        return float(value)

    def _parts(self, batch: Sequence[NDArray[Any]]) -> tuple[Any, ...]:
        """The batch as each device's part of it."""
        replicas = self.strategy.num_replicas_in_sync
        if replicas == 1:
            return tuple(tf.constant(part) for part in batch)
        size = len(batch[0]) // replicas

        def of(context: Any) -> tuple[Any, ...]:
            start = context.replica_id_in_sync_group * size
            return tuple(tf.constant(part[start : start + size]) for part in batch)

        return self.strategy.experimental_distribute_values_from_function(of)

    def _train_step(self, loss: Loss, parts, keep):
        losses_of_replicas = self.strategy.run(self._learn, args=(loss, parts))
        for mean, variable in zip(self.average, self.network.trainable_variables):
            self.strategy.extended.update(mean, _towards, args=(variable.value, keep))
        return self.strategy.reduce(tf.distribute.ReduceOp.MEAN, losses_of_replicas, axis=None)

    def _learn(self, loss: Loss, parts):
        """One device's part of a step."""
        bank, conditions, *wanted = parts
        with tf.GradientTape() as tape:
            restored, log_sigma = self.network([bank, conditions], training=True)
            value = loss(*wanted, restored, log_sigma)
        variables = self.network.trainable_variables
        together = tf.distribute.get_replica_context()
        gradients = together.all_reduce(tf.distribute.ReduceOp.MEAN, tape.gradient(value, variables))
        gradients, _ = tf.clip_by_global_norm(gradients, self.recipe.clip_norm)
        # the optimiser adds up what the devices bring, and each now has the whole
        share = 1 / together.num_replicas_in_sync
        self.optimizer.apply([gradient * share for gradient in gradients], variables)
        return value

    def averaged_weights(self) -> dict[str, NDArray[np.float32]]:
        """The averaged weights by variable path: what is kept and judged."""
        return {v.path: mean.numpy() for v, mean in zip(self.network.trainable_variables, self.average)}

    def start_from(self, weights: dict[str, NDArray[np.float32]]) -> None:
        """Go on from another model's weights. Raises ModelError for those of another network."""
        set_weights(self.network, weights)
        for v, m in zip(self.network.trainable_variables, self.average):
            m.assign(v.value)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything needed to go on as if never stopped."""
        arrays = {f"network/{v.path}": np.asarray(v) for v in self.network.trainable_variables}
        arrays |= {f"average/{v.path}": m.numpy() for v, m in zip(self.network.trainable_variables, self.average)}
        arrays |= {f"optimizer/{v.path}": np.asarray(v) for v in self.optimizer.variables}
        return arrays | {"step": np.array(self.step)}

    def resume(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Take up a stopped run from its `state()`; what else lies in it does not matter.

        Raises ModelError, and changes nothing, where it is of another network or optimiser.
        """
        for name, values in self.state().items():
            if name not in state or state[name].shape != values.shape:
                raise ModelError(f"it is of another network or optimiser: {name} is not what it was")
        for v, m in zip(self.network.trainable_variables, self.average):
            v.assign(state[f"network/{v.path}"])
            m.assign(state[f"average/{v.path}"])
        for v in self.optimizer.variables:
            v.assign(state[f"optimizer/{v.path}"])
        self.step = int(state["step"])


def _towards(mean, value, keep) -> None:
    mean.assign(keep * mean + (1 - keep) * value)


def evaluate(
    network: keras.Model, batches: Sequence[Batch], progress: Callable[[int], None] = lambda n: None
) -> dict[str, float]:
    """Mean PSNR (dB) of the network and of the plain stack on held-out batches, and the network's loss."""
    rows = []
    for n, (bank, conditions, truth) in enumerate(batches):
        restored, log_sigma = network([bank, conditions])
        loss = losses.restoration_loss(tf.constant(truth), restored, log_sigma)
        rows.append((float(losses.psnr(truth, restored)), float(losses.psnr(truth, bank[..., 0])), float(loss)))
        progress(n + 1)
    return dict(zip(("psnr", "psnr_plain", "loss"), np.mean(rows, 0).tolist()))
