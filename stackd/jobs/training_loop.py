"""The middle of a training run: steps until it is time to stop, with checkpoints, a log and a look at held-out skies.

Can be stopped after any step and taken up again to the same weights. Knows neither pictures nor what becomes of the
network.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from loguru import logger

from stackd.disk import checkpoint
from stackd.disk.weights import Weights
from stackd.errors import ModelError
from stackd.jobs.training_log import TrainingLog
from stackd.jobs.training_request import Progress
from stackd.jobs.training_run import Run
from stackd.network import fit
from stackd.network.halves import HalfSample, draw_batch, half_loss
from stackd.network.pool import Pool

CHECKPOINT_S = 300.0
REPORT_STEPS = 100
PATIENCE_S = 1.0  # to wait for skies without a look at anything else
WATCH_STEPS = 500  # between looks at the watched skies
WINDOW_SKIES, WARM_SKIES, SKIES_PER_STEP = 450, 120, 0.25
MOST_PROCESSES = 8  # that simulate
HALVES_EVERY = 4  # steps, one of which learns from captures
HALVES_STREAM = 1 << 33  # beside the run's seed, for the crops of captures


@dataclass(frozen=True, slots=True)
class Material:
    """What is learnt from."""

    pictures: Sequence[np.ndarray]
    captures: Sequence[HalfSample]


class Loop:
    """The steps of one run. `watch` gives averaged weights' PSNR (dB) on a few held-out skies; `chief` is False in all
    but one of several workers, which then keep no checkpoint and write no log."""

    def __init__(
        self,
        trainer: fit.Trainer,
        watch: Callable[[Weights], float],
        run: Run,
        material: Material,
        log: TrainingLog,
        report: Callable[[Progress], None],
        *,
        chief: bool,
    ) -> None:
        self._trainer, self._watch, self._run, self._request = trainer, watch, run, run.request
        self._material, self._log, self._report, self._chief = material, log, report, chief
        self._losses: list[float] = []

    def go(self) -> None:
        """Train to the end or to a signal: `run.finished` tells which, and a checkpoint lies there in either case.

        Raises ModelError where the loss is no longer a number.
        """
        trainer, run = self._trainer, self._run
        pool = Pool(
            self._request.seed, self._material.pictures, window=WINDOW_SKIES, warm=WARM_SKIES,
            skies_per_step=SKIES_PER_STEP, processes=processes(),
        )  # fmt: skip
        pool.skip_to(trainer.step)
        started_s = saved_s = steady_s = time.monotonic()
        earlier_s, waited_before_s, first_step = run.spent_s, run.waited_s, trainer.step
        try:
            with _stop_flag() as stopped:
                while self._share() < 1 and not stopped():
                    if not pool.fill(trainer.step, PATIENCE_S):
                        continue  # looks up now and then, to hear a signal
                    self._step(pool)
                    if trainer.step == first_step + 1:
                        waited_before_s -= pool.waited_s  # for the first window, before any step
                        steady_s = time.monotonic()
                    run.waited_s = waited_before_s + pool.waited_s
                    run.spent_s = earlier_s + time.monotonic() - started_s
                    if trainer.step % REPORT_STEPS == 0:
                        # the first step does not count: it waits for the window and compiles
                        self._tell((time.monotonic() - steady_s) / max(trainer.step - first_step - 1, 1))
                    if time.monotonic() - saved_s > CHECKPOINT_S:
                        self._save()
                        saved_s = time.monotonic()
                # also at the end: what comes next may fail, and must not cost the run
                self._save()
                run.finished = self._share() >= 1
                if not run.finished:
                    logger.info("training stopped at step {}; go on with --resume", trainer.step)
        finally:
            pool.close()
        logger.info("trained for {:.1f} min, {:.1%} of them spent waiting for skies", run.spent_s / 60, run.waited)

    def _step(self, pool: Pool) -> None:
        trainer, step, share = self._trainer, self._trainer.step, self._share()
        by_halves = bool(self._material.captures) and step % HALVES_EVERY == HALVES_EVERY - 1
        if by_halves:
            rng = np.random.default_rng([self._request.seed, HALVES_STREAM, step])
            loss = trainer.train_on(draw_batch(self._material.captures, trainer.batch, rng), share, half_loss)
        else:
            loss = trainer.train_on(pool.batch(step, self._run.recipe.crop_px, trainer.batch), share)
        if not math.isfinite(loss):
            raise _went_wrong(f"the loss of step {step} is {loss}")
        if not by_halves:  # another figure than the skies' loss
            self._losses.append(loss)

    def _tell(self, seconds_a_step: float) -> None:
        trainer, run = self._trainer, self._run
        if not self._losses:
            return  # gone on with just before this step, and that was one of captures
        if trainer.step % WATCH_STEPS == 0 or math.isnan(run.psnr):
            run.psnr = self._watch(trainer.averaged_weights())
        loss = float(np.mean(self._losses))
        self._losses.clear()
        run.curve.append([trainer.step, round(loss, 5), round(run.psnr, 3)])
        if not self._chief:
            return
        figures = {
            "loss": loss, "held-out PSNR": run.psnr, "learning rate": trainer.learning_rate(self._share()),
            "steps per second": 1 / max(seconds_a_step, 1e-9), "share of the time waiting for skies": run.waited,
        }  # fmt: skip
        self._log.scalars(trainer.step, figures)
        self._report(Progress(self._share(), trainer.step, loss, run.psnr, self._left_s(seconds_a_step)))

    def _share(self) -> float:
        request = self._request
        if request.steps is not None:
            return self._trainer.step / request.steps
        return self._run.spent_s / (60 * request.minutes)

    def _left_s(self, seconds_a_step: float) -> float:
        request = self._request
        if request.steps is not None:
            return max(0.0, (request.steps - self._trainer.step) * seconds_a_step)
        return max(0.0, 60 * request.minutes - self._run.spent_s)

    def _save(self) -> None:
        """Raises ModelError rather than keep weights that are no numbers: nothing could go on from them."""
        weights = self._trainer.state()
        if not all(np.isfinite(values).all() for values in weights.values()):
            raise _went_wrong(f"after step {self._trainer.step} not all weights are numbers")
        if self._chief:
            checkpoint.save(self._request.run_folder, weights | self._run.state())


def _went_wrong(what: str) -> ModelError:
    return ModelError(f"training went wrong: {what}; its checkpoint is put aside, and the current model stays")


def processes() -> int:
    """How many processes simulate: one core is the trainer's."""
    return min(MOST_PROCESSES, max(1, len(os.sched_getaffinity(0)) - 1))


@contextmanager
def _stop_flag() -> Iterator[Callable[[], bool]]:
    """While inside, SIGTERM and SIGINT only set a flag: the run ends after its step, with a checkpoint.

    One of several workers does not outlive a signal: the others could not go on without it.
    """
    seen: list[int] = []
    if fit.workers() > 1:
        yield lambda: False
        return
    before = {s: signal.signal(s, lambda number, frame: seen.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
