"""Thousands of sets through one daemon and the real network: nothing grows, nothing is traced anew.

`python -m tests.campaigns.soak [--sets 2000] [--per-worker 200] [--warm-up 20] [--frames 8] [--keep FOLDER]`: drops
loose sets of small captures of four sizes, a few ahead of the work, each archived when it is done, so that the inbox
stays small. After each set the worker notes its memory, handles, threads and traces of the network; the supervisor is
sampled from outside. Prints a table for each worker and the supervisor, and where a set's time goes; exit 1 if after
the warm-up (sets of each worker; a tenth of all sets for the supervisor) a worker grew by 5 % or more, the supervisor
by 2 %, handles or threads changed, the network was traced twice in a worker, or a set was lost, doubled or partial.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.campaigns.house import CHILD, House, fits_frame

SETS, PER_WORKER, WARM_UP = 2000, 200, 20
SIDES_PX = (112, 128, 144, 160)  # all smaller than a tile of the network
AHEAD = 6  # sets that wait in the inbox
SHORTEST_GENERATION = 10  # sets after the warm-up, fewer say nothing of growth
MOST_WORKER_GROWTH, MOST_SUPERVISOR_GROWTH = 0.05, 0.02
SET_DEADLINE_S = 600.0
REPOSITORY = Path(__file__).parents[2]
_LATE = 5  # samples whose median is a process's memory at one end of its time


class SoakHouse(House):
    """A daemon with the real work and an eye in its worker."""

    def __init__(self, folder: Path, per_worker: int, frames: int) -> None:
        super().__init__(
            folder,
            standin=False,
            set__frames=frames,
            set__settle_s=0.5,
            set__scan_interval_s=2.0,
            set__after="archive",
            restore__network=True,
            limits__sets_per_worker=per_worker,
        )
        self.frames = frames
        self.notes = self.folder / "worker.jsonl"

    def command(self, *options: str) -> list[str]:
        return [sys.executable, str(CHILD), "config.toml", "--process", "tests.campaigns.soak_work:process", *options]

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"PYTHONPATH": str(REPOSITORY), "STACKD_SOAK_NOTES": str(self.notes)}

    def noted(self) -> list[dict[str, Any]]:
        """One record a set, as soak_work writes them."""
        text = self.notes.read_text("utf-8") if self.notes.exists() else ""
        whole, _, _ = text.rpartition("\n")  # what stands behind it is being written
        return [json.loads(line) for line in whole.splitlines()]


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at one moment."""

    rss_mb: float
    handles: int
    threads: int


@dataclass(frozen=True, slots=True)
class Life:
    """What a process was after its warm-up and at its end."""

    samples: int
    first_mb: float
    last_mb: float
    handles: tuple[int, int]  # fewest in the two halves: a file that is open for a moment is no leak
    threads: tuple[int, int]

    @property
    def growth(self) -> float:
        """As a share."""
        return self.last_mb / self.first_mb - 1

    @property
    def is_constant(self) -> bool:
        """Whether it ended with the handles and threads that it began with."""
        return self.handles[0] == self.handles[1] and self.threads[0] == self.threads[1]

    def __str__(self) -> str:
        handles, threads = (f"{first} - {last}" for first, last in (self.handles, self.threads))
        return (
            f"{self.samples:6} {self.first_mb:9.1f} {self.last_mb:9.1f} {100 * self.growth:+8.2f} % "
            f"{handles:>9} {threads:>9}"
        )


HEADING = f"{'samples':>16} {'first MB':>9} {'last MB':>9} {'growth':>10} {'handles':>9} {'threads':>9}"


def life_of(samples: Sequence[Sample]) -> Life:
    """Of the samples after the warm-up; the ends are medians of a few."""
    return Life(
        len(samples),
        statistics.median(one.rss_mb for one in samples[:_LATE]),
        statistics.median(one.rss_mb for one in samples[-_LATE:]),
        _halves([one.handles for one in samples]),
        _halves([one.threads for one in samples]),
    )


def _halves(numbers: Sequence[int]) -> tuple[int, int]:
    middle = len(numbers) // 2
    return min(numbers[:middle]), min(numbers[middle:])


