"""A training run from start to store: what is published, what wins, and what a kill leaves behind."""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from loguru import logger

from stackd.disk import checkpoint, model_store, models
from stackd.errors import ConfigError, InstanceError, ModelError
from stackd.jobs import golden, honesty, judging, training, training_loop
from stackd.jobs.loading import load_restorer
from stackd.jobs.training import train
from stackd.jobs.training_request import Outcome, Progress, TrainingRequest
from stackd.network import feed, fit, pool
from stackd.network.calibrate import AS_CLAIMED
from stackd.network.restorer import Restorer
from tests.network.nights import NoProcesses, quick_skies

Recipe = fit.Recipe


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., TrainingRequest]:
    def make(**fields: object) -> TrainingRequest:
        values = {"store": tmp_path / "models", "run_folder": tmp_path / "run", "preset": "small", "steps": 4}
        return TrainingRequest(**(values | fields))

    return make


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything small; arithmetic as it is, since the switch would stay on for all later tests."""
    for name, value in {"WARM_SKIES": 2, "WINDOW_SKIES": 3, "REPORT_STEPS": 1}.items():
        monkeypatch.setattr(training_loop, name, value)
    monkeypatch.setattr(judging, "HELD_OUT_SKIES", 1)
    monkeypatch.setattr(training, "WATCHED_SKIES", 1)
    monkeypatch.setattr(golden, "prepare_all", lambda: [quick_batch(900 + k) for k in range(2)])
    monkeypatch.setattr(golden, "judge", quick_figures)
    monkeypatch.setattr(honesty, "measured_curve", lambda card, weights: AS_CLAIMED)
    monkeypatch.setattr(fit, "use_fast_arithmetic", lambda: None)
    monkeypatch.setattr(fit, "Recipe", partial(Recipe, batch=2, crop_px=32, warm_up=2))


def quick_batch(number: int) -> fit.Batch:
    [sample, *_] = quick_skies(0, number)
    return sample.bank[None], sample.conditions[None], sample.truth[None]


def quick_figures(prepared: list[fit.Batch], restorer: Restorer) -> dict[str, float]:
    """The golden set's figures without its skies: only the PSNR tells networks apart."""
    return {"psnr": fit.evaluate(restorer._network, prepared)["psnr"], "found": 0.5, "flux_error": 0.01, "invented": 0}


def rivals_scores(outcome: Outcome) -> dict[str, float]:
    """The current model's figures on the held-out skies, by name; none without a rival."""
    if not outcome.comparison.against:
        return {}
    return {row.figure: row.current for row in outcome.comparison.rows if row.judged_on == judging.HELD_OUT}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skies out of nothing, made in this process."""
    monkeypatch.setattr(feed, "simulate", quick_skies)
    monkeypatch.setattr(pool, "ProcessPoolExecutor", NoProcesses)


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning rates that throw any network off."""
    monkeypatch.setattr(fit, "Recipe", partial(Recipe, batch=2, crop_px=32, warm_up=1, learning_rate=0.05))


