"""What a training run leaves for people to look at: TensorBoard's event files, and a picture of before and after.

One folder a run, `models/<name>/.training/<run>/`, the last few of which are kept.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from stackd.disk.embed import encode
from stackd.imaging.panels import side_by_side
from stackd.imaging.preview import find_stretch
from stackd.network.fit import Batch

FOLDER = ".training"
FIGURE = "before-after.png"
SHOWN_SKIES = 3


class TrainingLog:
    """Scalars and pictures of one run, of which `keep` are kept; without `writes` (one of several workers) nothing.
    `tensorboard --logdir models/default/.training` shows all runs kept."""

    def __init__(self, store: Path, name: str, run: str, keep: int, *, writes: bool = True) -> None:
        self.folder = store / name / FOLDER / run
        older = sorted(folder for folder in self.folder.parent.glob("*") if folder.name < run) if writes else []
        for folder in older[: max(0, len(older) - keep + 1)]:
            shutil.rmtree(folder)
        self._writer = tf.summary.create_file_writer(str(self.folder)) if writes else tf.summary.create_noop_writer()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """A value of each name at a step."""
        summary = tf.compat.v1.Summary(
            value=[tf.compat.v1.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        self._write(step, summary)

    def picture(self, step: int, picture: np.ndarray) -> Path:
        """An 8-bit picture (H, W, 3), to TensorBoard and as a file of its own; returns the file."""
        content = encode(".png", picture)
        image = tf.compat.v1.Summary.Image(
            height=picture.shape[0], width=picture.shape[1], colorspace=3, encoded_image_string=content
        )
        self._write(step, tf.compat.v1.Summary(value=[tf.compat.v1.Summary.Value(tag="before and after", image=image)]))
        (self.folder / FIGURE).write_bytes(content)
        return self.folder / FIGURE

    def close(self) -> None:
        """Everything onto the disk."""
        self._writer.close()

    def _write(self, step: int, summary: tf.compat.v1.Summary) -> None:
        # the plain event format: tf.summary.scalar would need the tensorboard package, which only viewers need
        with self._writer.as_default():
            tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)


def before_and_after(network: keras.Model, batches: Sequence[Batch]) -> np.ndarray:
    """The first held-out skies as plain stack, as restored and as they are, side by side: 8 bit, (H, W, 3)."""
    rows = []
    for bank, conditions, truth in batches[:SHOWN_SKIES]:
        restored, _ = network([bank, conditions])
        planes = {"plain stack": bank[0, ..., 0], "restored": np.asarray(restored)[0], "truth": truth[0]}
        rows.append(side_by_side(planes, find_stretch(planes["plain stack"])))
    return np.vstack(rows)
