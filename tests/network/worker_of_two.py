"""One of several processes that train together, for test_distribution: TF_CONFIG says which; writes its weights."""

import sys

import keras
import numpy as np
import tensorflow as tf

from stackd.network import architecture, fit
from tests.network.nights import quick_skies

TINY = {"widths": [8, 8, 8], "blocks": [1, 1, 1]}
CROP_PX, STEPS = 32, 4


def batch(step: int, size: int) -> fit.Batch:
    samples = [quick_skies(1, step * size + k)[0] for k in range(size)]
    cut = slice(0, CROP_PX)
    return (
        np.stack([s.bank[cut, cut] for s in samples]),
        np.stack([s.conditions for s in samples]),
        np.stack([s.truth[cut, cut] for s in samples]),
    )


def train(strategy: tf.distribute.Strategy) -> tuple[fit.Trainer, list[float]]:
    with strategy.scope():
        keras.utils.set_random_seed(2)
        trainer = fit.Trainer(architecture.build(TINY), fit.Recipe(batch=4, crop_px=CROP_PX, warm_up=2))
    return trainer, [trainer.train_on(batch(step, trainer.batch), step / STEPS) for step in range(STEPS)]


if __name__ == "__main__":
    if sys.argv[2:] == ["two devices"]:
        processor, *_ = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = fit.choose_strategy()
    trainer, losses = train(strategy)
    assert trainer.strategy.num_replicas_in_sync == 2
    np.savez(sys.argv[1], **trainer.averaged_weights(), losses=losses, chief=fit.is_chief(strategy))
