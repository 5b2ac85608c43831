"""Stand-ins for what is slow in training: skies out of nothing, and a process pool that is none."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from stackd.imaging.fuse import CONDITIONS
from stackd.network import feed
from stackd.network.channels import CHANNELS, MIXED
from stackd.network.feed import Sample


def quick_skies(seed: int, number: int, pictures: Sequence[Any] = ()) -> list[Sample]:
    """Noisy stars for feed.simulate: as reproducible as the real ones, one band or three, in no time."""
    rng = np.random.default_rng([seed, number])
    bands = 3 if rng.random() < 0.3 else 1
    return [_quick_sample(rng, number) for _ in range(bands)]


def _quick_sample(rng: np.random.Generator, number: int) -> Sample:
    shape = feed.SKY_PX, feed.SKY_PX
    truth = np.where(rng.random(shape) < 0.01, rng.exponential(50, shape), 0.0)
    truth[0, 0] = number  # marks whose sky this is
    bank = truth[..., None] + rng.normal(0, 1, (*shape, CHANNELS))
    bank[..., MIXED + 1 : MIXED + 3] = 1
    return Sample(bank.astype(np.float32), rng.normal(0, 0.3, CONDITIONS).astype(np.float32), truth.astype(np.float32))


class NoProcesses:
    """ProcessPoolExecutor's face; work is done here and when it is submitted."""

    def __init__(
        self, count: int, mp_context: Any = None, initializer: Callable[..., None] | None = None, initargs: tuple = ()
    ) -> None:
        self.closed = False

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future:
        assert not self.closed
        future: Future = Future()
        future.set_result(work(*arguments))
        return future

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        self.closed = True
