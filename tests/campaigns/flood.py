"""Ten thousand frames at once: every set is done after, none twice, and the supervisor stays small and quick.

`python -m tests.campaigns.flood [--frames N] [--keep FOLDER]`: drops N frames (10,000), a third each in folders of
8, in folders of 80 and loose in runs of 96, into the inbox of a daemon with stand-in work: once while it runs, once
while SIGSTOP holds it and the kernel's queue of file events is full, so that every event is lost. Prints for each how
long it took, what the supervisor's memory grew by, how long one scan of the full inbox takes, and an audit of every
frame. Exit 1 if a set was lost, doubled, partial or unsettled, if the supervisor grew by more than 50 MB or a scan
computed more than 100 ms (by the clock a busy machine makes it longer; both are printed).
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from stackd.disk.inbox import scan
from tests.campaigns.house import Audit, House, standin_frame

FRAMES = 10_000
SET = 8
LOOSE_RUN = 96  # frames of one loose target: 12 sets
LARGE_FOLDER = 80  # 10 sets
MOST_GROWTH_MB = 50.0
LONGEST_SCAN_MS = 100.0
SCANS = 15
# The product's own settle time: no pause of a loaded machine while frames are dropped may part a set.
RULES = {"set__settle_s": 5.0, "set__scan_interval_s": 10.0, "limits__sets_per_worker": 1000}
QUEUE_LENGTH = Path("/proc/sys/fs/inotify/max_queued_events")
OVERFLOWED = "Inotify queue overflowed"


@dataclass(frozen=True, slots=True)
class Flood:
    """How one flood went. Times in s, memory in MB."""

    frames: int
    sets: int
    drop_s: float
    settled_s: float  # from the last frame dropped (or SIGCONT) to the first result
    done_s: float  # to the last result
    supervisor_cpu_s: float
    before_mb: float
    peak_mb: float
    after_mb: float
    scan_ms: float  # what one scan of the full inbox computes, kernel and all: the median of SCANS
    scan_wall_ms: float  # the same by the clock, other programs' turns included
    quickest_scan_ms: float  # by the clock
    overflowed: bool  # the kernel lost file events
    audit: Audit

    @property
    def growth_mb(self) -> float:
        """Of the supervisor's resident memory, at its highest."""
        return self.peak_mb - self.before_mb

    @property
    def kept(self) -> bool:
        """Whether the promise was."""
        return self.audit.kept and self.growth_mb <= MOST_GROWTH_MB and self.scan_ms <= LONGEST_SCAN_MS

    def __str__(self) -> str:
        return (
            f"{self.frames} frames dropped in {self.drop_s:.1f} s, {self.sets} sets, first done after "
            f"{self.settled_s:.1f} s, all after {self.done_s:.1f} s\n"
            f"  supervisor's CPU: {self.supervisor_cpu_s:.1f} s\n"
            f"  events lost by the kernel: {'yes' if self.overflowed else 'no'}\n"
            f"  supervisor {self.before_mb:.1f} MB before, {self.peak_mb:.1f} MB at most, {self.after_mb:.1f} MB after:"
            f" grew {self.growth_mb:.1f} MB (at most {MOST_GROWTH_MB:.0f})\n"
            f"  one scan {self.scan_ms:.0f} ms of computing (at most {LONGEST_SCAN_MS:.0f}); by the clock "
            f"{self.scan_wall_ms:.0f} ms, the quickest {self.quickest_scan_ms:.0f} ms\n"
            f"  {self.audit}"
        )


