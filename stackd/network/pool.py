"""A sliding window over a stream of simulated skies, from which batches of crops are drawn.

The skies come from processes of their own, so that the trainer need not wait; they are kept in half precision, so that
hundreds of them fit. Knows no paths: pictures come as a sequence of arrays.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from stackd.child import belong_to_parent
from stackd.network import feed
from stackd.network.channels import MIXED
from stackd.network.feed import Sample
from stackd.network.orientation import held

Image = NDArray[np.float32]
Simulate = Callable[[int, int, Sequence[Image]], list[Sample]]
HALF_LARGEST = 65504.0  # of half precision; brighter stars, in units of noise, are beyond all that matters


class Pool:
    """Batches for a training run, the same for a seed whatever the speed of the simulator.

    Step t draws from the last `window` of the first warm + t * skies_per_step skies, so a resumed run goes on with the
    batches of one never stopped. `waited_s` is what callers have spent waiting for skies.
    """

    def __init__(
        self, seed: int, pictures: Sequence[Image], *, window: int, warm: int, skies_per_step: float, processes: int,
        simulate: Simulate | None = None,
    ) -> None:  # fmt: skip
        self._seed, self._simulate = seed, simulate
        self._window, self._warm, self._rate = window, warm, skies_per_step
        self._samples: deque[Sample] = deque()
        self._bands: deque[int] = deque()  # of each sky in the window
        self._next_sky = 0
        self._pending: dict[int, Future[list[Sample]]] = {}
        self.waited_s = 0.0
        # a spawned child inherits no TensorFlow
        self._executor = ProcessPoolExecutor(
            processes, mp_context=get_context("spawn"), initializer=_start_child, initargs=(pictures,)
        )
        self._lookahead = 8 * processes

    def batch(self, step: int, crop_px: int | None, size: int) -> tuple[Image, NDArray[np.float32], Image]:
        """(bank, conditions, truth) of `size` random crops, each flipped and turned at random; without `crop_px` of
        whole samples, flipped and turned as far as they keep their shape."""
        self.fill(step)
        rng = np.random.default_rng([self._seed, 1 << 32, step])
        return batched(_crop(self._samples[rng.integers(len(self._samples))], crop_px, rng) for _ in range(size))

    def fill(self, step: int, at_most_s: float | None = None) -> bool:
        """Wait for the skies that this step draws from, at most so long; says whether they are all there.

        Raises what went wrong where they are simulated.
        """
        count = self._warm + int(step * self._rate)
        started_s = time.monotonic()
        while self._next_sky < count:
            left_s = None if at_most_s is None else max(0.0, at_most_s - (time.monotonic() - started_s))
            if not self._take_next(left_s):
                return False
        return True

    def skip_to(self, step: int) -> None:
        """On resuming: leave out the skies that the window at this step has already dropped."""
        self._next_sky = max(0, self._warm + int(step * self._rate) - self._window)

    def close(self) -> None:
        """Stop the simulating processes."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _take_next(self, at_most_s: float | None) -> bool:
        """Move the window on by a sky, once that is simulated."""
        for ahead in range(self._next_sky, self._next_sky + self._lookahead):
            if ahead not in self._pending:
                work = _simulate_in_child, self._simulate, self._seed, ahead
                self._pending[ahead] = self._executor.submit(*work)
        sky, started_s = self._pending[self._next_sky], time.monotonic()
        try:
            bands = sky.result(at_most_s)
        except TimeoutError:
            if sky.done():
                raise  # the simulator's own
            return False
        finally:
            self.waited_s += time.monotonic() - started_s
        del self._pending[self._next_sky]
        self._samples.extend(bands)
        self._bands.append(len(bands))
        if len(self._bands) > self._window:
            for _ in range(self._bands.popleft()):
                self._samples.popleft()
        self._next_sky += 1
        return True


def half_precision(bank: Image) -> NDArray[np.float16]:
    """A bank (..., CHANNELS) in half the memory: 3 digits of values that noise has less of.

    The estimates after the plain stack are kept as what they differ from it: of a bright nebula's smooth background 3
    digits would be less than is known of it.
    """
    halves = np.clip(bank, -HALF_LARGEST, HALF_LARGEST).astype(np.float16)
    differences = bank[..., 1:MIXED] - halves[..., :1].astype(np.float32)
    halves[..., 1:MIXED] = np.clip(differences, -HALF_LARGEST, HALF_LARGEST)
    return halves


def full_precision(halves: NDArray[np.float16]) -> Image:
    """The bank that `half_precision` has packed."""
    bank = halves.astype(np.float32)
    bank[..., 1:MIXED] += bank[..., :1]
    return bank


def batched(crops: Iterable[tuple[NDArray, ...]]) -> tuple[Image, ...]:
    """Crops, a packed bank first in each, as one batch in full precision."""
    banks, *others = (np.stack(parts) for parts in zip(*crops))
    return full_precision(banks), *(part.astype(np.float32) for part in others)


def turn_at_random(rng: np.random.Generator, *, square: bool = True) -> Callable[[Image], Image]:
    """One of the eight ways to turn and flip a picture (H, W, ...), or of the four that an oblong one allows."""
    turn, flip = int(rng.integers(4)) if square else 2 * int(rng.integers(2)), bool(rng.integers(2))
    return lambda image: held(image, turn, flip)


def window_at_random(shape: tuple[int, ...], crop_px: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """A square of crop_px anywhere in a picture."""
    top, left = (int(rng.integers(0, size - crop_px + 1)) for size in shape)
    return slice(top, top + crop_px), slice(left, left + crop_px)


_pictures_of_child: Sequence[Image] = ()


def _start_child(pictures: Sequence[Image]) -> None:
    global _pictures_of_child
    belong_to_parent()
    os.nice(5)  # leaves the trainer its cores
    _pictures_of_child = pictures


def _simulate_in_child(simulate: Simulate | None, seed: int, number: int) -> list[Sample]:
    made = (simulate or feed.simulate)(seed, number, _pictures_of_child)
    # packed here, so that half as much has to cross the pipe
    return [replace(sample, bank=half_precision(sample.bank)) for sample in made]


def _crop(sample: Sample, crop_px: int | None, rng: np.random.Generator) -> tuple[Image, NDArray[np.float32], Image]:
    window = window_at_random(sample.truth.shape, crop_px, rng) if crop_px else (slice(None), slice(None))
    turned = turn_at_random(rng, square=crop_px is not None)
    return turned(sample.bank[window]), sample.conditions, turned(sample.truth[window])
