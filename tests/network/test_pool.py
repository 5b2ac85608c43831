"""Batches: the seed alone decides them, however fast skies come and wherever a run was taken up again."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import psutil
import pytest

from stackd.imaging.fuse import CONDITIONS
from stackd.network import feed
from stackd.network import pool as pool_room
from stackd.network.channels import CHANNELS, MIXED
from stackd.network.feed import SKY_PX, Sample, simulate
from stackd.network.pool import Pool, full_precision, half_precision
from tests.network.nights import NoProcesses, quick_skies

CROP_PX, BATCH = 16, 3


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pool]:
    """Pools over quick skies in this process; a window of 7 skies, two skies every three steps."""
    monkeypatch.setattr(feed, "SKY_PX", 32)
    monkeypatch.setattr(feed, "simulate", quick_skies)
    monkeypatch.setattr(pool_room, "ProcessPoolExecutor", NoProcesses)

    def make(seed: int = 1, **options: float) -> Pool:
        return Pool(seed, (), **({"window": 7, "warm": 4, "skies_per_step": 2 / 3, "processes": 1} | options))

    return make


def batches(pool: Pool, steps: range) -> list[tuple[np.ndarray, ...]]:
    return [pool.batch(step, CROP_PX, BATCH) for step in steps]


def assert_same(one: list[tuple[np.ndarray, ...]], other: list[tuple[np.ndarray, ...]]) -> None:
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_the_seed_decides_the_batches(pool: Callable[..., Pool]) -> None:
    """The same seed gives the same crops, another seed others; a batch is what the trainer takes."""
    one, again, other = (batches(pool(seed), range(12)) for seed in (1, 1, 2))

    assert_same(one, again)
    assert not np.array_equal(one[0][0], other[0][0])
    bank, conditions, truth = one[0]
    assert bank.shape == (BATCH, CROP_PX, CROP_PX, CHANNELS)
    assert conditions.shape == (BATCH, CONDITIONS)
    assert truth.shape == (BATCH, CROP_PX, CROP_PX)


def test_speed_does_not_decide_the_batches(pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    """More processes, farther ahead, and results that come out of turn: the batches stay."""
    want = batches(pool(), range(12))

    class OutOfTurn(NoProcesses):
        """Does its work only when it is asked for a result, so the last submitted may be the first done."""

        def submit(self, work, *arguments):
            future = Future()
            future.result = lambda timeout=None: work(*arguments)
            return future

    monkeypatch.setattr(pool_room, "ProcessPoolExecutor", OutOfTurn)

    assert_same(batches(pool(processes=5), range(12)), want)


@pytest.mark.parametrize("step", [1, 2, 7, 20, 41])
@pytest.mark.parametrize("window", [1, 3, 7, 500])
def test_a_resumed_run_sees_the_same_batches(pool: Callable[..., Pool], step: int, window: int) -> None:
    """From any step on, whatever number of bands the skies have and whether the window is full yet or not."""
    want = batches(pool(window=window), range(step + 4))[step:]

    resumed = pool(window=window)
    resumed.skip_to(step)

    assert_same(batches(resumed, range(step, step + 4)), want)


def test_resuming_late_leaves_out_what_the_window_dropped(
    pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long run is not simulated again from its start."""
    asked: list[int] = []
    monkeypatch.setattr(feed, "simulate", lambda seed, n, pictures: asked.append(n) or quick_skies(seed, n))

    resumed = pool()
    resumed.skip_to(300)
    resumed.batch(300, CROP_PX, BATCH)

    assert min(asked) == 4 + 200 - 7
    assert len(set(asked)) == len(asked)


def test_the_window_slides(pool: Callable[..., Pool]) -> None:
    """Early skies are forgotten: no more skies are kept than the window holds, and they are the newest."""
    sliding = pool()

    for step in range(30):
        sliding.batch(step, CROP_PX, BATCH)
        assert len(sliding._bands) <= 7
        assert sum(sliding._bands) == len(sliding._samples)

    marks = [int(s.truth[0, 0]) for s in sliding._samples]
    newest = 4 + int(29 * 2 / 3) - 1
    assert marks == sorted(marks)
    assert marks[-1] == newest
    assert marks[0] == newest - 6


def test_crops_are_turned_and_flipped_together() -> None:
    """Bank and truth stay on each other, all eight ways occur, and every corner of a sky can be cut."""
    side = np.arange(SKY_PX, dtype=np.float32)
    truth = side[:, None] * 1000 + side[None, :]
    sample = Sample(np.repeat(truth[..., None], CHANNELS, 2), np.zeros(CONDITIONS, np.float32), truth)
    rng = np.random.default_rng(7)

    crops = [pool_room._crop(sample, CROP_PX, rng) for _ in range(400)]

    for bank, _, cut in crops:
        np.testing.assert_array_equal(bank, np.repeat(cut[..., None], CHANNELS, 2))
    steps = {(float(cut[1, 0] - cut[0, 0]), float(cut[0, 1] - cut[0, 0])) for _, _, cut in crops}
    assert len(steps) == 8
    assert min(cut.min() for _, _, cut in crops) < 20_000
    assert max(cut.max() for _, _, cut in crops) > 235_000


