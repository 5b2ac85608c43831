"""The experiment of 2019 once more: one frame, the mean of eight and the network `classic`, on held-out pictures.

    python benchmarks/classic.py PICTURES [--seed N] [--publish]

Splits a folder of clean pictures by picture (100 to train on, the rest held out), trains as in 2019 and prints
the PSNR of each way on the same corrupted frames, as CSV. `--publish` rewrites the shipped model from this run.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stackd.disk import gallery, models
from stackd.network import classic, corruption
from stackd.network.restorer import weights_of

Image = NDArray[np.float32]
TRAINED_ON = 100


def split(paths: Sequence[Path], seed: int) -> tuple[Image, Image]:
    """(to train on, held out), each (n, 120, 160) luminance in 0..1."""
    reduced = np.stack([corruption.reduce_picture(gallery.read_picture(path)) for path in paths])
    order = np.random.default_rng([seed, 0]).permutation(len(reduced))
    return reduced[order[:TRAINED_ON]], reduced[order[TRAINED_ON:]]


def psnr_db(picture: Image, truth: Image) -> float:
    """Peak signal (1.0) to noise of a picture in 0..1, as it would be shown: clipped."""
    return float(-10 * np.log10(np.mean((np.clip(picture, 0, 1) - truth) ** 2)))


def compare(held_out: Image, seed: int, ways: dict[str, Callable[[Image], Image]]) -> dict[str, list[float]]:
    """PSNR (dB) of each way, eight frames (H, W, 8) -> picture (H, W), on every held-out picture.

    All ways see the same frames.
    """
    rng = np.random.default_rng([seed, 1])
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for truth in held_out:
        frames = corruption.corrupt(truth, rng)
        for name, way in ways.items():
            figures[name].append(psnr_db(way(frames), truth))
    return figures


def publish(network, card: dict) -> Path:
    """Make this network the shipped `classic`."""
    shipped = models.SHIPPED / "classic"
    with tempfile.TemporaryDirectory() as folder:
        version = models.publish(Path(folder), "classic", weights_of(network), card)
        shutil.rmtree(shipped, ignore_errors=True)
        shutil.copytree(version.path, shipped)
    return shipped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--publish", action="store_true")
    chosen = parser.parse_args()

    usable = gallery.survey(gallery.find_pictures(chosen.pictures))
    train, held_out = split(usable.paths, chosen.seed)
    started_s = time.monotonic()
    network, losses = classic.fit_classic(train, seed=chosen.seed)
    seconds = time.monotonic() - started_s
    figures = compare(
        held_out,
        chosen.seed,
        {
            "one frame": lambda frames: frames[..., 0],
            "mean of 8": lambda frames: frames.mean(-1),
            "classic": lambda frames: classic.apply_classic(network, frames),
        },
    )
    print("way,psnr_db,lowest_db,highest_db")
    for name, values in figures.items():
        print(f"{name},{np.mean(values):.2f},{min(values):.2f},{max(values):.2f}")
    print(f"# {len(train)} pictures trained on in {seconds:.0f} s, {len(held_out)} held out")
    for picture in usable.left_out:
        print(f"# left out: {picture.path}: {picture.reason}")
    if chosen.publish:
        card = {
            "architecture": {"kind": "classic"},
            "preset": "classic",
            "seed": chosen.seed,
            "epochs": classic.EPOCHS,
            "batch": classic.BATCH,
            "optimizer": f"Nadam, {classic.LEARNING_RATE}",
            "loss": "mean squared error",
            "pictures": len(train),
            "pictures_held_out": len(held_out),
            "curve": [round(loss, 6) for loss in losses],
            "scores": {f"psnr_db {name}": round(float(np.mean(values)), 2) for name, values in figures.items()},
            "command": f"python benchmarks/classic.py PICTURES --seed {chosen.seed} --publish",
        }
        print(f"# shipped as {publish(network, card)}")


if __name__ == "__main__":
    main()
