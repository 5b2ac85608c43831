"""Training data: the seed alone decides it, however fast it comes and wherever a run was taken up again."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import pytest

from stackd.imaging.fuse import CONDITIONS
from stackd.imaging.psf import Psf
from stackd.network import feed
from stackd.network.channels import CHANNELS, MIXED
from stackd.network.feed import SKY_PX, Pool, Sample, simulate
from tests.network.nights import NoProcesses, quick_skies

CROP_PX, BATCH = 16, 3


def test_a_sky_is_its_seed_and_number() -> None:
    """The same two give the same samples to the last bit, another number or seed others."""
    one, again = simulate(3, 5, ()), simulate(3, 5, ())

    assert len(one) == len(again)
    for a, b in zip(one, again):
        for name in ("bank", "conditions", "truth"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for seed, number in ((3, 6), (4, 5)):
        assert not np.array_equal(simulate(seed, number, ())[0].truth, one[0].truth)


def test_samples_are_what_the_network_takes() -> None:
    """Shapes, float32, all finite; one band or three, of which both occur; maps in units of the stack's noise."""
    skies = [simulate(1, number, ()) for number in range(6)]

    assert {len(samples) for samples in skies} == {1, 3}
    for sample in (s for samples in skies for s in samples):
        assert sample.bank.shape == (SKY_PX, SKY_PX, CHANNELS)
        assert sample.conditions.shape == (CONDITIONS,)
        assert sample.truth.shape == (SKY_PX, SKY_PX)
        for values in (sample.bank, sample.conditions, sample.truth):
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
        assert np.median(sample.bank[..., MIXED + 2]) >= 1 - 1e-6  # depth
        off = sample.bank[..., MIXED - 1] - sample.truth  # the quietest map against the truth
        assert np.median(np.abs(off)) < 5


def test_pictures_are_used(rng: np.random.Generator) -> None:
    """With a gallery some skies show its pictures: the same number gives another sky than without."""
    gallery = [rng.random((300, 300, 3)).astype(np.float32) for _ in range(2)]

    changed = [not np.array_equal(simulate(2, n, gallery)[0].truth, simulate(2, n, ())[0].truth) for n in range(3)]

    assert any(changed)


def test_told_star_shapes_are_nearly_right() -> None:
    """As a fit gives them: some per cent off, never impossible, now and then none at all."""

    class Seen:
        psf = Psf(3.0, 3.0, 0.1, 0.4)

    rng = np.random.default_rng(6)
    told = [feed._told_psfs([Seen()] * 4, rng) for _ in range(300)]

    none = sum(t is None for t in told)
    widths = np.array([p.fwhm_px for t in told if t for p in t])
    assert 5 < none < 40
    assert np.median(widths) == pytest.approx(3.0, rel=0.02)
    assert 0.01 < np.std(np.log(widths)) < 0.1
    assert all(1.8 <= p.beta <= 8 and 0 <= p.ellipticity <= 0.5 for t in told if t for p in t)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pool]:
    """Pools over quick skies in this process; a window of 7 samples, two skies every three steps."""
    monkeypatch.setattr(feed, "SKY_PX", 32)
    monkeypatch.setattr(feed, "simulate", quick_skies)
    monkeypatch.setattr(feed, "ProcessPoolExecutor", NoProcesses)

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

    monkeypatch.setattr(feed, "ProcessPoolExecutor", OutOfTurn)

    assert_same(batches(pool(processes=5), range(12)), want)


@pytest.mark.parametrize("step", [1, 2, 7, 20, 41])
@pytest.mark.parametrize("window", [1, 3, 7, 500])
def test_a_resumed_run_sees_the_same_batches(pool: Callable[..., Pool], step: int, window: int) -> None:
    """From any step on, whatever number of samples the skies gave and whether the window is full yet or not."""
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

    assert min(asked) >= 4 + 200 - 7
    assert len(set(asked)) == len(asked)


def test_the_window_slides(pool: Callable[..., Pool]) -> None:
    """Early skies are forgotten: no more samples are kept than the window holds, and they are the newest."""
    sliding = pool()

    for step in range(30):
        sliding.batch(step, CROP_PX, BATCH)
        assert len(sliding._samples) <= 7

    marks = [int(s.truth[0, 0]) for s in sliding._samples]
    newest = 4 + int(29 * 2 / 3) - 1
    assert marks == sorted(marks)
    assert marks[-1] == newest
    assert marks[0] > newest - 8


def test_crops_are_turned_and_flipped_together() -> None:
    """Bank and truth stay on each other, all eight ways occur, and every corner of a sky can be cut."""
    side = np.arange(SKY_PX, dtype=np.float32)
    truth = side[:, None] * 1000 + side[None, :]
    sample = Sample(np.repeat(truth[..., None], CHANNELS, 2), np.zeros(CONDITIONS, np.float32), truth)
    rng = np.random.default_rng(7)

    crops = [feed._crop(sample, CROP_PX, rng) for _ in range(400)]

    for bank, _, cut in crops:
        np.testing.assert_array_equal(bank, np.repeat(cut[..., None], CHANNELS, 2))
    steps = {(float(cut[1, 0] - cut[0, 0]), float(cut[0, 1] - cut[0, 0])) for _, _, cut in crops}
    assert len(steps) == 8
    assert min(cut.min() for _, _, cut in crops) < 20_000
    assert max(cut.max() for _, _, cut in crops) > 235_000


def test_real_processes_give_the_same_and_go() -> None:
    """What a simulating process makes is what is made here; once closed none is left."""
    pool = Pool(1, (), window=4, warm=1, skies_per_step=0.1, processes=1)
    try:
        bank, _, truth = pool.batch(0, SKY_PX, 1)
    finally:
        pool.close()

    samples = simulate(1, 0, ())
    light = np.sort(truth[0].ravel())
    assert any(np.array_equal(light, np.sort(s.truth.ravel())) for s in samples)
    assert any(np.array_equal(np.sort(bank[0].ravel()), np.sort(s.bank.ravel())) for s in samples)
    deadline_s = time.monotonic() + 60
    while multiprocessing.active_children() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not multiprocessing.active_children()
