"""The experiment of 2019 as a training run: pictures -> corrupted frames -> network `classic` -> judged -> stored.

Splits a folder by picture, trains as the article did, and judges one frame, the mean of eight and the network
on the same corrupted frames of the held-out pictures.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from stackd.disk import gallery, models
from stackd.errors import ConfigError, ModelError
from stackd.jobs.training_request import Outcome, TrainingRequest
from stackd.network import classic, corruption
from stackd.network.weights import set_weights, weights_of

Image = NDArray[np.float32]
TRAINED_ON = 100  # pictures, as in 2019; of fewer than twice that, half


def train_classic(request: TrainingRequest) -> Outcome:
    """Train `classic` for its 50 epochs, whatever length the request names, and store it.

    Raises ConfigError without pictures.
    """
    if request.pictures is None:
        raise ConfigError("the preset classic learns from pictures: name a folder of them with --pictures")
    found = gallery.survey(gallery.find_pictures(request.pictures))
    for picture in found.left_out:
        logger.warning("{} is left out: {}", picture.path, picture.reason)
    if len(found.paths) < 2:
        raise ConfigError(f"{request.pictures}: {len(found.paths)} usable pictures; at least 2 are needed")
    training, held_out = split(found.paths, request.seed)
    network, losses = classic.fit_classic(training, seed=request.seed)
    scores = _scores(held_out, request.seed, network)
    card = {
        "architecture": {"kind": "classic"},
        "preset": "classic",
        "seed": request.seed,
        "epochs": classic.EPOCHS,
        "batch": classic.BATCH,
        "optimizer": f"Nadam, {classic.LEARNING_RATE}",
        "loss": "mean squared error",
        "pictures": len(training),
        "pictures_held_out": len(held_out),
        "curve": [round(loss, 6) for loss in losses],
        "scores": scores,
        "command": f"stackd-train --preset classic --pictures DIR --seed {request.seed}",
    }
    current = _current_scores(request.store, held_out, request.seed)
    version = models.publish(request.store, "classic", weights_of(network), card)
    promoted = current is None or scores["psnr classic"] > current["psnr classic"]
    if promoted:
        models.promote(request.store, f"classic@{version.version}")
    models.prune(request.store, "classic", request.keep)
    return Outcome(version, promoted, scores, current)


def split(paths: Sequence[Path], seed: int) -> tuple[Image, Image]:
    """(to train on, held out), each (n, 120, 160) luminance in 0..1."""
    reduced = np.stack([corruption.reduce_picture(gallery.read_picture(path)) for path in paths])
    order = np.random.default_rng([seed, 0]).permutation(len(reduced))
    count = min(TRAINED_ON, len(reduced) // 2)
    return reduced[order[:count]], reduced[order[count:]]


def compare(held_out: Image, seed: int, ways: dict[str, Callable[[Image], Image]]) -> dict[str, list[float]]:
    """PSNR (dB) of each way, frames (H, W, 8) -> picture (H, W), on every held-out picture and the same frames."""
    rng = np.random.default_rng([seed, 1])
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for truth in held_out:
        frames = corruption.corrupt(truth, rng)
        for name, way in ways.items():
            figures[name].append(psnr_db(way(frames), truth))
    return figures


def psnr_db(picture: Image, truth: Image) -> float:
    """Peak signal (1.0) to noise of a picture in 0..1, as it would be shown: clipped."""
    return float(-10 * np.log10(np.mean((np.clip(picture, 0, 1) - truth) ** 2)))


def _scores(held_out: Image, seed: int, network) -> dict[str, float]:
    ways = {
        "one frame": lambda frames: frames[..., 0],
        "mean of 8": lambda frames: frames.mean(-1),
        "classic": lambda frames: classic.apply_classic(network, frames),
    }
    return {f"psnr {name}": round(float(np.mean(v)), 3) for name, v in compare(held_out, seed, ways).items()}


def _current_scores(store: Path, held_out: Image, seed: int) -> dict[str, float] | None:
    """The current model on the same frames; None where there is none."""
    try:
        _, weights = models.load_weights(models.resolve(store, "classic"))
    except ModelError as error:
        logger.info("no current model to compare with: {}", error)
        return None
    network = classic.build_classic(None, None)
    set_weights(network, weights)
    return _scores(held_out, seed, network)
