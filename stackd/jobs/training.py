"""A training run from pictures to a stored model: data -> fit -> judge -> store -> promote if it wins.

The held-out skies come from pictures that were never trained on and from another seed, and the current model is
judged on the very same ones. Interrupted runs go on from their last checkpoint. Loads TensorFlow when `train` is called
by way of the network rooms; draws nothing on the terminal itself.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from loguru import logger

from stackd.disk import checkpoint
from stackd.disk.cards import GOLDEN_EDITION
from stackd.disk.lock import lock_state
from stackd.disk.weights import Weights
from stackd.errors import ConfigError, ModelError
from stackd.jobs import honesty, promotion
from stackd.jobs.classic import train_classic
from stackd.jobs.judging import HELD_OUT, Judge, held_out_batches
from stackd.jobs.pictures import Pictures, usable_pictures
from stackd.jobs.sets import learnt_and_held_out, recorded_sets
from stackd.jobs.training_log import TrainingLog, before_and_after
from stackd.jobs.training_loop import Loop, Material
from stackd.jobs.training_request import Outcome, Progress, TrainingRequest
from stackd.jobs.training_run import Run
from stackd.network import architecture, feed, fit
from stackd.network.halves import HalfSample
from stackd.network.weights import set_weights

HELD_OUT_SHARE = 0.1  # of the pictures
WATCHED_SKIES = 6  # of the held-out ones, while training goes on
GENTLE_RATE = 2e-4  # learning rate for a network that has learnt before


@dataclass(frozen=True, slots=True)
class Data:
    """What a run learns from and what it is judged on."""

    pictures: Pictures
    held_out: Pictures
    captures: list[HalfSample]
    own: list[HalfSample]  # held-out captures


def train(request: TrainingRequest, report: Callable[[Progress], None] = lambda progress: None) -> Outcome:
    """Run a whole training of a preset and store its model.

    Raises ConfigError for an unknown preset or a folder without usable pictures, ModelError where training went wrong;
    the current model then stays.
    """
    if request.preset == "classic":
        return train_classic(request)
    if request.preset not in architecture.PRESETS:
        raise ConfigError(f"no preset {request.preset!r}; there are: {', '.join(architecture.PRESETS)}, classic")
    strategy = fit.choose_strategy()
    chief = fit.is_chief(strategy)
    request.run_folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        if fit.workers() == 1:  # several machines share a folder on a network disk, where a lock means nothing
            held.callback(lock_state(request.run_folder).release)
        return _run(request, report, strategy, chief)


def _run(
    request: TrainingRequest, report: Callable[[Progress], None], strategy: tf.distribute.Strategy, chief: bool
) -> Outcome:
    network = architecture.build(architecture.PRESETS[request.preset])
    trainer, run, data = _started(request, strategy)
    request = run.request
    if request.steps is None and fit.workers() > 1:
        raise ConfigError("several machines have no clock in common: give the length of the run with --steps")
    watch = _watch(network, held_out_batches(request.seed, data.held_out, range(WATCHED_SKIES)))
    log = TrainingLog(request.store, request.preset, run.name, request.keep, writes=chief)
    try:
        loop = Loop(trainer, watch, run, Material(data.pictures, data.captures), log, report, chief=chief)
        _learn(loop, request, chief)
        if not run.finished or not chief:
            return Outcome(None, False, {}, None, interrupted=not run.finished)
        set_weights(network, trainer.averaged_weights())
        judge = Judge(request.seed, data.held_out, data.own)
        figure = log.picture(trainer.step, before_and_after(network, judge.batches))
    finally:
        log.close()
    card = _card(request, run, trainer, data)
    weights = trainer.averaged_weights()
    card |= {
        "sigma_curve": honesty.measured_curve(card, weights), "log": str(log.folder.relative_to(request.store)),
    }  # fmt: skip
    return _stored(request, card, weights, judge, figure)


def _started(request: TrainingRequest, strategy: tf.distribute.Strategy) -> tuple[fit.Trainer, Run, Data]:
    """The interrupted run, if it is asked for and can be gone on with, else a new one; with what it learns from."""
    with strategy.scope():
        interrupted = _resumed(request) if request.resume else None
    if interrupted:
        try:
            return *interrupted, _data_of(interrupted[1].request)
        except ConfigError as error:
            logger.warning("{}: what it learnt from is gone: {}; starts anew", _checkpoint(request), error)
    elif _checkpoint(request).exists() and not request.resume:
        logger.warning("{}: an interrupted run is given up; --resume would have gone on with it", _checkpoint(request))
    with strategy.scope():
        trainer, run = _begun(request)
    return trainer, run, _data_of(run.request)


def _learn(loop: Loop, request: TrainingRequest, chief: bool) -> None:
    """In fast arithmetic; a run that goes wrong would do so again from its checkpoint, which is put aside."""
    fit.use_fast_arithmetic()
    try:
        loop.go()
    except ModelError:
        if chief:
            checkpoint.put_aside(request.run_folder)
        raise
    finally:
        fit.use_full_precision()


def _watch(network: keras.Model, batches: list[fit.Batch]) -> Callable[[Weights], float]:
    """PSNR (dB) of any weights on some held-out skies."""

    def psnr_of(weights: Weights) -> float:
        set_weights(network, weights)
        return fit.evaluate(network, batches)["psnr"]

    return psnr_of


def _data_of(request: TrainingRequest) -> Data:
    """Raises ConfigError where there is not enough of what is asked for."""
    pictures, held_out = (usable_pictures(request.pictures) if request.pictures else Pictures([])).split(HELD_OUT_SHARE)
    if request.pictures:
        logger.info("{} pictures to learn from, {} held out", len(pictures), len(held_out))
    captures, own = learnt_and_held_out(request.sets, request.seed) if request.sets else ([], [])
    return Data(pictures, held_out, captures, own)


def _begun(request: TrainingRequest) -> tuple[fit.Trainer, Run]:
    """A network to train, new or with the current model's weights."""
    if request.sets:  # a run that goes on learns from the same ones, whatever came in meanwhile
        names = tuple(one.name for one in recorded_sets(request.sets))
        request = replace(request, sets=replace(request.sets, names=names))
    recipe = fit.RECIPES.get(request.preset, fit.Recipe())
    if request.steps is not None:
        recipe = replace(recipe, steps=request.steps)
    gentle = _at_rate(recipe, request.learning_rate or GENTLE_RATE)
    for version, _, weights in promotion.models_in_use(request.store, request.preset) if request.from_current else ():
        trainer = _trainer(request, gentle)
        try:
            trainer.start_from(weights)
            return trainer, Run.begun(request, gentle, f"{version.name}@{version.version}")
        except ModelError as error:
            logger.warning("{}@{}: cannot be started from: {}", version.name, version.version, error)
    recipe = _at_rate(recipe, request.learning_rate or recipe.learning_rate)
    return _trainer(request, recipe), Run.begun(request, recipe, "")


