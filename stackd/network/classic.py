"""The network of 2019, layer for layer: eight frames in, one picture out, 6,809 parameters.

Twelve layers on whole pictures in 0..1; Dense layers mix the frames of one pixel, the two transposed
convolutions look at four pixels each. Knows no paths and makes no pictures: training takes them as an array.
"""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from stackd.errors import SetError
from stackd.network.corruption import FRAMES, HEIGHT_PX, WIDTH_PX, corrupt
from stackd.network.weights import set_weights

Image = NDArray[np.float32]

EPOCHS = 50
BATCH = 10
LEARNING_RATE = 0.002  # Keras's own for Nadam in 2019
REACH_PX = 2  # of the two convolutions
STRIP_ROWS = 128

# (layer, features): the article's table. Parameters: a Dense of n features on m has (m + 1) n, a 2 x 2
# convolution (4 m + 1) n.
LAYERS = (
    ("dense_1", 8),
    ("dense_2", 16),
    ("dense_3", 16),
    ("dense_4", 16),
    ("conv2d_transpose_1", 32),
    ("dense_5", 16),
    ("conv2d_transpose_2", 32),
    ("dense_6", 16),
    ("dense_7", 16),
    ("dense_8", 16),
    ("dense_9", 16),
    ("dense_10", 1),
)


def build_classic(height_px: int | None = HEIGHT_PX, width_px: int | None = WIDTH_PX, *, seed: int = 0) -> keras.Model:
    """The untrained network: (n, height_px, width_px, 8) in 0..1 -> (n, height_px, width_px, 1).

    None as a size takes any. The same seed gives the same weights.
    """
    frames = keras.Input((height_px, width_px, FRAMES), name="input_1")
    x = frames
    for number, (name, features) in enumerate(LAYERS):
        x = _layer(name, features, keras.initializers.GlorotUniform(1000 * seed + number))(x)
    return keras.Model(frames, x, name="classic")


def _layer(name: str, features: int, initializer: keras.Initializer) -> keras.Layer:
    """Rectified everywhere but at the end: a picture that goes to black teaches a rectified output nothing."""
    activation = "linear" if name == LAYERS[-1][0] else "relu"
    if name.startswith("dense"):
        return keras.layers.Dense(features, activation, kernel_initializer=initializer, name=name)
    return keras.layers.Conv2DTranspose(
        features, (2, 2), padding="same", activation=activation, kernel_initializer=initializer, name=name
    )


def fit_classic(
    pictures: Image, *, epochs: int = EPOCHS, batch: int = BATCH, seed: int = 0
) -> tuple[keras.Model, list[float]]:
    """Train on clean pictures (n, 120, 160) in 0..1, as in 2019: mean squared error, Nadam, frames made once.

    Returns the network and the mean loss of each epoch. The same pictures and seed give the same weights.
    """
    rng = np.random.default_rng(seed)
    frames = np.stack([corrupt(picture, rng) for picture in pictures])
    network = build_classic(*pictures.shape[1:], seed=seed)
    network.compile(optimizer=keras.optimizers.Nadam(LEARNING_RATE), loss="mse")
    losses = []
    for _ in range(epochs):
        order = rng.permutation(len(pictures))
        parts = [order[start : start + batch] for start in range(0, len(order), batch)]
        batch_losses = [network.train_on_batch(frames[part], pictures[part][..., None]) for part in parts]
        losses.append(float(np.average(batch_losses, weights=[len(part) for part in parts])))
    return network, losses


def classic_of(weights: dict[str, NDArray[np.float32]]) -> keras.Model:
    """The trained network for pictures of any size. Raises ModelError for weights of another one."""
    network = build_classic(None, None)
    set_weights(network, weights)
    return network


def apply_classic(network: keras.Model, frames: Image) -> Image:
    """One picture (H, W) from eight frames (H, W, 8) in 0..1 that lie on each other; not clipped."""
    return np.asarray(network(frames[None], training=False))[0, ..., 0]


class ClassicRestorer:
    """The network of 2019 on captures: exactly eight aligned frames, brought to 0..1 and back. An exhibit."""

    BRIGHTEST = 0.9995  # quantile that becomes 1; its network never saw light beyond
    knows_stars = False

    def __init__(self, card: dict[str, Any], weights: dict[str, NDArray[np.float32]]) -> None:
        """Raises ModelError where weights and architecture do not belong together."""
        self.card = card
        self._network = classic_of(weights)

    def refuse_other_than_eight(self, frames: int) -> None:
        """Raises SetError; may be asked before any work."""
        if frames != FRAMES:
            remedy = "choose the default model, which takes any number"
            raise SetError(f"the model classic takes exactly {FRAMES} frames, not {frames}", remedy=remedy)

    def restore_frames(self, frames: Image) -> Image:
        """One band (H, W) from (8, H, W) frames, in their unit. Raises SetError for any other number of frames."""
        self.refuse_other_than_eight(len(frames))
        filled = np.where(np.isfinite(frames), frames, np.nan_to_num(np.nanmean(frames, axis=0)))
        black, white = np.quantile(filled, (0.01, self.BRIGHTEST))
        span = max(float(white - black), 1e-6)
        seen = np.clip((filled - black) / span, 0, 1).transpose(1, 2, 0).astype(np.float32)
        return self._in_strips(seen) * np.float32(span) + np.float32(black)

    def _in_strips(self, seen: Image) -> Image:
        """As of the whole picture, whose 32 features a pixel a small machine could not hold."""
        clean = np.empty(seen.shape[:2], np.float32)
        for top in range(0, len(seen), STRIP_ROWS):
            first = max(0, top - REACH_PX)
            strip = apply_classic(self._network, seen[first : top + STRIP_ROWS + REACH_PX])
            clean[top : top + STRIP_ROWS] = strip[top - first :][:STRIP_ROWS]
        return clean