@pytest.mark.usefixtures("quick")
def test_the_first_model_is_stored_and_current(request_of: Callable[..., TrainingRequest]) -> None:
    """Published, promoted as there is no other, usable as it lies there; its card tells how it came about."""
    told: list[Progress] = []

    outcome = train(request_of(seed=5), told.append)

    assert outcome.promoted
    assert rivals_scores(outcome) == {}
    assert not outcome.interrupted
    version = models.resolve(request_of().store, "small")
    assert version.version == outcome.version.version
    restorer = load_restorer(str(version.path))
    assert restorer.target_fwhm_px == feed.TARGET_FWHM_PX
    card = restorer.card
    assert card["recipe"]["steps"] == 4
    assert (card["seed"], card["preset"], card["pictures"]) == (5, "small", 0)
    assert card["scores"] == outcome.scores
    assert card["scores"].keys() == {"psnr", "psnr_plain", "loss"}
    assert "--steps 4 --seed 5" in card["command"]
    assert card["trained_range"] == feed.TRAINED_RANGE
    assert [p.step for p in told] == [1, 2, 3, 4]
    assert [p.share for p in told] == sorted(p.share for p in told)
    assert [row[0] for row in card["curve"]] == [1, 2, 3, 4]
    assert not (request_of().run_folder / checkpoint.NAME).exists()
    assert told[-1].left_s == 0
    assert all(p.left_s >= 0 for p in told)
    assert np.isfinite(told[-1].psnr)
    assert card["comparison"] == {"against": None, "promoted": True, "rows": card["comparison"]["rows"]}
    assert card["figures"]["golden set"]["found"] == 0.5
    log = request_of().store / card["log"]
    assert outcome.figure == log / "before-after.png"
    assert cv2.imread(str(outcome.figure)).shape[1] > 3 * 250
    [events] = log.glob("events.out.tfevents.*")
    assert {b"loss", b"held-out PSNR", b"share of the time waiting for skies"} <= set(
        re.findall(rb"loss|held-out PSNR|share of the time waiting for skies", events.read_bytes())
    )


