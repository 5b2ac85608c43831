"""The experiment of 2019 again: `classic` and today's network, on the same pictures and the same corruption.

    python -m benchmarks.experiment --pictures DIR [--minutes M | --steps N] [--seed N] [--out DIR]

Trains both from nothing on the same hundred pictures, corrupted as in 2019 (stackd/network/corruption.py), and judges
one frame, the mean of eight, classic and stackd on the held-out ones: PSNR and SSIM, and a figure of a wide Milky Way
field and the Dumbbell nebula, as the article had. `stackd` is the default preset's architecture, which learns to undo
this corruption instead of a telescope's; every sample that it sees is corrupted afresh.
"""

import argparse
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from stackd import logs
from stackd.disk.embed import encode
from stackd.disk.gallery import read_picture
from stackd.imaging.fuse import Bank, fuse
from stackd.imaging.panels import side_by_side
from stackd.imaging.preview import Stretch
from stackd.imaging.psf import Psf
from stackd.imaging.stack import combine
from stackd.jobs.classic import TRAINED_ON, psnr_db
from stackd.jobs.pictures import usable_pictures
from stackd.network import architecture, classic, corruption, fit
from stackd.network.channels import network_input
from stackd.network.feed import Sample
from stackd.network.orientation import held
from stackd.network.pool import Pool
from stackd.network.weights import set_weights

Image = NDArray[np.float32]
Way = Callable[[Image], Image]
SHOWN = {"wide Milky Way field": r"milky|sagittarius", "Dumbbell nebula": r"dumbbell|m[ _-]?27(?!\d)"}
USUAL_PSF = Psf(1.9, 8.0)  # of the random blurs the middle one
TARGET_FWHM_PX = 1.0  # of the Wiener maps; the network does the rest
UNIT = corruption.NOISE / np.sqrt(corruption.FRAMES)  # noise of the mean of the frames
LARGEST_SIDE_PX = 800  # of a picture to cut fields from
FIELD_SHARES = (0.6, 1.0)  # of a picture's sides that a field takes; the judged ones take all
WINDOW, WARM, SAMPLES_PER_STEP = 1200, 200, 0.5
BATCH = 4  # whole fields: the blur darkens their edges, which only who sees edges can undo
ORIENTATIONS = [(quarters, mirrored) for quarters in range(4) for mirrored in (False, True)]  # of a picture
TOLD_STEPS = 200
ZOOM = 4  # of the figure's panels
AS_IT_IS = Stretch((0.0,), (1.0,), 1.0, 1e3)  # 0 black, 1 white, linear between


def main() -> None:
    chosen = _arguments()
    logs.configure("WARNING")
    training, held_out = split(chosen.pictures, chosen.seed)
    print(f"{len(training)} pictures to train on, {len(held_out)} held out, seed {chosen.seed}", flush=True)
    started_s = time.monotonic()
    old, _ = classic.fit_classic(np.stack([_reduced(path) for path in training]), seed=chosen.seed)
    print(f"classic: {classic.EPOCHS} epochs in {(time.monotonic() - started_s) / 60:.1f} min", flush=True)
    new = fit_today(training, chosen)
    ways: dict[str, Way] = {
        "one frame": lambda frames: frames[..., 0],
        "mean of 8": lambda frames: frames.mean(-1),
        "classic": lambda frames: classic.apply_classic(old, frames),
        "stackd": lambda frames: apply_today(new, frames),
    }
    rows, shown = judge(held_out, ways, chosen.seed)
    _print_table(rows)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "experiment.png").write_bytes(encode(".png", _figure(shown)))
    print(f"figure: {chosen.out / 'experiment.png'}")


def fit_today(training: Sequence[Path], chosen: argparse.Namespace) -> keras.Model:
    """The default preset's network, trained on fresh corruptions of fields of the pictures, for PSNR itself."""
    keras.utils.set_random_seed(chosen.seed)
    fit.use_fast_arithmetic()
    config = architecture.PRESETS[chosen.preset]
    trainer = fit.Trainer(architecture.build(config), fit.Recipe(batch=BATCH), log_mean_square)
    small = [_shrunk(read_picture(path)) for path in training]
    pool = Pool(
        chosen.seed, small, window=WINDOW, warm=WARM, skies_per_step=SAMPLES_PER_STEP, processes=1,
        simulate=corrupted_field,
    )  # fmt: skip
    losses: list[float] = []
    try:
        pool.batch(0, None, trainer.batch)
        started_s = time.monotonic()
        while (share := _share(trainer.step, time.monotonic() - started_s, chosen)) < 1:
            bank, told, truth = pool.batch(trainer.step, None, trainer.batch)
            if trainer.step % 2:  # upright: the corruption knows no direction
                bank, truth = bank.swapaxes(1, 2), truth.swapaxes(1, 2)
            losses.append(trainer.train_on((bank, told, truth), share))
            if trainer.step % TOLD_STEPS == 0:
                decibels = -10 / np.log(10) * np.mean(losses[-TOLD_STEPS:])
                print(f"stackd: step {trainer.step}, {decibels:.2f} dB on what it learns from, {share:.0%}", flush=True)
    finally:
        pool.close()
    print(f"stackd: {trainer.step} steps in {(time.monotonic() - started_s) / 60:.1f} min", flush=True)
    fit.use_full_precision()
    network = architecture.build(config)
    set_weights(network, trainer.averaged_weights())
    return network


def log_mean_square(truth, restored, log_sigma):
    """Each sample's log mean square error in 0..1, which is its PSNR; the claimed error is not asked for."""
    mean_square = tf.reduce_mean(((restored - truth) * UNIT) ** 2, axis=(1, 2))
    return tf.reduce_mean(tf.math.log(mean_square + 1e-7)) + 0.0 * tf.reduce_mean(log_sigma)