def soak(house: SoakHouse, sets: int) -> list[Sample]:
    """Restore so many sets; gives a sample of the supervisor after each."""
    supervisor = psutil.Process(house.start().pid)
    house.ready()
    samples: list[Sample] = []
    for number in range(sets + AHEAD):
        if number < sets:
            drop(house, number)
        if number >= AHEAD:
            house.until(lambda done=number - AHEAD: len(house.noted()) > done, SET_DEADLINE_S)
            with supervisor.oneshot():
                samples.append(
                    Sample(supervisor.memory_info().rss / 1e6, supervisor.num_fds(), supervisor.num_threads())
                )
    house.until(lambda: len(house.published()) >= sets and not house.in_flight(), SET_DEADLINE_S)
    house.until(lambda: not any(house.inbox.iterdir()), SET_DEADLINE_S)
    house.stop()
    return samples


def drop(house: SoakHouse, number: int) -> None:
    """A loose set of its own target: no folder is left when it is archived."""
    target = f"T{number:05d}"
    for n in range(house.frames):
        content = fits_frame(n, SIDES_PX[number % len(SIDES_PX)], OBJECT=target)
        house.put(f"{target}_10s_20260101-000000", f"{target}_{n}.fits", content)


def judge(house: SoakHouse, samples: Sequence[Sample], warm_up: int) -> bool:
    """Print the tables; whether the promise was kept."""
    workers: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for note in house.noted():
        workers[note["pid"]].append(note)
    kept = True
    print(f"{'worker':9}" + HEADING[9:] + "    traces")
    for generation, notes in enumerate(workers.values(), 1):
        warm = [Sample(one["rss_mb"], one["handles"], one["threads"]) for one in notes[warm_up:]]
        traces = max(one["traces"] for one in notes)
        if len(warm) < SHORTEST_GENERATION:
            print(f"{generation:6}    {len(notes)} sets, too few to judge; {traces} traces")
            kept = kept and traces <= 1
            continue
        life = life_of(warm)
        print(f"{generation:6}    {life} {traces:9}")
        kept = kept and life.growth < MOST_WORKER_GROWTH and life.is_constant and traces <= 1
    life = life_of(samples[max(warm_up, len(samples) // 10) :])
    print(f"supervisor{life}")
    wrong = _wrong_in_outbox(house)
    print(f"{len(house.published())} results, {len(wrong)} wrong", *wrong[:10], sep="\n  ")
    _print_steps(house.noted())
    return kept and life.growth < MOST_SUPERVISOR_GROWTH and life.is_constant and not wrong


def _wrong_in_outbox(house: SoakHouse) -> list[str]:
    """Sets that are lost, doubled or partial; the audit's eye for the inbox has nothing to see: all is archived."""
    there = house.published()
    wrong = [f"{name}: lost" for name in house.dropped.keys() - set(there)]
    wrong += [f"{name}: of no set" for name in set(there) - house.dropped.keys()]
    return wrong + [f"{name}: {why}" for name in there if (why := house.why_not_whole(house.outbox / name))]


def _print_steps(notes: Sequence[dict[str, Any]]) -> None:
    """Where a set's time goes: the median of each step."""
    steps = {name: statistics.median(one["steps_s"].get(name, 0.0) for one in notes) for name in notes[-1]["steps_s"]}
    spent = ", ".join(f"{name} {seconds:.2f}" for name, seconds in sorted(steps.items(), key=lambda one: -one[1]))
    print(f"a set takes {statistics.median(one['seconds'] for one in notes):.2f} s (median): {spent}")


def main() -> int:
    """Exit code: 0 only if the promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=SETS)
    parser.add_argument("--per-worker", type=int, default=PER_WORKER, help="limits.sets_per_worker")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="sets of each worker that do not count")
    parser.add_argument("--frames", type=int, default=8, help="captures in a set")
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it there")
    asked = parser.parse_args()
    if asked.sets <= asked.warm_up:
        parser.error(f"--sets has to be more than the {asked.warm_up} of the warm-up")
    with ExitStack() as at_end:
        folder = asked.keep or Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="stackd-soak-")))
        house = SoakHouse(folder, asked.per_worker, asked.frames)
        at_end.callback(house.close)
        began_s = time.monotonic()
        samples = soak(house, asked.sets)
        print(f"{asked.sets} sets of {asked.frames} captures in {time.monotonic() - began_s:.0f} s")
        kept = judge(house, samples, asked.warm_up)
    print("kept" if kept else "BROKEN")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
