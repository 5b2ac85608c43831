"""A training run from pictures to a stored model: data -> fit -> judge -> store -> promote if it wins.

The held-out skies come from pictures that were never trained on and from another seed, and the current model is
judged on the very same ones. Interrupted runs go on from their last checkpoint. Loads TensorFlow when `train` is called
by way of the network rooms; draws nothing on the terminal itself.
"""

import hashlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
from loguru import logger

from stackd.disk import checkpoint, models
from stackd.disk.gallery import find_pictures, read_picture, survey
from stackd.errors import ConfigError, ModelError
from stackd.jobs.classic import train_classic
from stackd.jobs.training_request import Outcome, Progress, TrainingRequest
from stackd.network import architecture, calibrate, feed, fit
from stackd.network.weights import set_weights, weights_of

HELD_OUT_SHARE = 0.1  # of the pictures
HELD_OUT_SKIES = 48
HELD_OUT_SEED = 7_000_000  # added to a run's seed: no sky of training is ever judged on
CHECKPOINT_S = 300.0
REPORT_STEPS = 100
WINDOW, WARM_SKIES, SKIES_PER_STEP = 1500, 120, 0.25


class Pictures:
    """Pictures on disk as a sequence of arrays (h, w, 3) in 0..1, decoded when asked for: memory stays flat."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_picture(self.paths[index])

    def split(self, held_out_share: float) -> tuple["Pictures", "Pictures"]:
        """(to train on, held out): by the name's hash, so a picture stays on its side when others come or go."""
        rank = {p: int(hashlib.sha256(p.name.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF for p in self.paths}
        return (
            Pictures([p for p in self.paths if rank[p] >= held_out_share]),
            Pictures([p for p in self.paths if rank[p] < held_out_share]),
        )


def train(request: TrainingRequest, report: Callable[[Progress], None] = lambda progress: None) -> Outcome:
    """Run a whole training of a preset and store its model.

    Raises ConfigError for an unknown preset or a folder without usable pictures.
    """
    if request.preset == "classic":
        return train_classic(request)
    if request.preset not in architecture.PRESETS:
        raise ConfigError(f"no preset {request.preset!r}; there are: {', '.join(architecture.PRESETS)}, classic")
    training, held_out = _galleries(request.pictures)
    keras.utils.set_random_seed(request.seed)
    fit.use_fast_arithmetic()
    config = architecture.PRESETS[request.preset]
    network = architecture.build(config)
    recipe = fit.Recipe() if request.steps is None else fit.Recipe(steps=request.steps)
    trainer = fit.Trainer(network, recipe)
    curve, finished, spent_s = _fit(trainer, request, training, report)
    if not finished:
        return Outcome(None, False, {}, None, interrupted=True)
    set_weights(network, trainer.averaged_weights())
    batches = held_out_batches(request.seed, held_out)
    scores = fit.evaluate(network, batches)
    card = {
        "architecture": config, "preset": request.preset, "target_fwhm_px": feed.TARGET_FWHM_PX,
        "sigma_curve": calibrate.sigma_curve(network, batches), "trained_range": feed.TRAINED_RANGE,
        "recipe": asdict(replace(recipe, steps=trainer.step)), "seed": request.seed,
        "command": _command(request, trainer.step), "pictures": len(training), "pictures_held_out": len(held_out),
        "minutes": round(spent_s / 60, 1), "curve": curve, "scores": scores,
    }  # fmt: skip
    current_scores = _current_scores(request, network, batches)
    version = models.publish(request.store, request.preset, trainer.averaged_weights(), card)
    promoted = current_scores is None or _wins(scores, current_scores)
    if promoted:
        models.promote(request.store, f"{request.preset}@{version.version}")
    models.prune(request.store, request.preset, request.keep)
    checkpoint.remove(request.run_folder)
    return Outcome(version, promoted, scores, current_scores)


def held_out_batches(seed: int, pictures: Pictures) -> list[fit.Batch]:
    """The skies that every model of a seed is judged on, one whole sky a batch."""
    batches = []
    for number in range(HELD_OUT_SKIES):
        samples = feed.simulate(seed + HELD_OUT_SEED, number, pictures)
        batches += [(s.bank[None], s.conditions[None], s.truth[None]) for s in samples]
    return batches


def _galleries(folder: Path | None) -> tuple[Pictures, Pictures]:
    if folder is None:
        return Pictures([]), Pictures([])
    gallery = survey(find_pictures(folder))
    for picture in gallery.left_out:
        logger.warning("{} is left out: {}", picture.path, picture.reason)
    if not gallery.paths:
        raise ConfigError(f"{folder}: no usable picture in it; name another folder, or train without --pictures")
    return Pictures(list(gallery.paths)).split(HELD_OUT_SHARE)


def _fit(
    trainer: fit.Trainer, request: TrainingRequest, pictures: Pictures, report
) -> tuple[list[list[float]], bool, float]:
    """Train to the end or to a signal. Returns (loss curve, whether it ended, seconds spent with earlier runs')."""
    spent_s, curve = 0.0, []
    if request.resume:
        state = checkpoint.load(request.run_folder)
        trainer.resume(state)
        spent_s, curve = float(state["spent_s"]), state["curve"].tolist()
    pool = feed.Pool(request.seed, pictures, window=WINDOW, warm=WARM_SKIES, skies_per_step=SKIES_PER_STEP, processes=1)
    pool.skip_to(trainer.step)
    started_s = saved_s = time.monotonic()
    earlier_s = spent_s
    losses: list[float] = []
    try:
        with _stop_flag() as stopped:
            while (share := _share(trainer.step, spent_s, request)) < 1 and not stopped():
                losses.append(
                    trainer.train_on(pool.batch(trainer.step, trainer.recipe.crop_px, trainer.recipe.batch), share)
                )
                now_s = time.monotonic()
                spent_s = earlier_s + now_s - started_s
                if trainer.step % REPORT_STEPS == 0:
                    curve.append([trainer.step, round(float(np.mean(losses)), 5)])
                    losses.clear()
                    report(Progress(share, trainer.step, curve[-1][1]))
                if now_s - saved_s > CHECKPOINT_S:
                    _save(trainer, request, spent_s, curve)
                    saved_s = now_s
            # also at the end: what comes next may fail, and must not cost the run
            _save(trainer, request, spent_s, curve)
            if stopped():
                logger.info("training stopped at step {}; go on with --resume", trainer.step)
    finally:
        pool.close()
    return curve, share >= 1, spent_s


def _share(step: int, spent_s: float, request: TrainingRequest) -> float:
    return step / request.steps if request.steps is not None else spent_s / (60 * request.minutes)


def _save(trainer: fit.Trainer, request: TrainingRequest, spent_s: float, curve: list[list[float]]) -> None:
    state = trainer.state() | {"spent_s": np.array(spent_s), "curve": np.array(curve)}
    checkpoint.save(request.run_folder, state)


@contextmanager
def _stop_flag() -> Iterator[Callable[[], bool]]:
    """While inside, SIGTERM and SIGINT only set a flag: the run ends after its step, with a checkpoint."""
    seen: list[int] = []
    before = {s: signal.signal(s, lambda number, frame: seen.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _current_scores(
    request: TrainingRequest, network: keras.Model, batches: list[fit.Batch]
) -> dict[str, float] | None:
    """The current model on the same skies; None where there is none or it is of another architecture."""
    try:
        card, weights = models.load_weights(models.resolve(request.store, request.preset))
    except ModelError as error:
        logger.info("no current model to compare with: {}", error)
        return None
    if card["architecture"] != architecture.PRESETS[request.preset]:
        network = architecture.build(card["architecture"])
    mine = weights_of(network)
    set_weights(network, weights)
    scores = fit.evaluate(network, batches)
    if mine.keys() == weights.keys():
        set_weights(network, mine)
    return scores


def _wins(candidate: dict[str, float], current: dict[str, float]) -> bool:
    """Better on the picture, and not worse on the whole loss, which holds the fluxes and the claimed errors."""
    return candidate["psnr"] > current["psnr"] and candidate["loss"] <= current["loss"]


def _command(request: TrainingRequest, steps: int) -> str:
    pictures = " --pictures DIR" if request.pictures else ""
    return f"stackd-train --preset {request.preset}{pictures} --steps {steps} --seed {request.seed}"
