"""The experiment of 2019 as a training run: pictures -> corrupted frames -> network `classic` -> judged -> stored.

Splits a folder by picture, trains as the article did, and judges one frame, the mean of eight and the network
on the same corrupted frames of the held-out pictures.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackd.disk import gallery
from stackd.disk.weights import Weights
from stackd.errors import ConfigError
from stackd.jobs import promotion
from stackd.jobs.pictures import usable_pictures
from stackd.jobs.promotion import Figures, Rule
from stackd.jobs.training_request import Outcome, TrainingRequest
from stackd.network import classic, corruption
from stackd.network.weights import weights_of

Image = NDArray[np.float32]
HELD_OUT = "held-out pictures"
RULES = (Rule(HELD_OUT, "psnr classic", "dB", True, must_improve=True),)
TRAINED_ON = 100  # pictures, as in 2019; of fewer than twice that, half


def train_classic(request: TrainingRequest) -> Outcome:
    """Train `classic` for its 50 epochs, whatever number of minutes the request names, and store it.

    Raises ConfigError without pictures, and for options that would do nothing.
    """
    idle = {
        "--learning-rate": request.learning_rate, "--steps": request.steps, "--resume": request.resume,
        "--from-current": request.from_current,
    }  # fmt: skip
    if given := [option for option, value in idle.items() if value]:
        raise ConfigError(f"the preset classic is trained as in 2019: it takes no {', '.join(given)}")
    if request.pictures is None:
        raise ConfigError("the preset classic learns from pictures: name a folder of them with --pictures")
    training, held_out = split(usable_pictures(request.pictures, least=2).paths, request.seed)
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

    def judge(_: dict[str, Any], weights: Weights) -> Figures:
        return {HELD_OUT: _scores(held_out, request.seed, classic.classic_of(weights))}

    against, current = promotion.figures_of_current(request.store, "classic", judge)
    comparison = promotion.compare({HELD_OUT: scores}, current, against, RULES)
    version = promotion.publish(
        request.store, "classic", weights_of(network), card, comparison, request.keep, request.spared
    )
    return Outcome(version, comparison.promoted, scores, comparison)


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
