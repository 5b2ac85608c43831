"""Random SIGKILLs under load: no set lost, none doubled, no half result visible, no capture touched.

    python -m tests.campaigns.kills [--count 1000] [--real 40] [--seed 1]

Sets keep being dropped while the supervisor, the worker or both at once are killed at random moments, half of
them while a set is known to be at work; every 10th set is a bad one that belongs into quarantine. After the last
kill one undisturbed run must finish everything. `--count` kills with stand-in work, then `--real` with the real
pipeline (no network) on small captures. Prints who was killed, how often with a set in flight, and the audit;
exits 1 if the promise broke or less than 30 % of the kills met a set in flight.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests.campaigns.house import Audit, House, Witness

VICTIMS = {"supervisor": 0.5, "worker": 0.3, "both": 0.2}
BACKLOG = 3  # sets that wait while the killing goes on
BAD_SHARE = 0.1
FRESH_SHARE = 0.1
QUICK_RETRIES = ("--retry-delay", "0.1")
LEAST_IN_FLIGHT = 0.3
REACH = 1.3  # times the time from a start to the first result: so long do unaimed kills hold back at most
SLOWEST_SET_S = 0.4  # of a stand-in
AIMED_WAIT_S = 20.0  # for a set to be at work
FULL_AUDIT_EVERY = 100
END_S = 900.0  # for the undisturbed run at the end


class Fire:
    """One house under fire."""

    def __init__(self, house: House, rng: np.random.Generator) -> None:
        self.house, self.away = house, set[str]()
        self.killed, self.in_flight, self.starts, self.fresh_starts = Counter[str](), 0, 0, 0
        self._rng = rng
        self._reach_s = 0.0  # a kill that is not aimed falls within so long after the one before
        self._witness = Witness(house)

    def run(self, kills: int) -> Audit:
        """Kill so often, then let it finish; gives what the outbox, the ledger and the inbox say.

        The first set comes through undisturbed: how long it takes here and now sets the pace of the kills.
        """
        self._keep_loaded()
        self._start()
        began_s = time.monotonic()
        self.house.until(self.house.published, END_S)
        self._reach_s = REACH * (time.monotonic() - began_s)
        for number in range(1, kills + 1):
            self._keep_loaded()
            if self.house.process is None or self.house.process.poll() is not None:
                self._start()
            self._aim()
            self._kill()
            self._witness.look()
            if number % FULL_AUDIT_EVERY == 0 and not (audit := self.house.audit(settled=False)).kept:
                return audit
        return self._finish()

    @property
    def half_seen(self) -> list[str]:
        """What was visible in the outbox at any look and no whole result."""
        return self._witness.partial

    def _start(self) -> None:
        """A fresh interpreter, or for most of the stand-in's starts a fork of a warm one: the imports take longest."""
        self.starts += 1
        if self.house.standin and self._rng.random() >= FRESH_SHARE:
            self.house.start_quickly(*QUICK_RETRIES)
        else:
            self.fresh_starts += 1
            self.house.start(*QUICK_RETRIES)

    def _keep_loaded(self) -> None:
        """So many sets wait, new ones being dropped as old ones come out."""
        ended = len(self.house.published()) + sum((self.house.quarantine / name).is_dir() for name in self.away)
        for number in range(len(self.house.dropped), ended + BACKLOG):
            orders = {"do": "linger", "seconds": round(float(self._rng.uniform(0.0, SLOWEST_SET_S)), 3)}
            if bad := self._rng.random() < BAD_SHARE:
                orders = {"do": "refuse"}
                self.away.add(f"set{number}")
            if self.house.standin:
                self.house.drop(f"set{number}", **orders)
            else:
                self.house.drop(f"set{number}")
                if bad:
                    self.house.put(f"set{number}", f"set{number}/7.fits", b"no capture at all")

    def _aim(self) -> None:
        """Wait for the moment: any, or one with a set at work."""
        if self._rng.random() < 0.5:
            end_s = time.monotonic() + self._rng.uniform(0.0, self._reach_s)
            while time.monotonic() < end_s:
                self._witness.look()
                time.sleep(min(0.01, max(end_s - time.monotonic(), 0.0)))
            return
        end_s = time.monotonic() + max(AIMED_WAIT_S, self._reach_s)
        while not self._at_work() and time.monotonic() < end_s:
            self._witness.look()
            time.sleep(0.005)
        time.sleep(self._rng.uniform(0.0, SLOWEST_SET_S / 2))

    def _kill(self) -> None:
        victim = str(self._rng.choice(list(VICTIMS), p=list(VICTIMS.values())))
        workers = self.house.workers()
        if victim == "worker" and not workers:
            victim = "supervisor"  # there is no other yet
        self.in_flight += self._at_work()
        self.killed[victim] += 1
        if victim != "supervisor":
            self.house.kill_worker(workers)
        if victim != "worker":
            self.house.kill(workers)

    def _at_work(self) -> bool:
        """A set is at work now; what an earlier death left in staging is swept before READY."""
        return self.house.is_ready and self.house.in_flight()

    def _finish(self) -> Audit:
        if self.house.process is not None and self.house.process.poll() is None:
            self.house.kill()
        self.house.start(*QUICK_RETRIES)
        wanted = len(self.house.dropped) - len(self.away)
        self.house.until(lambda: self._witness.look() or len(self.house.published()) >= wanted, END_S)
        reports = [self.house.quarantine / name / "error.json" for name in self.away]
        self.house.until(lambda: all(one.exists() for one in reports), END_S)
        self.house.until(lambda: not self.house.in_flight(), END_S)
        self.house.ready()
        code, _ = self.house.stop()
        audit = self.house.audit(away=frozenset(self.away))
        return audit if code == 0 else Audit((f"exit code {code}",), (), (), (), ())


def campaign(folder: Path, kills: int, seed: int, *, standin: bool) -> bool:
    """One house, so many kills; prints what came of it and gives whether the promise was kept."""
    began_s = time.monotonic()
    with House(folder, standin=standin, limits__attempts=1000, limits__set_timeout_s=120.0) as house:
        fire = Fire(house, np.random.default_rng(seed))
        audit = fire.run(kills)
        seconds = time.monotonic() - began_s
        done, share = len(house.published()), fire.in_flight / max(kills, 1)
        victims = ", ".join(f"{victim} {count}" for victim, count in fire.killed.most_common())
        print(f"{'stand-in work' if standin else 'real pipeline'}: {kills} kills ({victims}) in {seconds:.0f} s,")
        starts = f"{fire.starts} starts ({fire.fresh_starts} of a fresh interpreter)"
        print(f"  {share:.0%} with a set in flight; {starts}, {done} sets done, {len(fire.away)} bad ones")
        print(f"  {audit}, {len(fire.half_seen)} seen half", *fire.half_seen[:10], sep="\n  ", flush=True)
    return audit.kept and not fire.half_seen and share >= LEAST_IN_FLIGHT


def main() -> int:
    """Exit code: 0 the promise was kept, 1 it broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--real", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the houses stand; they are kept there")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-", dir=asked.folder))
    kept = [campaign(folder / "standin", asked.count, asked.seed, standin=True)] if asked.count else []
    kept += [campaign(folder / "real", asked.real, asked.seed, standin=False)] if asked.real else []
    if asked.folder is None:
        shutil.rmtree(folder)
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
