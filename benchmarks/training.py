"""How fast a training runs here, whether it has to wait for its skies, and how much memory it holds.

    python -m benchmarks.training [--preset NAME] [--steps N] [--pictures DIR]

A few steps of a real run, after the first skies are there; then the window filled up with sham skies of the same size,
for the memory of a long run. Prints CSV. Neither trains a model nor touches a store.
"""

import argparse
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from stackd import logs
from stackd.imaging.fuse import CONDITIONS
from stackd.jobs import training_loop
from stackd.jobs.pictures import Pictures, usable_pictures
from stackd.network import architecture, fit
from stackd.network.channels import CHANNELS
from stackd.network.feed import SKY_PX, Sample
from stackd.network.pool import Pool

SHAM_BANDS = 5 / 3  # of a sky, a little more than the real ones have on average
WARM = 24  # skies before the first step that is timed
FIRST_STEPS = 3  # compile, and are not timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--pictures", type=Path)
    chosen = parser.parse_args()
    logs.configure("WARNING")
    pictures = usable_pictures(chosen.pictures) if chosen.pictures else Pictures([])
    keras.utils.set_random_seed(0)
    fit.use_fast_arithmetic()
    trainer = fit.Trainer(
        architecture.build(architecture.PRESETS[chosen.preset]), fit.RECIPES.get(chosen.preset, fit.Recipe())
    )
    speed = steps_per_second(trainer, pictures, chosen.steps)
    held_gb = memory_gb(trainer)
    print("preset,batch,crop_px,steps_per_s,waited_share,skies_per_s_needed,peak_gb,simulator_gb")
    recipe = trainer.recipe
    needed = speed[0] * training_loop.SKIES_PER_STEP
    print(f"{chosen.preset},{trainer.batch},{recipe.crop_px},{speed[0]:.2f},{speed[1]:.3f},{needed:.2f},", end="")
    print(f"{held_gb[0]:.2f},{held_gb[1]:.2f}")


def steps_per_second(trainer: fit.Trainer, pictures: Pictures, steps: int) -> tuple[float, float]:
    """(steps a second, share of the time spent waiting for skies) of a real run."""
    pool = _pool(pictures, WARM, None)
    try:
        for step in range(FIRST_STEPS):
            trainer.train_on(pool.batch(step, trainer.recipe.crop_px, trainer.batch), 0.0)
        waited_s, started_s = pool.waited_s, time.monotonic()
        for step in range(FIRST_STEPS, FIRST_STEPS + steps):
            trainer.train_on(pool.batch(step, trainer.recipe.crop_px, trainer.batch), 0.0)
        spent_s = time.monotonic() - started_s
        return steps / spent_s, (pool.waited_s - waited_s) / spent_s
    finally:
        pool.close()


def memory_gb(trainer: fit.Trainer) -> tuple[float, float]:
    """Peak resident memory of the trainer with a full window, and of the largest simulator."""
    pool = _pool((), training_loop.WINDOW_SKIES, sham_sky)
    try:
        for step in range(FIRST_STEPS):
            trainer.train_on(pool.batch(step, trainer.recipe.crop_px, trainer.batch), 0.0)
    finally:
        pool.close()
    who = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return tuple(resource.getrusage(one).ru_maxrss / 1e6 for one in who)


def sham_sky(seed: int, number: int, pictures: Sequence[np.ndarray]) -> list[Sample]:
    """As large as a real one, and made in no time."""
    bands = int(SHAM_BANDS * (number + 1)) - int(SHAM_BANDS * number)
    plane = np.random.default_rng([seed, number]).normal(0, 3, (SKY_PX, SKY_PX)).astype(np.float32)
    bank = np.repeat(plane[..., None], CHANNELS, 2)
    return [Sample(bank, np.zeros(CONDITIONS, np.float32), plane.copy()) for _ in range(bands)]


def _pool(pictures, warm: int, simulate) -> Pool:
    return Pool(
        0, pictures, window=training_loop.WINDOW_SKIES, warm=warm, skies_per_step=training_loop.SKIES_PER_STEP,
        processes=training_loop.processes(), simulate=simulate,
    )  # fmt: skip


if __name__ == "__main__":
    main()
