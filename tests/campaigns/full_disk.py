"""No disk refuses for good: full, over quota, read-only or failing at any change, then well again.

    python -m tests.campaigns.full_disk [--real] [--every N] [--errors ENOSPC EROFS ...]

For every n: one set's whole run in which the n-th change of a disk is refused, once that one alone and once all from it
on until the disk is well again, with each errno. The promise: no folder of the outbox is ever half a result, no file
of the inbox is touched, no set lands in quarantine, and the set comes out by itself, once, as its first attempt.
`--real` restores real captures instead of stand-ins. Prints a table; exits 1 if the promise broke. The same on real
file systems, where those can be mounted: mounted.py.
"""

import argparse
import errno
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from stackd import logs
from stackd.disk.ledger import Ledger
from stackd.disk.outbox import published_folders, read_manifest
from stackd.errors import StackdError
from stackd.jobs.delivery import Delivery
from stackd.jobs.runner import SerialRunner
from stackd.jobs.worker import Work
from stackd.settings import load
from stackd.turn import PAUSE_S, Turn
from tests.campaigns.house import STANDIN_FOLDER, House
from tests.campaigns.refusals import Refusals

ERRORS = ("ENOSPC", "EDQUOT", "EROFS", "EIO", "EACCES")
STEP_S = 1.0
REFUSED_S, WELL_S = 45.0, 3 * PAUSE_S + 1000.0  # put off four times, a set waits 80 s
SETTINGS = {"set__settle_s": 1.0, "set__scan_interval_s": 5.0}


@dataclass(frozen=True, slots=True)
class Case:
    """One refusal."""

    error: str
    at: int
    lasting: bool


class Hours:
    """One set in a house without processes, its clock moved by hand: an hour of waiting takes no time."""

    def __init__(self, folder: Path, *, real: bool) -> None:
        self.house = House(folder, standin=not real, **SETTINGS)
        self.house.drop("M27")
        for name in ("outbox", "quarantine", ".stackd"):
            (folder / name).mkdir()
        self.settings = load(folder / "config.toml", {})
        self._work = Work() if real else Work("standin:process", "standin:load", "standin:look")
        self._now_s = 1000.0
        self._turn: Turn | None = None
        self._ledger: Ledger | None = None
        self.starts = 0

    def close(self) -> None:
        """Leave no file open."""
        if self._ledger is not None:
            self._ledger.close()
        self.house.close()

    def pass_time(self, seconds: float, *, until_done: bool = False) -> None:
        """Turns; what cannot be started yet is started again, as the service manager does."""
        for _ in range(int(seconds / STEP_S)):
            self._now_s += STEP_S
            if self._turn is None:
                self._start()
            else:
                self._turn.advance(self._now_s)
            if until_done and self.house.published() and self._turn and self._turn.trouble is None:
                return

    def _start(self) -> None:
        self.starts += 1
        try:
            self._ledger = Ledger(self.settings.folders.state)
            delivery = Delivery(self.settings, self._ledger, now=lambda: self._now_s)
            delivery.recover()
        except (OSError, StackdError):
            if self._ledger is not None:
                self._ledger.close()
            self._ledger = None
            return
        runner = SerialRunner(self._work, self._known, lambda *step: None)
        self._turn = Turn(self.settings, self._ledger, delivery, runner)

    def _known(self, digest: str) -> str | None:
        entry = self._ledger.done_with(digest) if self._ledger else None
        return entry.name if entry else None


def changes_of_a_run(folder: Path, error: str, *, real: bool) -> int:
    """How many changes one set's run asks of the disks."""
    hours = Hours(folder, real=real)
    with Refusals(folder, getattr(errno, error), 0, lasting=False) as refusals:
        hours.pass_time(REFUSED_S)
    hours.close()
    if not hours.house.audit().kept:
        raise RuntimeError(f"a run without a refusal fails: {hours.house.audit()}")
    shutil.rmtree(folder)
    return refusals.seen


def broken_by(case: Case, folder: Path, *, real: bool) -> str:
    """What of the promise one refusal broke, "" for nothing; the folder of a broken case stays."""
    hours = Hours(folder, real=real)
    what = ""
    try:
        with Refusals(folder, getattr(errno, case.error), case.at, lasting=case.lasting) as refusals:
            hours.pass_time(REFUSED_S)
            what = refusals.what
        broken = _judged(hours)
    except Exception as error:  # noqa: BLE001 - a crash is what is looked for
        broken = f"{type(error).__name__}: {error}"
    hours.close()
    if not broken:
        shutil.rmtree(folder)
    return broken and f"{case.error} at {case.at} ({what}), {'lasting' if case.lasting else 'once'}: {broken}"


def _judged(hours: Hours) -> str:
    house = hours.house
    if not (audit := house.audit(settled=False)).kept:
        return f"while refused: {audit}"
    hours.pass_time(WELL_S, until_done=True)
    hours.pass_time(10 * STEP_S)
    if not (audit := house.audit()).kept:
        return f"afterwards: {audit}"
    if any(house.quarantine.iterdir()):
        return "something is in quarantine"
    [folder] = published_folders(house.outbox)
    job = (read_manifest(folder) or {})["job"]
    return "" if job["attempt"] <= 1 + (hours.starts > 1) else f"took attempt {job['attempt']}"


def run(asked: argparse.Namespace, folder: Path) -> int:
    """The campaign; gives the number of broken promises."""
    failures: list[str] = []
    print(f"{'errno':8} {'changes':>8} {'refusals':>9} {'broken':>7} {'seconds':>8}")
    for error in asked.errors:
        began_s, before, cases = time.monotonic(), len(failures), 0
        changes = changes_of_a_run(folder / "count", error, real=asked.real)
        for at in range(1, changes + 1, asked.every):
            for lasting in (False, True):
                cases += 1
                broken = broken_by(Case(error, at, lasting), folder / f"{error}-{at}-{lasting}", real=asked.real)
                failures += [broken] if broken else []
        seconds = time.monotonic() - began_s
        print(f"{error:8} {changes:8} {cases:9} {len(failures) - before:7} {seconds:8.0f}", flush=True)
    for failure in failures[:40]:
        print(failure)
    return len(failures)


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--errors", nargs="+", default=list(ERRORS), choices=ERRORS)
    asked = parser.parse_args()
    sys.path.insert(0, str(STANDIN_FOLDER))
    logs.configure("ERROR")
    logs.logger.remove()
    folder = Path(tempfile.mkdtemp(prefix="stackd-full-disk-"))
    failures = run(asked, folder)
    if not failures:
        shutil.rmtree(folder)
    else:
        print(f"what is broken lies in {folder}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