def _at_rate(recipe: fit.Recipe, learning_rate: float) -> fit.Recipe:
    """The recipe with this first learning rate; the last one is never higher."""
    last = min(learning_rate, recipe.last_learning_rate)
    return replace(recipe, learning_rate=learning_rate, last_learning_rate=last)


def _resumed(request: TrainingRequest) -> tuple[fit.Trainer, Run] | None:
    """The interrupted run as it stood; None where it cannot be gone on with, which a timer has to get over by itself.

    Raises ConfigError where there is none.
    """
    try:
        state = checkpoint.load(request.run_folder)
        run = Run.of(state, request)
        trainer = _trainer(run.request, run.recipe)
        trainer.resume(state)
    except ModelError as error:
        logger.warning("{}: cannot be gone on with: {}; starts anew", _checkpoint(request), error)
        return None
    logger.info("goes on with {} at step {}, for {} in all, as it was begun", run.name, trainer.step, run.length)
    return trainer, run


def _checkpoint(request: TrainingRequest) -> Path:
    return request.run_folder / checkpoint.NAME


def _trainer(request: TrainingRequest, recipe: fit.Recipe) -> fit.Trainer:
    keras.utils.set_random_seed(request.seed)
    fit.use_fast_arithmetic()
    trainer = fit.Trainer(architecture.build(architecture.PRESETS[request.preset]), recipe)
    fit.use_full_precision()
    return trainer


def _card(request: TrainingRequest, run: Run, trainer: fit.Trainer, data: Data) -> dict[str, Any]:
    """Everything about the run but what came of it."""
    return {
        "architecture": architecture.PRESETS[request.preset], "preset": request.preset,
        "target_fwhm_px": feed.TARGET_FWHM_PX, "trained_range": feed.TRAINED_RANGE,
        "recipe": asdict(replace(run.recipe, steps=trainer.step)), "seed": request.seed,
        "started_from": run.started_from or None, "command": _command(request, trainer.step),
        "pictures": len(data.pictures), "pictures_held_out": len(data.held_out),
        "minutes": round(run.spent_s / 60, 1), "waited_share": round(run.waited, 4), "curve": run.curve,
    }  # fmt: skip


def _stored(request: TrainingRequest, card: dict[str, Any], weights, judge: Judge, figure: Path) -> Outcome:
    """Judged beside the current model, stored, and current if it won."""
    mine = judge.figures(card, weights)
    against, theirs = promotion.figures_of_current(request.store, request.preset, judge.figures)
    comparison = promotion.compare(mine, theirs, against, judge.rules)
    scores = mine[HELD_OUT]
    card |= {"scores": scores, "figures": mine, "golden_edition": GOLDEN_EDITION}
    version = promotion.publish(request.store, request.preset, weights, card, comparison, request.keep, request.spared)
    checkpoint.remove(request.run_folder)
    return Outcome(version, comparison.promoted, scores, comparison, figure)


def _command(request: TrainingRequest, steps: int) -> str:
    pictures = " --pictures DIR" if request.pictures else ""
    sets = " --from-sets" if request.sets else " --from-current" if request.from_current else ""
    rate = f" --learning-rate {request.learning_rate:g}" if request.learning_rate is not None else ""
    return f"stackd-train --preset {request.preset}{pictures}{sets}{rate} --steps {steps} --seed {request.seed}"