def corrupted_field(seed: int, number: int, pictures: Sequence[Image]) -> list[Sample]:
    """A field of one of the luminance pictures (H, W), at a random scale, through the corruption of 2019."""
    rng = np.random.default_rng([seed, number])
    picture = pictures[rng.integers(len(pictures))].astype(np.float32)
    scale = rng.uniform(*FIELD_SHARES)
    size = int(picture.shape[0] * scale), int(picture.shape[1] * scale)
    top, left = (int(rng.integers(0, whole - part + 1)) for whole, part in zip(picture.shape, size))
    field = corruption.reduce_picture(np.repeat(picture[top : top + size[0], left : left + size[1], None], 3, 2))
    bank = bank_of(corruption.corrupt(field, rng))
    truth = (field - np.float32(bank.floor_adu)) / np.float32(bank.unit_adu)
    return [Sample(network_input([bank])[0], bank.conditions, truth)]


def bank_of(frames: Image) -> Bank:
    """Eight frames (H, W, 8) that lie on each other as the network sees them: nothing rejected, the blur guessed."""
    frames = np.ascontiguousarray(frames.transpose(2, 0, 1))
    noise = np.full(len(frames), corruption.NOISE)
    stack = combine(frames, noise, np.zeros(frames.shape, bool))
    return fuse(frames, noise, stack, (USUAL_PSF,) * len(frames), TARGET_FWHM_PX)


def apply_today(network: keras.Model, frames: Image) -> Image:
    """One picture (H, W) in 0..1 from eight frames (H, W, 8): the mean of what the network says of it turned and
    mirrored in all ways, as stackd shows it a picture in several orientations."""
    bank = bank_of(frames)
    maps, restored = network_input([bank])[0], np.zeros(frames.shape[:2], np.float32)
    for quarters, mirrored in ORIENTATIONS:
        seen, _ = network([held(maps, quarters, mirrored)[None], bank.conditions[None]])
        held(restored, quarters, mirrored)[...] += np.asarray(seen)[0] / len(ORIENTATIONS)
    return np.clip(restored * np.float32(bank.unit_adu) + np.float32(bank.floor_adu), 0, 1)


def judge(
    held_out: Sequence[Path], ways: dict[str, Way], seed: int
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, dict[str, Image]]]:
    """(PSNR, SSIM) of each way on every held-out picture, the same frames for all; and the pictures to show."""
    rng = np.random.default_rng([seed, 1])
    rows: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    shown = {}
    for path in held_out:
        truth = _reduced(path)
        frames = corruption.corrupt(truth, rng)
        made = {way: np.clip(make(frames), 0, 1) for way, make in ways.items()}
        for way, image in made.items():
            rows[way].append((psnr_db(image, truth), structural_similarity(image, truth, data_range=1.0)))
        title = next((title for title, pattern in SHOWN.items() if _is(path, pattern) and title not in shown), None)
        if title:
            shown[title] = made | {"truth": truth}
            figures = ", ".join(f"{way} {psnr_db(image, truth):.1f} dB" for way, image in made.items())
            print(f"{title} ({path.name}): {figures}")
    return rows, shown


def split(folder: Path, seed: int) -> tuple[list[Path], list[Path]]:
    """(to train on, held out); what is shown is held out."""
    paths = usable_pictures(folder, least=4).paths
    order = [paths[k] for k in np.random.default_rng([seed, 0]).permutation(len(paths))]
    order.sort(key=lambda path: any(_is(path, pattern) for pattern in SHOWN.values()))
    count = min(TRAINED_ON, len(order) // 2)
    return order[:count], order[count:]


def _is(path: Path, pattern: str) -> bool:
    return re.search(pattern, path.name, re.IGNORECASE) is not None


def _reduced(path: Path) -> Image:
    return corruption.reduce_picture(read_picture(path))


def _shrunk(picture: Image) -> NDArray[np.float16]:
    """Luminance, at most LARGEST_SIDE_PX wide or high."""
    part = min(1.0, LARGEST_SIDE_PX / max(picture.shape[:2]))
    light = cv2.resize(picture @ corruption.LUMINANCE, None, fx=part, fy=part, interpolation=cv2.INTER_AREA)
    return light.astype(np.float16)


def _share(step: int, spent_s: float, chosen: argparse.Namespace) -> float:
    return step / chosen.steps if chosen.steps else spent_s / (60 * chosen.minutes)


def _print_table(rows: dict[str, list[tuple[float, float]]]) -> None:
    print("| way | PSNR, dB | SSIM |\n| --- | --- | --- |")
    for way, values in rows.items():
        psnr, similarity = np.mean(values, axis=0)
        print(f"| {way} | {psnr:.2f} | {similarity:.3f} |")
    gain = np.mean(rows["stackd"], axis=0)[0] - np.mean(rows["classic"], axis=0)[0]
    print(f"stackd over classic: {gain:+.2f} dB on {len(rows['stackd'])} held-out pictures")


def _figure(shown: dict[str, dict[str, Image]]) -> NDArray[np.uint8]:
    """A row a picture, shown as it is."""
    if not shown:
        return np.zeros((8, 8, 3), np.uint8)
    rows = []
    for images in shown.values():
        large = {k: cv2.resize(v, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST) for k, v in images.items()}
        rows.append(side_by_side(large, AS_IT_IS))
    return np.vstack(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of clean pictures")
    parser.add_argument("--minutes", type=float, default=25.0, help="for stackd's network; classic takes its own time")
    parser.add_argument("--steps", type=int, help="instead of minutes")
    parser.add_argument("--preset", default="default", help="of today's network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("experiment"), help="folder for the figure")
    return parser.parse_args()


if __name__ == "__main__":
    main()