@pytest.mark.usefixtures("quick")
def test_only_a_better_model_takes_over(
    request_of: Callable[..., TrainingRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worse candidate is stored and not promoted; a better one is; both are judged on the same skies."""
    store = request_of().store
    with monkeypatch.context() as patch:
        spoil(patch)
        poor = train(request_of(steps=6))
    good = train(request_of())
    with monkeypatch.context() as patch:
        spoil(patch)
        worse = train(request_of(steps=6, seed=0))

    assert (poor.promoted, good.promoted, worse.promoted) == (True, True, False)
    assert rivals_scores(good)["loss"] == pytest.approx(poor.scores["loss"], rel=1e-3)
    assert good.scores["loss"] < rivals_scores(good)["loss"]
    assert rivals_scores(worse)["psnr"] == pytest.approx(good.scores["psnr"], rel=1e-3)
    assert models.resolve(store, "small").version == good.version.version
    names = {v.version for v in models.list_versions(store) if v.name == "small"}
    assert {good.version.version, worse.version.version} <= names


@pytest.mark.usefixtures("quick")
def test_old_versions_are_pruned(request_of: Callable[..., TrainingRequest]) -> None:
    """As many are kept as asked; the current one, and the one before it, in any case."""
    trained = [train(request_of(steps=1, seed=seed, keep=1)).version.version for seed in range(4)]

    store = request_of().store
    kept = {v.version for v in models.list_versions(store) if v.name == "small"}
    before = next(models.earlier(store, "small"), None)
    served = {models.resolve(store, "small").version} | ({before.version} if before else set())
    assert kept == {trained[-1]} | served
    assert len(kept) < len(trained)


def interrupted_at(step: int, request: TrainingRequest) -> Outcome:
    def stop(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return train(request, stop)


@pytest.mark.usefixtures("quick")
def test_a_stopped_run_resumed_is_the_same_run(request_of: Callable[..., TrainingRequest], tmp_path: Path) -> None:
    """SIGTERM after step 3 of 6: a checkpoint and no model; --resume ends with the weights of a run never stopped."""
    whole = train(request_of(steps=6, store=tmp_path / "other", run_folder=tmp_path / "other run"))
    before = signal.getsignal(signal.SIGTERM)

    first = interrupted_at(3, request_of(steps=6))

    assert first.interrupted
    assert first.version is None
    assert checkpoint.load(request_of().run_folder)["step"] == 3
    assert signal.getsignal(signal.SIGTERM) is before
    assert not [v for v in models.list_versions(request_of().store) if v.name == "small"]

    told: list[Progress] = []
    second = train(request_of(steps=6, resume=True), told.append)

    assert [p.step for p in told] == [4, 5, 6]
    _, want = model_store.load_weights(whole.version)
    card, found = model_store.load_weights(second.version)
    assert found.keys() == want.keys()
    for name, values in want.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-7, err_msg=name)
    assert [row[0] for row in card["curve"]] == [1, 2, 3, 4, 5, 6]
    assert second.scores == pytest.approx(whole.scores, rel=1e-4)


@pytest.mark.usefixtures("quick")
def test_a_run_goes_on_as_it_was_begun(request_of: Callable[..., TrainingRequest], tmp_path: Path) -> None:
    """Length, pictures, seed and learning rate are those of its start, whatever the command says that goes on."""
    train(request_of(steps=1))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(3):
        picture = np.random.default_rng(n).integers(0, 255, (160, 200, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{n}.png"), cv2.GaussianBlur(picture, (0, 0), 3))
    interrupted_at(2, request_of(steps=5, seed=7, from_current=True, pictures=folder, learning_rate=3e-4))

    outcome = train(request_of(steps=None, minutes=0.001, seed=1, resume=True))

    card = load_restorer(str(outcome.version.path)).card
    assert (card["recipe"]["steps"], card["seed"]) == (5, 7)
    assert card["recipe"]["learning_rate"] == 3e-4
    assert card["pictures"] + card["pictures_held_out"] == 3
    assert card["command"].endswith(
        "--preset small --pictures DIR --from-current --learning-rate 0.0003 --steps 5 --seed 7"
    )


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("spoilt", ["another network", "an older version", "damaged"])
def test_a_checkpoint_that_cannot_be_gone_on_with_starts_anew(
    request_of: Callable[..., TrainingRequest], spoilt: str
) -> None:
    """After an update of stackd a timer's --resume must not fail week by week: told, with the file's name; trained."""
    interrupted_at(2, request_of())
    file = request_of().run_folder / checkpoint.NAME
    state = checkpoint.load(file.parent)
    if spoilt == "another network":
        state["network/stem/kernel"] = state["network/stem/kernel"][..., :1]
        checkpoint.save(file.parent, state)
    elif spoilt == "an older version":
        state["program"] = np.array("stackd 0.0.1")
        checkpoint.save(file.parent, state)
    else:
        file.write_bytes(file.read_bytes()[:1000])

    said = warnings_of(lambda: train(request_of(resume=True)))

    [line] = [line for line in said if str(file) in line]
    assert "starts anew" in line
    current = models.resolve(request_of().store, "small")
    assert load_restorer(str(current.path)).card["recipe"]["steps"] == 4


@pytest.mark.usefixtures("quick")
def test_a_run_whose_pictures_are_gone_starts_anew(request_of: Callable[..., TrainingRequest], tmp_path: Path) -> None:
    """Their folder was renamed: a timer's --resume must not ask for the old one week by week."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(2):
        picture = np.random.default_rng(n).integers(0, 255, (160, 200, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{n}.png"), cv2.GaussianBlur(picture, (0, 0), 3))
    interrupted_at(2, request_of(pictures=folder))
    renamed = folder.rename(tmp_path / "clean pictures")

    said = warnings_of(lambda: train(request_of(pictures=renamed, resume=True)))

    assert any(str(folder) in line and "starts anew" in line for line in said)
    assert not (request_of().run_folder / checkpoint.NAME).exists()


@pytest.mark.usefixtures("quick")
def test_a_run_that_went_wrong_is_not_gone_on_with(
    request_of: Callable[..., TrainingRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its checkpoint it would go wrong again, week by week: that is put aside, and the next run is a new one."""
    interrupted_at(2, request_of())
    with monkeypatch.context() as patch:
        patch.setattr(fit.Trainer, "train_on", lambda *of: float("nan"))
        with pytest.raises(ModelError, match="put aside"):
            train(request_of(resume=True))

    assert not (request_of().run_folder / checkpoint.NAME).exists()
    assert (request_of().run_folder / checkpoint.SPOILT).exists()


@pytest.mark.usefixtures("quick")
def test_one_run_of_a_preset_at_a_time(request_of: Callable[..., TrainingRequest]) -> None:
    """By hand beside the timer's: they would write over each other's checkpoints."""
    refused: list[str] = []

    def second(progress: Progress) -> None:
        try:
            train(request_of())
        except InstanceError as error:
            refused.append(str(error))

    assert train(request_of(steps=1), second).version is not None
    assert len(refused) == 1
    assert str(request_of().run_folder) in refused[0]


@pytest.mark.usefixtures("quick")
def test_an_interrupted_run_is_not_given_up_in_silence(request_of: Callable[..., TrainingRequest]) -> None:
    """Whoever forgets --resume is told what it costs."""
    interrupted_at(2, request_of())

    said = warnings_of(lambda: train(request_of(seed=1)))

    assert any("given up" in line for line in said)


def warnings_of(doing: Callable[[], object]) -> list[str]:
    told: list[str] = []
    sink = logger.add(lambda message: told.append(str(message)), level="WARNING")
    try:
        doing()
    finally:
        logger.remove(sink)
    return told


@pytest.mark.usefixtures("quick")
def test_judging_that_fails_does_not_cost_the_run(
    request_of: Callable[..., TrainingRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's disk is full after the last step: resumed, the run is judged and stored without another step."""
    with monkeypatch.context() as patch:

        def full(*arguments: object, **named: object) -> None:
            raise ModelError("no space left")

        patch.setattr(model_store, "publish", full)
        with pytest.raises(ModelError):
            train(request_of())

    told: list[Progress] = []
    outcome = train(request_of(resume=True), told.append)

    assert told == []
    assert outcome.promoted
    assert load_restorer(str(outcome.version.path)).card["recipe"]["steps"] == 4


@pytest.mark.usefixtures("quick")
def test_a_run_of_minutes_ends(request_of: Callable[..., TrainingRequest]) -> None:
    """Without a number of steps the clock decides; at least one step is taken."""
    told: list[Progress] = []

    outcome = train(request_of(steps=None, minutes=1e-4), told.append)

    assert told[0].step == 1
    assert outcome.version is not None
    assert load_restorer(str(outcome.version.path)).card["recipe"]["steps"] == told[-1].step


@pytest.mark.usefixtures("quick")
def test_no_sky_of_training_is_judged_on(
    request_of: Callable[..., TrainingRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The held-out skies are of another seed, whatever the run's."""
    seeds: list[int] = []
    monkeypatch.setattr(feed, "simulate", lambda seed, n, pictures: seeds.append(seed) or quick_skies(seed, n))

    train(request_of(steps=1, seed=3))

    assert set(seeds) == {3, 3 + judging.HELD_OUT_SEED}


@pytest.mark.usefixtures("quick")
def test_a_run_may_start_from_the_current_model(request_of: Callable[..., TrainingRequest]) -> None:
    """Gently, from where the other ended; the card names it. Without a current model it starts anew."""
    first = train(request_of(from_current=True))
    second = train(request_of(steps=1, seed=1, from_current=True))

    assert load_restorer(str(first.version.path)).card["started_from"] is None
    card, after = model_store.load_weights(second.version)
    _, before = model_store.load_weights(first.version)
    assert card["started_from"] == f"small@{first.version.version}"
    assert card["recipe"]["learning_rate"] == training.GENTLE_RATE
    assert all(np.abs(after[name] - before[name]).max() < 1e-3 for name in before)
    assert any((after[name] != before[name]).any() for name in before)


@pytest.mark.parametrize(
    ("option", "fields"),
    [
        ("--learning-rate", {"learning_rate": 1e-3}), ("--steps", {"steps": 7}), ("--resume", {"resume": True}),
        ("--from-current", {"from_current": True}),
    ],
)  # fmt: skip
def test_the_network_of_2019_is_trained_as_it_was(
    request_of: Callable[..., TrainingRequest], option: str, fields: dict[str, object]
) -> None:
    """An option that would do nothing is an error."""
    with pytest.raises(ConfigError, match=f"takes no {option}$"):
        train(request_of(**({"preset": "classic", "steps": None} | fields)))


@pytest.mark.usefixtures("quick")
def test_a_low_learning_rate_never_rises(request_of: Callable[..., TrainingRequest]) -> None:
    """Lower than the recipe's last one it stays as it is."""
    outcome = train(request_of(steps=1, learning_rate=1e-6))

    recipe = load_restorer(str(outcome.version.path)).card["recipe"]
    assert (recipe["learning_rate"], recipe["last_learning_rate"]) == (1e-6, 1e-6)


@pytest.mark.usefixtures("quick")
def test_a_current_model_of_another_make_is_not_started_from(request_of: Callable[..., TrainingRequest]) -> None:
    """One that knew fewer maps: the run starts from the one that was current before, which the daemon uses meanwhile,
    and that is its rival, too. Said in the log."""
    first = train(request_of())
    card, weights = model_store.load_weights(first.version)
    narrow = weights | {"stem/kernel": weights["stem/kernel"][:, :, 1:]}
    other = model_store.publish(request_of().store, "small", narrow, card)
    model_store.promote(request_of().store, f"small@{other.version}")
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING")

    second = train(request_of(steps=1, seed=1, from_current=True))

    logger.remove(sink)
    assert second.comparison.against == f"small@{first.version.version}"
    assert load_restorer(str(second.version.path)).card["started_from"] == f"small@{first.version.version}"
    assert any("cannot be started from: the weight stem/kernel has shape" in line for line in said)


@pytest.mark.usefixtures("quick")
def test_a_run_that_goes_wrong_leaves_the_current_model(
    request_of: Callable[..., TrainingRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that is no number ends it with an error that says so; nothing is stored."""
    current = train(request_of(steps=1))
    monkeypatch.setattr(fit.Trainer, "train_on", lambda *arguments: float("nan"))

    with pytest.raises(ModelError, match="current model stays"):
        train(request_of())

    assert models.resolve(request_of().store, "small").version == current.version.version
    assert len([v for v in models.list_versions(request_of().store) if v.name == "small"]) == 1


@pytest.mark.usefixtures("quick")
def test_weights_that_are_no_numbers_are_never_kept(
    request_of: Callable[..., TrainingRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A last step whose loss was still a number and whose gradient was not: the checkpoint of before is put aside."""
    interrupted_at(2, request_of())
    learnt = fit.Trainer.train_on

    def spoilt(trainer: fit.Trainer, *arguments: object) -> float:
        loss = learnt(trainer, *arguments)
        trainer.average[0].assign(np.full(trainer.average[0].shape, np.nan))
        return loss

    monkeypatch.setattr(fit.Trainer, "train_on", spoilt)

    with pytest.raises(ModelError, match="not all weights are numbers"):
        train(request_of(resume=True))

    aside = request_of().run_folder / checkpoint.SPOILT
    aside.rename(aside.with_name(checkpoint.NAME))
    assert checkpoint.load(aside.parent)["step"] == 2


def test_what_cannot_be_trained(request_of: Callable[..., TrainingRequest], tmp_path: Path) -> None:
    """An unknown preset, a folder without pictures, nothing to resume: said before anything is done."""
    with pytest.raises(ConfigError, match="default, small"):
        train(request_of(preset="huge"))
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ConfigError, match=r"no picture|no usable picture"):
        train(request_of(pictures=tmp_path / "pictures"))
    with pytest.raises(ConfigError, match="--resume"):
        train(request_of(resume=True))
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_real_skies_from_a_real_process(request_of: Callable[..., TrainingRequest]) -> None:
    """Simulated nights, made by a process of its own: a few steps end in a model, and no process stays."""
    outcome = train(replace(request_of(), steps=2))

    deadline_s = time.monotonic() + 60
    while multiprocessing.active_children() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not multiprocessing.active_children()
    assert outcome.promoted
    assert all(np.isfinite(v) for v in outcome.scores.values())
