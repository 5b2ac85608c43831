"""The restorer's network: from a bank of fused maps to one clean plane and its uncertainty.

A U-Net on half resolution. Its output is a per-pixel mixture of the bank's linear estimates, corrected
by a bounded factor on an asinh scale, so bright stars are changed in proportion and the sky additively.
No normalisation layer, no attention, no pooling over the whole picture: a tile gives what the
whole would give. Built from keras.ops and keras.layers only, so any Keras backend trains it.
Knows no frames, paths or training.
"""

from typing import Any

import keras
from keras import layers, ops

from stackd.imaging.background import SCALES_PX
from stackd.imaging.fuse import CONDITIONS, REGULARISATIONS
from stackd.network.channels import CHANNELS, MIXED, OWN

STRIDE = 8  # px: sides of an input are multiples of it
HALO_PX = 104  # beyond the reach of the deepest path, so that a tile's middle knows nothing of its edge

# Before training all quiet estimates have their share. What has next to none learns nothing: with the backgrounds at
# -4 a network grown from one that knew none still gave them 0.000 after 4,000 steps.
FIRST_LOGITS = [0.0, -6.0, *[-2.0] * (len(REGULARISATIONS) - 2), 1.0, *[0.0] * len(SCALES_PX)]

PRESETS: dict[str, dict[str, Any]] = {
    "default": {"widths": [32, 64, 96], "blocks": [1, 2, 3]},
    "small": {"widths": [16, 32, 48], "blocks": [1, 1, 2]},
    "large": {"widths": [64, 96, 128], "blocks": [1, 2, 3]},  # for training and restoring on a GPU
}


def build(config: dict[str, Any]) -> keras.Model:
    """The network of a preset's config: `widths` channels on each level, `blocks` residual blocks on the way down.

    Inputs: `bank` (B, H, W, CHANNELS) in units of the stack's noise, `conditions` (B, CONDITIONS).
    Outputs: `restored` (B, H, W) in the same unit and `log_sigma` (B, H, W), natural log of its error.
    """
    bank = keras.Input((None, None, CHANNELS), name="bank")
    conditions = keras.Input((CONDITIONS,), name="conditions")
    widths, blocks = config["widths"], config["blocks"]
    features = layers.Conv2D(widths[0], 6, strides=2, padding="same", name="stem")(
        Compress(name="compress", dtype="float32")(bank)
    )
    told = layers.Dense(widths[0], name="told")(conditions)
    features = layers.ReLU(name="stem_relu")(features + ops.expand_dims(ops.expand_dims(told, 1), 1))
    skips = []
    for level, width in enumerate(widths):
        if level:
            features = layers.Conv2D(width, 2, strides=2, name=f"down{level}")(features)
        for n in range(blocks[level]):
            features = _residual_block(features, width, f"down{level}_{n}")
        skips.append(features)
    for level in range(len(widths) - 2, -1, -1):
        raised = layers.Conv2DTranspose(widths[level], 2, strides=2, name=f"up{level}")(features)
        features = _residual_block(raised + skips[level], widths[level], f"up{level}_0")
    head = layers.Conv2DTranspose(
        MIXED + 2, 6, strides=2, padding="same", dtype="float32", name="head",
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.005),
    )(features)  # fmt: skip
    restored, log_sigma = Mix(dtype="float32", name="mix")([bank, head])
    return keras.Model([bank, conditions], [restored, log_sigma], name="restorer")


def _residual_block(x, width: int, name: str):
    inner = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"{name}_a")(x)
    return x + layers.Conv2D(width, 3, padding="same", kernel_initializer=_quiet(), name=f"{name}_b")(inner)


def _quiet() -> keras.initializers.Initializer:
    """Small weights at the end of a residual block: the network starts close to the identity."""
    return keras.initializers.VarianceScaling(0.1, "fan_in", "truncated_normal")


@keras.saving.register_keras_serializable("stackd")
class Compress(layers.Layer):
    """asinh on all maps in units of noise, so that a bright star and the faintest both fit the network's range."""

    def call(self, bank):
        maps = ops.arcsinh(ops.concatenate([bank[..., : MIXED + 1], bank[..., OWN:]], -1) / 2)
        health = ops.stack([ops.log(bank[..., MIXED + 1] + 0.1), bank[..., MIXED + 2] - 1], -1)
        return ops.concatenate([maps, ops.clip(health, -3.0, 3.0)], -1)


@keras.saving.register_keras_serializable("stackd")
class Mix(layers.Layer):
    """The head's channels as the picture: softmax weights over the linear estimates, then a bounded correction."""

    LARGEST_CORRECTION = 2.0  # on the asinh scale

    def call(self, inputs):
        bank, head = inputs
        bank = ops.cast(bank, "float32")
        start = ops.convert_to_tensor(FIRST_LOGITS, "float32")
        weights = ops.softmax(head[..., :MIXED] + start, axis=-1)
        mixed = ops.sum(weights * bank[..., :MIXED], axis=-1)
        bound = self.LARGEST_CORRECTION
        correction = bound * ops.tanh(head[..., MIXED] / bound)
        restored = 2 * ops.sinh(ops.arcsinh(mixed / 2) + correction)
        return restored, ops.clip(head[..., MIXED + 1], -5.0, 12.0)