def flood(folder: Path, frames: int, *, stopped: bool, deadline_s: float = 1800.0) -> Flood:
    """One flood in a fresh folder; with `stopped` SIGSTOP holds the supervisor while the frames are dropped."""
    house = House(folder, **RULES)
    with ExitStack() as at_end:
        at_end.callback(house.close)
        supervisor = psutil.Process(house.start().pid)
        house.ready()
        house.until(lambda: supervisor.status() == psutil.STATUS_SLEEPING)
        before_mb, before_s = _now_mb(supervisor), _cpu_s(supervisor)
        if stopped:
            supervisor.suspend()
            _fill_event_queue(house.inbox)
        began_s = time.monotonic()
        drop(house, frames)
        dropped_s = time.monotonic()
        if stopped:
            supervisor.resume()
        sets = len(house.dropped)
        house.until(house.published, deadline_s)
        first_s = time.monotonic()
        house.until(lambda: len(house.published()) >= sets and not house.in_flight(), deadline_s)
        done_s = time.monotonic()
        peak_mb, after_mb, spent_s = _peak_mb(supervisor), _now_mb(supervisor), _cpu_s(supervisor)
        computed_ms, by_clock_ms = zip(*(_scan_ms(house.inbox) for _ in range(SCANS)), strict=True)
        code, _ = house.stop()
        if code != 0:
            raise RuntimeError(f"the daemon ended with {code}:\n{house.last_words()}")
        return Flood(
            frames=sum(len(one) for one in house.dropped.values()),
            sets=sets,
            drop_s=dropped_s - began_s,
            settled_s=first_s - dropped_s,
            done_s=done_s - dropped_s,
            supervisor_cpu_s=spent_s - before_s,
            before_mb=before_mb,
            peak_mb=peak_mb,
            after_mb=after_mb,
            scan_ms=statistics.median(computed_ms),
            scan_wall_ms=statistics.median(by_clock_ms),
            quickest_scan_ms=min(by_clock_ms),
            overflowed=OVERFLOWED in house.log.read_text(errors="replace"),
            audit=house.audit(),
        )


def drop(house: House, frames: int) -> None:
    """Folders and loose runs in turn, until `frames` are there."""
    left, number = frames, 0
    while left > 0:
        if number % 13 == 12:
            count = min(LOOSE_RUN, left // SET * SET)
            _drop_loose(house, f"L{number:05d}", count)
        else:
            count = min(LARGE_FOLDER if number % 13 == 6 else SET, left)
            _drop_folder(house, f"F{number:05d}", count)
        left -= count
        number += 1


def _fill_event_queue(inbox: Path) -> None:
    """So that the kernel drops every later event: each writing is an opening, a change and a closing."""
    noise = inbox / ".noise"
    for _ in range(int(QUEUE_LENGTH.read_text())):
        noise.write_bytes(b"x")
    noise.unlink()


def _drop_folder(house: House, name: str, frames: int) -> None:
    """Named as the product names them: F, F-2, F-3 ..."""
    for n in range(frames):
        set_name = name if n < SET else f"{name}-{n // SET + 1}"
        house.put(set_name, f"{name}/{n}.fits", standin_frame(n, target=name))


def _drop_loose(house: House, target: str, frames: int) -> None:
    """Named after the target and the first frame's time."""
    for n in range(frames):
        set_name = f"{target}_20260101-0000{n // SET * SET:02d}"
        house.put(set_name, f"{target}_{n}.fits", standin_frame(n, target=target))


def _scan_ms(inbox: Path) -> tuple[float, float]:
    """Computed and by the clock."""
    began_s, computed_s = time.perf_counter(), time.process_time()
    scan(inbox)
    return 1e3 * (time.process_time() - computed_s), 1e3 * (time.perf_counter() - began_s)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _now_mb(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


def _peak_mb(process: psutil.Process) -> float:
    """Of the process's whole life; the kernel counts it, so no moment is missed."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def main() -> int:
    """Exit code: 0 only if both floods kept the promise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it there")
    asked = parser.parse_args()
    kept = True
    with ExitStack() as at_end:
        folder = asked.keep or Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="stackd-flood-")))
        for stopped in (False, True):
            print("stopped by SIGSTOP meanwhile" if stopped else "running meanwhile", flush=True)
            found = flood(folder / ("stopped" if stopped else "running"), asked.frames, stopped=stopped)
            print(f"  {found}", flush=True)
            kept = kept and found.kept
    print("kept" if kept else "BROKEN")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