def test_whole_oblong_samples_keep_their_shape() -> None:
    """Without a crop the four ways that an oblong picture allows occur, bank and truth alike."""
    truth = np.arange(12 * 20, dtype=np.float32).reshape(12, 20)
    sample = Sample(np.repeat(truth[..., None], CHANNELS, 2), np.zeros(CONDITIONS, np.float32), truth)
    rng = np.random.default_rng(7)

    whole = [pool_room._crop(sample, None, rng) for _ in range(60)]

    for bank, _, seen in whole:
        assert seen.shape == truth.shape
        np.testing.assert_array_equal(bank, np.repeat(seen[..., None], CHANNELS, 2))
    assert {float(seen[0, 0]) for _, _, seen in whole} == {0.0, 19.0, 220.0, 239.0}


def test_real_processes_give_the_same_and_go() -> None:
    """What a simulating process makes is what is made here; once closed none is left."""
    pool = Pool(1, (), window=4, warm=1, skies_per_step=0.1, processes=1)
    try:
        bank, _, truth = pool.batch(0, SKY_PX, 1)
    finally:
        pool.close()

    samples = simulate(1, 0, ())
    light, seen = np.sort(truth[0].ravel()), np.sort(bank[0].ravel())
    assert any(np.array_equal(light, np.sort(s.truth.ravel())) for s in samples)
    assert any(np.array_equal(seen, np.sort(full_precision(half_precision(s.bank)).ravel())) for s in samples)
    deadline_s = time.monotonic() + 60
    while multiprocessing.active_children() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_half_precision_keeps_what_matters(rng: np.random.Generator) -> None:
    """Three digits, the brightest star stays finite, and a bright nebula's background is told far below its noise."""
    light = np.concatenate([rng.normal(0, 50, 1000), [3e5, -3e5, 1e-3], rng.uniform(500, 1000, 1000)])
    bank = np.repeat(light.astype(np.float32)[:, None], CHANNELS, 1)
    bank[1003:, 1:MIXED] += rng.normal(0, 1, (1000, MIXED - 1)).astype(np.float32)

    kept = full_precision(half_precision(bank))

    np.testing.assert_allclose(kept[:1000], bank[:1000], rtol=1e-3, atol=1e-6)
    assert np.isfinite(kept).all()
    assert (kept[1000] > 6e4).all()
    np.testing.assert_allclose(kept[1003:, 1:MIXED], bank[1003:, 1:MIXED], atol=0.002)


def test_waiting_is_counted(pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a trainer that starves is noticed: what skies take is the wait, what is there already costs none."""

    class Slow(NoProcesses):
        def submit(self, work, *arguments):
            future = super().submit(work, *arguments)
            ready = future.result
            future.result = lambda timeout=None: time.sleep(0.02) or ready()
            return future

    monkeypatch.setattr(pool_room, "ProcessPoolExecutor", Slow)
    one = pool()

    one.batch(0, CROP_PX, BATCH)
    assert one.waited_s >= 4 * 0.02
    before_s = one.waited_s
    one.batch(0, CROP_PX, BATCH)
    assert one.waited_s == before_s


def test_who_waits_may_look_up() -> None:
    """A sky that takes long: the caller has the word again in time, and the sky is still to come."""
    pool = Pool(1, (), window=4, warm=1, skies_per_step=0.1, processes=1, simulate=slow_sky)
    try:
        started_s = time.monotonic()
        assert not pool.fill(0, 0.05)
        assert time.monotonic() - started_s < 1
        assert pool.fill(0)
    finally:
        pool.close()


@pytest.mark.slow
def test_simulators_leave_signals_to_the_trainer_and_end_with_it(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole terminal and must not cost the checkpoint; a killed trainer leaves nothing behind."""
    told = tmp_path / "pid"
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, str(told)], cwd=Path(__file__).parents[2])
    try:
        assert eventually(lambda: told.is_file() and told.read_text())
        simulator = psutil.Process(int(told.read_text()))
        simulator.send_signal(signal.SIGINT)
        simulator.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert not gone(simulator)
        trainer.kill()
        assert eventually(lambda: gone(simulator))
    finally:
        trainer.kill()
        trainer.wait()


TRAINER = """
import sys, time
from stackd.network.pool import Pool
from tests.network.test_pool import tell_pid
if __name__ == "__main__":
    pool = Pool(1, (sys.argv[1],), window=4, warm=1, skies_per_step=0.1, processes=1, simulate=tell_pid)
    pool.fill(0)
    time.sleep(600)
"""


def tell_pid(seed: int, number: int, pictures: Sequence[str]) -> list[Sample]:
    """Says who simulates, into the file that stands for a picture."""
    Path(pictures[0]).write_text(str(os.getpid()))
    return quick_skies(seed, number)


def slow_sky(seed: int, number: int, pictures: Sequence[object]) -> list[Sample]:
    time.sleep(2)
    return quick_skies(seed, number)


def gone(process: psutil.Process) -> bool:
    """Ended, whether or not anybody has asked how."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def eventually(true: Callable[[], object], within_s: float = 60.0) -> bool:
    deadline_s = time.monotonic() + within_s
    while not true() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return bool(true())
